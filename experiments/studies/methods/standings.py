"""The tables of the study of methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from configs.schema import Config
from experiments.data import catalog
from experiments.optimizers import registry
from experiments.report import intervals, tables
from experiments.studies.methods import rankings

Row = dict[str, Any]

# Best of any method in the paper's Table 2: train loss (nats), accuracy (%).
PAPER = {
  'digits': (0.0050, 96.10),
  'mnist': (0.0240, 98.62),
  'svhn_cropped': (0.2047, 89.22),
  'cifar10': (0.0069, 74.69),
  'cifar100': (0.0054, 72.24),
}
_BEST = '*'
_ABSENT = '-'
_AT_CHANCE = 'not trained'


def caption(config: Config) -> str:
  """Returns what a reader must know beside every table."""
  own, spec = config.dataset, catalog.SPECS[config.dataset.name]
  return (
    f'{own.name} ({own.train_samples or spec.train} training and '
    f'{own.test_samples or spec.test} test samples), {config.model.name} '
    f'{tuple(config.model.widths)}, {config.epochs} epochs, batch '
    f'{config.batch_size}, seeds '
    f'{", ".join(map(str, config.methods.seeds))}. Train loss: mean of the '
    f'batches of the last epoch (nats); values are means ± sample standard '
    f'deviations over seeds. Differences are from the base alone, paired by '
    f'seed, with 95 % intervals over seeds, that is over initial values and '
    f'orders of the samples, for one test split; significant where the '
    f'interval leaves out zero, with no comparison of less than '
    f'{intervals.LEAST} seeds or of equal differences. The best rate has the '
    f'least mean train loss; the test split chooses nothing. {_VARIANTS}'
  )


_VARIANTS = (
  '`frozen`, `bellman` and `coupled` have that value recursion and the '
  'terminal cost expansion `gradient`, with the trust region '
  f'{registry.BOUND}; `gauss_newton` has that terminal cost expansion, and '
  'the value recursion `frozen`.'
)


def elsewhere(found: Sequence[Row]) -> list[Row]:
  """Returns the methods whose best rate is not that of their base."""
  return [s for s in found if s['best_rate'] != s['base_rate']]


def standings(found: Sequence[Row], part: str) -> list[tables.Column]:
  """Returns losses and accuracies beside those of the bases.

  ``part`` is 'equal' or 'tuned'.
  """
  return tables.columns(
    found,
    _NAME,
    ('rate', '', lambda s: f'{s[part]["rate"]:g}'),
    ('train loss', 'nats', lambda s: tables.losses(s[part]['losses'])),
    *intervals.columns('difference', 'nats', lambda s: s[part]['loss_gain']),
    ('accuracy', '%', lambda s: tables.accuracies(s[part]['accuracies'])),
    *intervals.columns(
      'difference', 'points', lambda s: s[part]['accuracy_gain']
    ),
  )


_NAME: tables.Spec = ('method', '', lambda s: s['method'])


def equal_caption(config: Config) -> str:
  """Returns what stands below the table of equal rates."""
  words = (
    'The rate of each pair is the best of the base alone, which is in favour '
    'of the base.'
  )
  if config.dataset.name in PAPER:
    loss, accuracy = PAPER[config.dataset.name]
    words += (
      f" The paper's best entries of any method here (Table 2; other networks "
      f'and budgets): train loss {loss:.4f}, accuracy {accuracy:.2f} %.'
    )
  return words


def tuned_caption(config: Config) -> str:
  """Returns what stands below the table of best rates."""
  counts = {
    name: len(config.methods.rates[name]) for name in config.methods.bases
  }
  words = f'Every method at the best of its {max(counts.values())} rates'
  if len(set(counts.values())) > 1:
    listed = ', '.join(f'{name} {count}' for name, count in counts.items())
    words = (
      f'Every method at the best of its rates. The budgets are **not** equal; '
      f'rates tried: {listed}'
    )
  words += '. The rate is chosen and judged on the same seeds.'
  if 'lion' in counts:
    words += ' Lion has the momentum that it was published with.'
  if 'muon' in counts:
    words += (
      ' Muon has the momentum that it was published with, takes kernels of '
      'convolutions as matrices, and leaves all that is no matrix to Adam.'
    )
  return (
    f'{words} Shampoo and SOAP are absent: no maintained package that fits '
    f'optax was found.'
  )


GRID = (
  'Mean train loss (nats) at every rate. A star marks the best of a method; at '
  'an end of the grid, a better one may lie beyond.'
)


def grid(found: Sequence[Row]) -> list[tables.Column]:
  """Returns the mean train loss at every rate."""
  columns = tables.columns(found, _NAME)
  for place in range(max(len(s['rates']) for s in found)):
    cells = []
    for s in found:
      if place >= len(s['rates']):
        cells.append(_ABSENT)
        continue
      part = s['rates'][place]
      value = tables.number(part['loss'], '.3g')
      if part['diverged']:
        value = f'diverged {part["diverged"]}/{part["runs"]}'
      mark = _BEST if part['rate'] == s['best_rate'] else ''
      cells.append(f'{value} at {part["rate"]:g}{mark}')
    columns.append(tables.Column(f'rate {place + 1}', '', cells))
  return columns


def benchmark(found: Sequence[Row]) -> list[tables.Column]:
  """Returns steps and time to the target."""
  return tables.columns(
    found,
    _NAME,
    ('rate', '', lambda s: f'{s["targets"]["rate"]:g}'),
    ('reached', 'runs', lambda s: '{reached}/{runs}'.format(**s['targets'])),
    ('median', 'steps', _median('steps', '.0f')),
    *intervals.columns('steps', '×', lambda s: s['targets']['steps_ratio']),
    ('median', 's', _median('seconds', '.3g')),
    *intervals.columns('time', '×', lambda s: s['targets']['seconds_ratio']),
    ('step', '× base', lambda s: f'{s["step_ratio"]:.2f}'),
    ('compilation', 's', lambda s: f'{s["compile_seconds"]:.1f}'),
  )


def _median(unit: str, form: str) -> Callable[[Row], str]:
  return lambda s: tables.number(s['targets'][f'median_{unit}'], form)


def target_caption(config: Config) -> str:
  """Returns what stands below ``benchmark``."""
  return (
    f'Target: {config.methods.target_loss:g} nats, as an exponential average '
    f'of batch losses (0.9). Every method at its best rate, which was chosen '
    f'by the final loss. Medians over all seeds, a run that never got there '
    f'counting as the slowest; time is steps times the median step of the '
    f'run, without compilation. Ratios are geometric means of pairs by seed '
    f'with 95 % intervals, where every run of both got there; steps that '
    f'differ by at most one on every seed do not differ significantly. The '
    f'time of a step: median of the ratios run by run.'
  )


VARIANCE = (
  'Sample standard deviation of the final train loss over the seeds, at every '
  "rate (a star: the base's best), and its ratio to that of the base with the "
  '95 % interval of Pitman and Morgan for pairs, which takes the losses for '
  f'normal; none from less than {intervals.LEAST_SPREAD} seeds. '
  f'*{_AT_CHANCE}*: one of the two did not learn (a run diverged, or the mean '
  f'loss is at least '
  f'{rankings.CHANCE:g} times that of guessing), so they are not compared; the '
  'figure leaves that one out.'
)


def deviations(found: Sequence[Row]) -> list[tables.Column]:
  """Returns standard deviations over the seeds, rate by rate."""
  rows = [
    {'method': s['method'], 'star': _BEST * (part['rate'] == s['base_rate'])}
    | part
    for s in found
    if s['method'] != s['base']
    for part in s['deviations']
  ]

  def ratio(part: Row) -> str:
    trained = part['learned'] and part['base_learned']
    return intervals.text(part, '×') if trained else _AT_CHANCE

  return tables.columns(
    rows,
    _NAME,
    ('rate', '', lambda part: f'{part["rate"]:g}{part["star"]}'),
    ('base', 'nats', lambda p: tables.number(p['base_deviation'], '.2g')),
    ('GT-DDP', 'nats', lambda p: tables.number(p['deviation'], '.2g')),
    ('ratio', '', ratio),
    ('significance', '', intervals.word),
  )
