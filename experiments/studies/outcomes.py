"""What a run of the study of the levels came to, and how the variants stand."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import ml_collections
import numpy as np

from experiments.report import charts, intervals, tables

Row = dict[str, Any]

_DECAY = 0.9
UNITS = 'steps', 'seconds'


def smooth(losses: Sequence[float]) -> list[float]:
  """Returns bias-corrected exponential averages of the losses so far."""
  mean, found = 0.0, []
  for count, loss in enumerate(losses, start=1):
    mean = _DECAY * mean + (1 - _DECAY) * loss
    found.append(mean / (1 - _DECAY**count))
  return found


def outcome(
  losses: Sequence[float],
  seconds_per_step: float,
  stopped: bool,
  epoch: int,
  target: float,
) -> Row:
  """Returns what is known of a run from the losses of its batches.

  Args:
    losses: nats, each before its step.
    seconds_per_step: median.
    stopped: whether the run ended early, at what is not finite.
    epoch: steps in an epoch.
    target: nats.

  Returns:
    What the run's line in metrics.jsonl holds, but for its name. A run that
    diverged reached nothing.
  """
  averages = smooth(losses)
  diverged = stopped or not averages[-1] <= losses[0]
  reached = None
  if not diverged:
    below = (step for step, loss in enumerate(averages, 1) if loss < target)
    reached = next(below, None)
  return {
    'steps': len(losses),
    'diverged': diverged,
    'first_loss': losses[0],
    'final_loss': None if stopped else statistics.fmean(losses[-epoch:]),
    'steps_to_target': reached,
    'seconds_to_target': None if not reached else reached * seconds_per_step,
    'seconds_per_step': seconds_per_step,
  }


def mean_loss(rows: Sequence[Row]) -> float:
  """Returns the mean of the last epoch over runs, infinite if one diverged."""
  losses = [row['final_loss'] for row in rows]
  if None in losses or any(row['diverged'] for row in rows):
    return math.inf
  return statistics.fmean(losses)


def step_ratio(rows: Sequence[Row], form: str, base: str) -> float:
  """Returns the time of a step of a variant in units of that of its base.

  Args:
    rows: of all runs.
    form: its title.
    base: that of its base.

  Returns:
    The median of the ratios run by run, as the variants took turns.
  """
  times = {
    (row['form'], row['rate'], row.get('damping'), row['seed']): row[
      'seconds_per_step'
    ]
    for row in rows
  }
  return statistics.median(
    time / times[base, *key]
    for (title, *key), time in times.items()
    if title == form
  )


def summaries(
  rows: Sequence[Row],
  variants: Sequence[str],
  rates: Sequence[float],
  classes: int,
) -> list[Row]:
  """Returns how the variants stand.

  Args:
    rows: of all runs; every variant, rate and seed is there.
    variants: their titles; the first is the base, to which times are compared.
    rates: in the order of the columns.
    classes: of the data set; half of chance is half the log of it.

  Returns:
    One summary per variant, ready for JSON.
  """
  found: list[Row] = []
  base: list[Row] = []
  for form in variants:
    own = [row for row in rows if row['form'] == form]
    at_rates = [_at_rate(at(own, form, rate), rate, classes) for rate in rates]
    best = min(at_rates, key=_rank)
    at_best = at(own, form, best['rate'])
    base = base or at_best
    stable = [part['rate'] for part in at_rates if part['stable']]
    found.append(
      {
        'form': form,
        'best': best,
        'largest_stable_rate': max(stable, default=None),
        'seconds_per_step': statistics.median(
          row['seconds_per_step'] for row in own
        ),
        **{
          f'{unit}_ratio': target_ratio(at_best, base, unit) if found else None
          for unit in UNITS
        },
        'step_ratio': step_ratio(rows, form, variants[0]),
        'rates': at_rates,
      }
    )
  return found


def at(
  rows: Sequence[Row], form: str, rate: float, damping: float | None = None
) -> list[Row]:
  """Returns the runs of a variant at a setting, by seed."""
  setting = form, rate, damping
  own = [r for r in rows if (r['form'], r['rate'], r.get('damping')) == setting]
  return sorted(own, key=lambda row: row['seed'])


def target_ratio(
  own: Sequence[Row], base: Sequence[Row], unit: str
) -> Row | None:
  """Returns what runs took to the target, over those of their base.

  Args:
    own: runs, by seed.
    base: on the same seeds.
    unit: one of ``UNITS``.

  Returns:
    See ``intervals.compared_ratio``.
  """
  values = ([row[f'{unit}_to_target'] for row in part] for part in (own, base))
  return intervals.compared_ratio(*values, whole=unit == 'steps')


def _at_rate(rows: Sequence[Row], rate: float, classes: int) -> Row:
  """One variant at one rate, over the seeds."""
  losses = [row['final_loss'] for row in rows]
  accuracies = [row['test_accuracy'] for row in rows]
  done = [row for row in rows if row['steps_to_target']]
  finite = None not in losses
  return {
    'rate': rate,
    'runs': len(rows),
    'reached': len(done),
    'diverged': sum(row['diverged'] for row in rows),
    'stable': finite and all(loss < math.log(classes) / 2 for loss in losses),
    'final_loss': statistics.fmean(losses) if finite else None,
    'test_accuracy': [part for part in accuracies if part is not None],
    'steps_to_target': [row['steps_to_target'] for row in done],
    'seconds_to_target': [row['seconds_to_target'] for row in done],
  }


def _rank(part: Row) -> tuple[float, ...]:
  """Most seeds that reached the target first, then the fewest steps."""
  mean = _mean(part['steps_to_target'])
  return -part['reached'], math.inf if mean is None else mean


def standings(found: Sequence[Row]) -> list[tables.Column]:
  """Returns the variants at their best rates as a table."""
  heads = (
    ('variant', ''),
    ('best rate', ''),
    ('reached', 'runs'),
    ('to target', 'steps'),
    ('steps', '× base'),
    ('to target', 's'),
    ('seconds', '× base'),
    ('test accuracy', '%'),
    ('stable to', 'rate'),
    ('step', 'ms'),
    ('step', '× base'),
  )
  cells = [_cells(summary) for summary in found]
  return [
    tables.Column(*head, column)
    for head, column in zip(heads, zip(*cells, strict=True), strict=True)
  ]


def _cells(summary: Row) -> list[str]:
  best = summary['best']
  known = best['reached'] > 0
  accuracies = [100 * part for part in best['test_accuracy'] if known]
  return [
    summary['form'],
    tables.number(best['rate'] if known else None, 'g'),
    f'{best["reached"]}/{best["runs"]}',
    tables.spread(best['steps_to_target'], '.0f'),
    intervals.ratio_text(summary['steps_ratio']),
    tables.spread(best['seconds_to_target'], '.2f'),
    intervals.ratio_text(summary['seconds_ratio']),
    tables.spread(accuracies, '.2f'),
    tables.number(summary['largest_stable_rate'], 'g'),
    tables.number(1e3 * summary['seconds_per_step'], '.2f'),
    tables.number(summary['step_ratio'], '.2f'),
  ]


def caption(config: ml_collections.ConfigDict) -> str:
  """Returns what a reader must know beside the table."""
  own = config.value_recursions
  return (
    f'{config.dataset.name}, {config.optimizer.base.name}, {config.epochs} '
    f'epochs, batch {config.batch_size}, {len(own.seeds)} seeds; the '
    f'number after a variant is its trust region, or the norm of the gradient '
    f'that the base is clipped at. Target: a train loss of '
    f'{own.target_loss:g} nats, as an exponential average of batch losses '
    f'(0.9). The best rate is that at which most seeds, then in the '
    f'fewest steps, reach it; steps and seconds are means over the seeds that '
    f'did, accuracies over all, ± sample standard deviation; ratios to the '
    f'base are geometric means of pairs by seed with 95 % intervals, each at '
    f'its own best rate, where all did. Seconds: steps times the median time '
    f'of a step in the same run, without compilation and evaluation. Stable: '
    f'all seeds end with an epoch below half of chance. Diverged: where a '
    f'seed stopped, how many stopped or ended above their first loss.'
  )


def final_losses(found: Sequence[Row]) -> list[tables.Column]:
  """Returns the mean train loss of the last epoch, by variant and rate."""
  columns = [tables.Column('variant', '', [s['form'] for s in found])]
  for parts in zip(*(s['rates'] for s in found), strict=True):
    cells = [
      f'diverged {part["diverged"]}/{part["runs"]}'
      if part['final_loss'] is None
      else tables.number(part['final_loss'], '.3g')
      for part in parts
    ]
    columns.append(tables.Column(f'{parts[0]["rate"]:g}', '', cells))
  return columns


def short(found: Sequence[Row], alone: Sequence[str]) -> list[str]:
  """Returns what came out, in a few sentences.

  Args:
    found: of ``summaries``.
    alone: titles of the variants without feedback; the first is the base.
  """
  ours = [s for s in found if s['form'] not in alone]

  def counts(unit: str) -> str:
    return intervals.counts([intervals.word(s[f'{unit}_ratio']) for s in ours])

  every = '; '.join(f'{unit} to the target: {counts(unit)}' for unit in UNITS)
  return [
    f'The {len(ours)} variants with feedback against the {alone[0]}, each at '
    f'the best of {len(found[0]["rates"])} rates, chosen on the seeds that '
    f'they are compared on; {every}.',
    *(line for unit in UNITS for line in _fewest(ours, unit)),
    _stable(found),
  ]


def _fewest(ours: Sequence[Row], unit: str) -> list[str]:
  """The variant that takes the least of the base's steps or seconds, if any."""
  ratios = {n: s[f'{unit}_ratio'] for n, s in enumerate(ours)}
  known = [n for n, found in ratios.items() if found]
  if not known:
    return []
  least = min(known, key=lambda n: ratios[n]['ratio'])
  form, found = ours[least], ratios[least]
  return [
    f'The fewest {unit}: *{form["form"]}* at rate {form["best"]["rate"]:g}, '
    f'× {intervals.ratio_text(found)} ({intervals.word(found)}), with a step '
    f'of {form["step_ratio"]:.2f} × that of the base.'
  ]


