"""What the methods reach on the test split, and when.

A run that stopped early is counted, and left out of the means.
"""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from configs.schema import Config
from experiments.report import tables
from experiments.studies import outcomes

Row = dict[str, Any]


def columns(
  found: Sequence[Row], rows: Sequence[Row], target: float
) -> list[tables.Column]:
  """Returns a table of losses, accuracies and the time to one of them.

  The target is a test accuracy, 0 to 1.
  """

  def runs(of: Callable[[list[Row]], str]) -> Callable[[Row], str]:
    return lambda summary: of(_own(summary, rows))

  return tables.columns(
    found,
    ('optimizer', '', lambda s: s['method']),
    ('train loss', 'nats', runs(_loss)),
    ('test accuracy', '%', runs(_accuracies)),
    ('runs', '', runs(lambda own: f'{len(_last(own))}/{len(own)}')),
    ('step', 'ms', runs(lambda own: tables.number(1e3 * _step(own), '.2f'))),
    ('step', '× base', lambda s: tables.number(s['step_ratio'], '.2f')),
    (f'to {100 * target:g} %', 's', runs(lambda own: _time(own, target))),
  )


def _own(summary: Row, rows: Sequence[Row]) -> list[Row]:
  """The runs of a method at its best rate."""
  return outcomes.at(rows, form=summary['method'], rate=summary['best_rate'])


def _last(own: Sequence[Row]) -> list[Row]:
  """The last evaluations of the runs that finished."""
  return [row['evaluations'][-1] for row in own if row['stopped'] is None]


def _loss(own: Sequence[Row]) -> str:
  losses = [row['train_loss'] for row in _last(own)]
  return tables.number(statistics.fmean(losses) if losses else None, '.1e')


def _accuracies(own: Sequence[Row]) -> str:
  return tables.spread(
    [100 * row['test_accuracy'] for row in _last(own)], '.2f'
  )


def _step(own: Sequence[Row]) -> float:
  return statistics.median(row['seconds_per_step'] for row in own)


def _time(own: Sequence[Row], target: float) -> str:
  """To the first evaluation at the target, if all that finished got there."""
  done = [row['evaluations'] for row in own if row['stopped'] is None]
  there = [
    [part['step'] for part in row if part['test_accuracy'] >= target]
    for row in done
  ]
  time = None
  if done and all(there):
    time = _step(own) * statistics.fmean(steps[0] for steps in there)
  return tables.number(time, '.2f')


def caption(config: Config) -> str:
  """Returns what a reader must know beside the table."""
  own = config.optimizer
  bound = 'off' if own.trust_region is None else own.trust_region
  return (
    f'{config.dataset.name}, {config.epochs} epochs, batch '
    f'{config.batch_size}, {len(config.methods.seeds)} seeds. GT-DDP: '
    f'terminal cost expansion {own.terminal}, value recursion {own.value}, '
    f'trust region {bound}. Means '
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
