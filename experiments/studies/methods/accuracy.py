"""What the methods reach on the test split, and when.

A run that stopped early is counted, and left out of the means.
"""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import ml_collections

from experiments.report import tables

Row = dict[str, Any]


def columns(
  found: Sequence[Row], rows: Sequence[Row], target: float
) -> list[tables.Column]:
  """Returns a table of losses, accuracies and the time to one of them.

  Args:
    found: of ``rankings.summaries``.
    rows: of all runs, with ``evaluations``.
    target: test accuracy, 0 to 1.
  """
  cells = [_cells(summary, _own(summary, rows), target) for summary in found]
  heads = (
    ('optimizer', ''),
    ('train loss', 'nats'),
    ('test accuracy', '%'),
    ('runs', ''),
    ('step', 'ms'),
    ('step', '× base'),
    (f'to {100 * target:g} %', 's'),
  )
  return [
    tables.Column(*head, column)
    for head, column in zip(heads, zip(*cells, strict=True), strict=True)
  ]


def _own(summary: Row, rows: Sequence[Row]) -> list[Row]:
  """The runs of a method at its best rate."""
  key = summary['method'], summary['best_rate']
  return [row for row in rows if (row['form'], row['rate']) == key]


def _cells(summary: Row, own: Sequence[Row], target: float) -> list[str]:
  last = [row['evaluations'][-1] for row in own if row['stopped'] is None]
  seconds = statistics.median(row['seconds_per_step'] for row in own)
  reached = [_first(row, target) for row in own if row['stopped'] is None]
  known = [step for step in reached if step is not None]
  losses = [row['train_loss'] for row in last]
  return [
    summary['method'],
    tables.number(statistics.fmean(losses) if losses else None, '.1e'),
    tables.spread([100 * row['test_accuracy'] for row in last], '.2f'),
    f'{len(last)}/{len(own)}',
    tables.number(1e3 * seconds, '.2f'),
    tables.number(summary['step_ratio'], '.2f'),
    tables.number(
      seconds * statistics.fmean(known)
      if known and len(known) == len(reached)
      else None,
      '.2f',
    ),
  ]


def _first(row: Row, target: float) -> int | None:
  """The step of the first evaluation at the target; None if there is none."""
  steps = (
    part['step']
    for part in row['evaluations']
    if part['test_accuracy'] >= target
  )
  return next(steps, None)


def caption(config: ml_collections.ConfigDict) -> str:
  """Returns what a reader must know beside the table."""
  own = config.optimizer
  bound = 'off' if own.trust_region is None else own.trust_region
  return (
    f'{config.dataset.name}, {config.epochs} epochs, batch '
    f'{config.batch_size}, {len(config.methods.seeds)} seeds. GT-DDP: '
    f'terminal {own.terminal}, value {own.value}, trust region {bound}. Means '
    f'over the runs that finished (± sample standard deviation); time per step '
    f'is a median without compilation; time to the target is without '
    f'evaluation.'
  )


def section(shown: Sequence[tables.Column], below: str) -> str:
  """Returns the part of the report."""
  table = tables.markdown(shown, below)
  figure = '![Loss and error against epochs](accuracy.png)'
  return f'\n## Accuracy\n\n{table}\n{figure}\n'


def draw(path: pathlib.Path, found: Sequence[Row], rows: Sequence[Row]) -> None:
  """Draws losses and errors against epochs."""
  tables.curves(
    path,
    [
      tables.Curve(s['method'], [row['evaluations'] for row in _own(s, rows)])
      for s in found
    ],
  )