def _stable(found: Sequence[Row]) -> str:
  """How far the variants are stable, the furthest first."""
  variants: dict[float, list[str]] = {}
  for summary in found:
    if summary['largest_stable_rate'] is not None:
      own = variants.setdefault(summary['largest_stable_rate'], [])
      own.append(f'*{summary["form"]}*')
  if not variants:
    return 'No rate lets all seeds end below half of chance.'
  parts = '; '.join(
    f'{rate:g} of {" and ".join(variants[rate])}'
    for rate in sorted(variants, reverse=True)
  )
  return (
    f'The largest rate at which all seeds end below half of chance: {parts}.'
  )


def bars(
  found: Sequence[Row], target: float, alone: Sequence[str]
) -> list[charts.Bars]:
  """Returns what the figure shows of the variants at their best rates.

  Args:
    found: of ``summaries``.
    target: nats.
    alone: titles of the variants without feedback.
  """
  best = [summary['best'] for summary in found]
  made = []
  for unit, form in (('steps', '.0f'), ('seconds', '.2f')):
    columns = [part[f'{unit}_to_target'] for part in best]
    made.append(
      charts.Bars(
        f'To {target:g} nats, at the best rate\n(mean ± deviation over seeds)',
        unit,
        [_mean(values) for values in columns],
        [_whisker(values) for values in columns],
        [_note(part, unit, form) for part in best],
        [i for i, s in enumerate(found) if s['form'] in alone],
      )
    )
  return made


def _note(part: Row, unit: str, form: str) -> str:
  if not part['reached']:
    return 'not reached'
  text = tables.number(_mean(part[f'{unit}_to_target']), form)
  if unit == 'steps':
    text += f' at {part["rate"]:g}'
  if part['reached'] < part['runs']:
    text += f' ({part["reached"]}/{part["runs"]})'
  return text


def _mean(values: Iterable[float]) -> float | None:
  known = list(values)
  return float(np.mean(known)) if known else None


def _whisker(values: Sequence[float]) -> tuple[float, float] | None:
  if len(values) < 2:
    return None
  mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
  return mean - deviation, mean + deviation
