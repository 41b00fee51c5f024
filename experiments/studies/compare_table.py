"""Runs on their way, and how their optimizers stand.

A run that stopped early is counted and named, and left out of the means.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import ml_collections

from experiments.report import tables
from experiments.training import loop, programs

Summary = dict[str, Any]


class Contender(NamedTuple):
  """One optimizer.

  Attributes:
    title: its name.
    base: that of its base.
    program: what trains with it.
    advice: which keys to change where it diverges.
  """

  title: str
  base: str
  program: programs.Program
  advice: str


@dataclasses.dataclass(eq=False)
class Track:
  """One run on its way: a contender and a seed."""

  contender: Contender
  seed: int
  rows: Iterator[loop.Row]
  logged: list[loop.Row] = dataclasses.field(default_factory=list)
  status: str = 'interrupted'

  def advance(self) -> loop.Row | None:
    """Trains for one interval; None once the run has ended."""
    try:
      row = next(self.rows)
    except StopIteration:
      self.status = 'finished'
      return None
    except loop.NonFiniteError as error:
      self.status = str(error)
      return None
    self.logged.append(row)
    return row


def summaries(tracks: Sequence[Track], target: float) -> list[Summary]:
  """Returns how the contenders stand.

  Args:
    tracks: all runs.
    target: test accuracy, 0 to 1.

  Returns:
    One summary per contender, ready for JSON.
  """
  found: dict[str, Summary] = {}
  for track in tracks:
    title, base, program, _ = track.contender
    summary = found.setdefault(
      title,
      {
        'optimizer': title,
        'base': base,
        'compile_seconds': program.compile_seconds,
        'runs': [],
      },
    )
    outcome = {'seed': track.seed, 'status': track.status}
    outcome |= loop.last_evaluation(track.logged)
    outcome['steps_to_target'] = next(
      (
        row['step']
        for row in track.logged
        if 'test_accuracy' in row and row['test_accuracy'] >= target
      ),
      None,
    )
    summary['runs'].append(outcome)
  times = {
    summary['optimizer']: {
      (track.seed, row['step']): row['seconds_per_step']
      for track in tracks
      for row in track.logged
      if track.contender.title == summary['optimizer'] and 'batch_loss' in row
    }
    for summary in found.values()
  }
  for title, summary in found.items():
    own, other = times[title], times[summary['base']]
    summary['seconds_per_step'] = _median(own.values())
    # Interval by interval, as the two took turns.
    ratios = [own[place] / other[place] for place in own if place in other]
    summary['step_ratio'] = _median(ratios)
  return list(found.values())


def _median(values: Iterable[float]) -> float | None:
  known = list(values)
  return statistics.median(known) if known else None


def columns(
  contenders: Sequence[Summary], target: float
) -> list[tables.Column]:
  """Returns a table of ``summaries``."""
  cells = [_cells(summary) for summary in contenders]
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


def _cells(summary: Summary) -> list[str]:
  """A row of the table; runs that did not finish are counted, not averaged."""
  done = [run for run in summary['runs'] if run['status'] == 'finished']
  seconds = summary['seconds_per_step']
  reached = [run['steps_to_target'] for run in done]
  to_target = None
  if done and None not in reached:
    to_target = seconds * statistics.fmean(reached)
  mean_loss = None
  if done:
    mean_loss = statistics.fmean(run['train_loss'] for run in done)
  return [
    summary['optimizer'],
    tables.number(mean_loss, '.1e'),
    tables.spread([100 * run['test_accuracy'] for run in done], '.2f'),
    f'{len(done)}/{len(summary["runs"])}',
    tables.number(1e3 * seconds, '.2f'),
    tables.number(summary['step_ratio'], '.2f'),
    tables.number(to_target, '.2f'),
  ]


def caption(config: ml_collections.ConfigDict) -> str:
  """Returns what a reader must know beside the table."""
  form = config.optimizer
  bound = form.trust_region
  return (
    f'{config.dataset.name}, {config.epochs} epochs, batch '
    f'{config.batch_size}, {len(config.compare.seeds)} seeds. GT-DDP: '
    f'terminal {form.terminal}, value {form.value}, trust region '
    f'{"off" if bound is None else bound}. Means over the runs that finished '
    f'(± sample standard deviation); time per step is a median without '
    f'compilation; time to the target is without evaluation.'
  )
