"""What runs of the studies came to, and how the variants stand.

Rows are those of metrics.jsonl: one a run, with the title of its variant
(``form``), its ``rate``, and its ``seed``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from configs.schema import Config
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
  """Returns what the row of a run says of the losses of its batches.

  Args:
    losses: nats, each before its step.
    seconds_per_step: median.
    stopped: whether the run ended early, at what is not finite.
    epoch: steps in an epoch.
    target: nats; a run that diverged does not reach it.
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


def best(
  rows: Sequence[Row], variant: str, keys: Sequence[str] = ('rate',)
) -> tuple[float, ...]:
  """Returns the values of keys with the least mean loss over all seeds."""
  settings = {tuple(r[k] for k in keys) for r in rows if r['form'] == variant}
  return min(
    sorted(settings),
    key=lambda values: mean_loss(
      at(rows, form=variant, **dict(zip(keys, values, strict=True)))
    ),
  )


def step_ratio(rows: Sequence[Row], variant: str, base: str) -> float:
  """Returns the time of a step of a variant in units of that of its base.

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
    if title == variant
  )


def at(rows: Sequence[Row], **labels: Any) -> list[Row]:
  """Returns the runs with these labels, by seed."""
  own = [row for row in rows if labels.items() <= row.items()]
  return sorted(own, key=lambda row: row['seed'])


def against_baseline(
  own: Sequence[Row], base: Sequence[Row], alone: bool = False
) -> Row:
  """Returns losses and accuracies by seed, and the differences from the base.

  ``alone``: the runs are those of a base itself, which has no differences.
  """
  pairs = {
    key: [intervals.of_runs(part, key) for part in (own, base)]
    for key in ('final_loss', 'test_accuracy')
  }
  losses, accuracies = pairs.values()
  return {
    'losses': losses[0],
    'accuracies': accuracies[0],
    'loss_gain': None if alone else intervals.compared(*losses),
    'accuracy_gain': None if alone else intervals.compared(*accuracies),
  }


def target_ratio(
  own: Sequence[Row], base: Sequence[Row], unit: str
) -> Row | None:
  """Returns what runs took to the target, over those of their base, by seed.

  In one of ``UNITS``; see ``intervals.compared_ratio``.
  """
  values = ([row[f'{unit}_to_target'] for row in part] for part in (own, base))
  return intervals.compared_ratio(*values, whole=unit == 'steps')


def summaries(
  rows: Sequence[Row],
  variants: Sequence[str],
  rates: Sequence[float],
  classes: int,
) -> list[Row]:
  """Returns how the variants stand, one summary each, ready for JSON.

  Args:
    rows: of all runs; every variant, rate and seed is there.
    variants: their titles; the first is the base, to which times are compared.
    rates: in the order of the columns.
    classes: of the data set; half of chance is half the log of it.
  """
  found: list[Row] = []
  base: list[Row] = []
  for variant in variants:
    at_rates = [
      _at_rate(at(rows, form=variant, rate=rate), rate, classes)
      for rate in rates
    ]
    best = min(at_rates, key=_rank)
    at_best = at(rows, form=variant, rate=best['rate'])
    base = base or at_best
    found.append(
      {
        'form': variant,
        'best': best,
        'largest_stable_rate': max(
          (part['rate'] for part in at_rates if part['stable']), default=None
        ),
        'seconds_per_step': statistics.median(
          row['seconds_per_step'] for row in at(rows, form=variant)
        ),
        **{
          f'{unit}_ratio': target_ratio(at_best, base, unit) if found else None
          for unit in UNITS
        },
        'step_ratio': step_ratio(rows, variant, variants[0]),
        'rates': at_rates,
      }
    )
  return found


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

  def of_best(key: str, form: str) -> Callable[[Row], str]:
    return lambda s: tables.spread(s['best'][key], form)

  return tables.columns(
    found,
    ('variant', '', lambda s: s['form']),
    ('best rate', '', lambda s: tables.number(_best_rate(s), 'g')),
    ('reached', 'runs', lambda s: '{reached}/{runs}'.format(**s['best'])),
    ('to target', 'steps', of_best('steps_to_target', '.0f')),
    ('steps', '× base', lambda s: intervals.text(s['steps_ratio'], '×')),
    ('to target', 's', of_best('seconds_to_target', '.2f')),
    ('seconds', '× base', lambda s: intervals.text(s['seconds_ratio'], '×')),
    ('test accuracy', '%', _accuracies),
    (
      'stable to',
      'rate',
      lambda s: tables.number(s['largest_stable_rate'], 'g'),
    ),
    ('step', 'ms', lambda s: tables.number(1e3 * s['seconds_per_step'], '.2f')),
    ('step', '× base', lambda s: tables.number(s['step_ratio'], '.2f')),
  )


def _best_rate(summary: Row) -> float | None:
  """None where no seed reached the target at any rate."""
  best: Row = summary['best']
  return best['rate'] if best['reached'] else None


def _accuracies(summary: Row) -> str:
  values = summary['best']['test_accuracy'] if _best_rate(summary) else []
  return tables.spread([100 * value for value in values], '.2f')


def caption(config: Config) -> str:
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

  def cell(part: Row) -> str:
    if part['final_loss'] is None:
      return f'diverged {part["diverged"]}/{part["runs"]}'
    return tables.number(part['final_loss'], '.3g')

  return [
    tables.Column('variant', '', [s['form'] for s in found]),
    *(
      tables.Column(f'{parts[0]["rate"]:g}', '', [*map(cell, parts)])
      for parts in zip(*(s['rates'] for s in found), strict=True)
    ),
  ]


def short(found: Sequence[Row], alone: Sequence[str]) -> list[str]:
  """Returns what came out, in a few sentences.

  ``alone`` has the titles of the variants without feedback, the base first.
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
  variant, found = ours[least], ratios[least]
  return [
    f'The fewest {unit}: *{variant["form"]}* at rate '
    f'{variant["best"]["rate"]:g}, × {intervals.text(found, "×")} '
    f'({intervals.word(found)}), with a step of '
    f'{variant["step_ratio"]:.2f} × that of the base.'
  ]


def _stable(found: Sequence[Row]) -> str:
  """How far the variants are stable, the furthest first."""
  rates = {s['largest_stable_rate'] for s in found} - {None}
  if not rates:
    return 'No rate lets all seeds end below half of chance.'
  parts = '; '.join(
    f'{rate:g} of '
    + ' and '.join(
      f'*{s["form"]}*' for s in found if s['largest_stable_rate'] == rate
    )
    for rate in sorted(rates, reverse=True)
  )
  return (
    f'The largest rate at which all seeds end below half of chance: {parts}.'
  )


def bars(
  found: Sequence[Row], target: float, alone: Sequence[str]
) -> list[charts.Bars]:
  """Returns what the figure shows of the variants at their best rates.

  ``alone`` has the titles of the variants without feedback.
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
