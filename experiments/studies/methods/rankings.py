"""How methods stand: rows of runs to summaries, by pure functions.

A method is a base alone, or the base under ``gt_ddp``. It is compared with its
base twice: at equal hyper-parameters (the rate at which the base is best), and
with each at its own best rate. Best is the least mean train loss; the test
split chooses nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.report import intervals
from experiments.studies import outcomes

Row = dict[str, Any]

# Of the loss of guessing: from here on, a method has not learned.
CHANCE = 0.95
# What methods are compared by: part of a summary, values.
CRITERIA = {
  'train loss': ('tuned', 'losses'),
  'test accuracy': ('tuned', 'accuracies'),
  'steps to the target': ('targets', 'steps'),
  'seconds to the target': ('targets', 'seconds'),
}


def summaries(
  rows: Sequence[Row], bases: Mapping[str, str], classes: int
) -> list[Row]:
  """Returns how the methods stand: one summary each, ready for JSON.

  Args:
    rows: of all runs; every method, rate of its base, and seed is there.
    bases: of every method, its base alone, which is a method too.
    classes: of the data set; chance is a loss of the log of it.
  """
  best = {title: outcomes.best(rows, title)[0] for title in bases}
  found = []
  for title, base in bases.items():
    tried = _tried(rows, title)
    reference = outcomes.at(rows, form=base, rate=best[base])
    own = outcomes.at(rows, form=title, rate=best[title])
    equal = outcomes.at(rows, form=title, rate=best[base])
    alone = title == base
    found.append(
      {
        'method': title,
        'base': base,
        'best_rate': best[title],
        'base_rate': best[base],
        # A better rate may lie beyond those that were tried.
        'at_edge': len(tried) > 1 and best[title] in (tried[0], tried[-1]),
        'rates': _rates(rows, title),
        'equal': _standing(equal, reference, alone),
        'tuned': _standing(own, reference, alone),
        'targets': _targets(own, reference, alone),
        'step_ratio': outcomes.step_ratio(rows, title, base),
        'compile_seconds': statistics.median(
          row['compile_seconds'] for row in rows if row['form'] == title
        ),
        'deviations': _deviations(rows, title, base, classes),
      }
    )
  return found


def champions(found: Sequence[Row]) -> list[Row]:
  """Returns, by criterion, the best without feedback against the best with.

  The two methods, their values, and the interval of ours against the other; no
  criterion where one of the two has no method that got there on every seed.
  """
  made = []
  for name, (part, key) in CRITERIA.items():
    # The test split chooses nothing: accuracies are those of the least loss.
    chosen = 'losses' if part == 'tuned' else key
    sides = []
    for alone in (True, False):
      able = [
        s
        for s in found
        if (s['method'] == s['base']) is alone and None not in s[part][chosen]
      ]
      sides.append(
        min(able, key=lambda s: _middle(s, part, chosen), default=None)
      )
    plain, ours = sides
    if plain is None or ours is None:
      continue
    values = ours[part][key], plain[part][key]
    made.append(
      {
        'criterion': name,
        'plain': plain['method'],
        'ours': ours['method'],
        'plain_value': _middle(plain, part, key),
        'our_value': _middle(ours, part, key),
        'gain': intervals.compared_ratio(*values, whole=key == 'steps')
        if part == 'targets'
        else intervals.compared(*values),
      }
    )
  return made


def _middle(summary: Row, part: str, key: str) -> float:
  """Mean of losses and accuracies, median of what it took to the target."""
  values: list[float] = summary[part][key]
  if part == 'targets':
    return float(statistics.median(values))
  return statistics.fmean(values)


def _tried(rows: Sequence[Row], title: str) -> list[float]:
  return sorted({row['rate'] for row in outcomes.at(rows, form=title)})


def _rates(rows: Sequence[Row], title: str) -> list[Row]:
  """Mean loss by rate; None where a run diverged."""
  found = []
  for rate in _tried(rows, title):
    own = outcomes.at(rows, form=title, rate=rate)
    mean = outcomes.mean_loss(own)
    found.append(
      {
        'rate': rate,
        'runs': len(own),
        'diverged': sum(row['diverged'] for row in own),
        'loss': mean if math.isfinite(mean) else None,
      }
    )
  return found


def _standing(own: Sequence[Row], base: Sequence[Row], alone: bool) -> Row:
  """A method at one rate, beside the base at one."""
  return {
    'rate': own[0]['rate'],
    'runs': len(own),
    'diverged': sum(row['diverged'] for row in own),
    **outcomes.against_baseline(own, base, alone),
  }


def _targets(own: Sequence[Row], base: Sequence[Row], alone: bool) -> Row:
  """What a method took to the target, beside its base; medians over seeds."""
  made: Row = {
    'rate': own[0]['rate'],
    'runs': len(own),
    'reached': sum(row['steps_to_target'] is not None for row in own),
    'base_reached': sum(row['steps_to_target'] is not None for row in base),
  }
  for unit in outcomes.UNITS:
    ours = [row[f'{unit}_to_target'] for row in own]
    # A run that never gets there takes longer than all that do.
    median = statistics.median(math.inf if v is None else v for v in ours)
    made[unit] = ours
    made[f'median_{unit}'] = median if math.isfinite(median) else None
    made[f'{unit}_ratio'] = (
      None if alone else outcomes.target_ratio(own, base, unit)
    )
  return made


def _deviations(
  rows: Sequence[Row], title: str, base: str, classes: int
) -> list[Row]:
  """Standard deviations of the final loss over seeds, rate by rate.

  Runs that learned nothing hardly differ, which is no merit: they are not
  compared.
  """
  made = []
  for rate in _tried(rows, title):
    runs = [outcomes.at(rows, form=t, rate=rate) for t in (title, base)]
    losses = [intervals.of_runs(own, 'final_loss') for own in runs]
    ours, theirs = (_deviation(values) for values in losses)
    learned, base_learned = (
      outcomes.mean_loss(own) < CHANCE * math.log(classes) for own in runs
    )
    part: Row = {
      'rate': rate,
      'deviation': ours,
      'base_deviation': theirs,
      'learned': learned,
      'base_learned': base_learned,
    }
    found = None
    if title != base and learned and base_learned:
      found = intervals.deviation_ratio(*losses)
    if found is None:
      part['ratio'] = None
    else:
      word = intervals.significance(found['low'], found['high'], 1.0)
      part |= {**found, 'significance': word}
    made.append(part)
  return made


def _deviation(values: intervals.Values) -> float | None:
  known = [value for value in values if value is not None]
  if len(known) < len(values) or len(known) < 2:
    return None
  return statistics.stdev(known)
