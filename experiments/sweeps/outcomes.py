"""What the runs of a sweep came to, and the table of it."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from configs import sweeps
from experiments.report import tables
from experiments.runs import run_folder
from experiments.sweeps import plan
from experiments.training import session

FINISHED, DIVERGED, MISSING = 'finished', 'diverged', 'not finished'


class Outcome(NamedTuple):
  """What one run came to."""

  run: plan.Run  # which
  # ``FINISHED``, ``DIVERGED`` (it stopped at a number that is not finite, and
  # would again) or ``MISSING``
  status: str
  metrics: Mapping[str, float]  # by name; empty unless finished


def outcome(run: plan.Run, path: pathlib.Path) -> Outcome:
  """Reads what a run came to, in a folder that need not exist."""
  folder = run_folder.RunFolder(path)
  result = folder.result()
  if not isinstance(result, dict) or result['status'] == 'interrupted':
    return Outcome(run, MISSING, {})
  if result['status'] != session.FINISHED:
    return Outcome(run, DIVERGED, {})
  found: dict[str, Any] = {}
  for row in folder.rows():
    found |= row
  found |= result
  found['best_test_accuracy'] = result.get('best', {}).get('test_accuracy')
  return Outcome(
    run,
    FINISHED,
    {
      name: found[name]
      for name in sweeps.METRICS
      if found.get(name) is not None
    },
  )


def by_setting(
  outcomes: Sequence[Outcome],
) -> Iterator[tuple[Mapping[str, Any], list[Outcome]]]:
  """Yields the values of the axes, and the outcomes of all seeds with them."""
  groups: dict[str, list[Outcome]] = {}
  for one in outcomes:
    groups.setdefault(repr(one.run.values), []).append(one)
  for group in groups.values():
    yield group[0].run.values, group


def columns(
  outcomes: Sequence[Outcome], metrics: Sequence[str]
) -> list[tables.Column]:
  """Returns the table: a row per setting, means over the finished seeds."""
  groups = list(by_setting(outcomes))
  found = [
    tables.Column(name, '', [str(values[name]) for values, _ in groups])
    for name in groups[0][0]
  ]
  states = [[one.status for one in group] for _, group in groups]
  found.append(
    tables.Column('runs', '', [f'{s.count(FINISHED)}/{len(s)}' for s in states])
  )
  for metric in metrics:
    cells = []
    for _, group in groups:
      known = [o.metrics[metric] for o in group if metric in o.metrics]
      cells.append(tables.spread(known, '.4g'))
    found.append(tables.Column(metric, sweeps.METRICS[metric], cells))
  return found


def page(
  title: str,
  outcomes: Sequence[Outcome],
  metrics: Sequence[str],
  reasons: Mapping[str, str],
) -> str:
  """Returns the results as Markdown, with a column for each of the metrics.

  ``reasons`` says why runs are missing, by their names.
  """
  caption = (
    'Means over the seeds whose run finished (± sample standard deviation).'
  )
  if 'compile_seconds' in metrics:
    caption += (
      ' Runs of one program share its compilation: the first takes longer.'
    )
  lines = [
    f'# {title}',
    '',
    tables.markdown(columns(outcomes, metrics), caption),
    '![The metric over the axes](sweep.png)',
    '',
  ]
  for one in outcomes:
    if one.status != FINISHED:
      reason = reasons.get(one.run.name, '')
      lines.append(f'- {one.status}: `{one.run.name}` {reason}'.rstrip())
  return '\n'.join(lines).rstrip() + '\n'


def as_json(outcomes: Sequence[Outcome]) -> str:
  """Returns one object per run, to be read by other programs."""
  rows = [
    {
      'run': one.run.name,
      'values': one.run.values,
      'seed': one.run.seed,
      'status': one.status,
      'metrics': one.metrics,
    }
    for one in outcomes
  ]
  return json.dumps(rows, indent=2) + '\n'
