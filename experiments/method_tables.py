"""The report of the study of methods: tables, and what they say in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ml_collections

from experiments import catalog, paired, report

Row = dict[str, Any]

# Best of any method in the paper's Table 2: train loss (nats), accuracy (%).
PAPER = {
  'digits': (0.0050, 96.10),
  'mnist': (0.0240, 98.62),
  'svhn_cropped': (0.2047, 89.22),
  'cifar10': (0.0069, 74.69),
  'cifar100': (0.0054, 72.24),
}
_EDGE = '*'
_ABSENT = '-'


class _Comparison:
  """One question asked of every form with feedback, against its base."""

  def __init__(self, title: str, part: str, key: str, unit: str):
    self.title, self.part, self.key, self.unit = title, part, key, unit

  def of(self, summary: Row) -> Row | None:
    """The interval and its verdict; None where there is none."""
    found: Row | None = summary[self.part][self.key]
    return found


_COMPARISONS = (
  _Comparison('train loss, equal', 'equal', 'loss_gain', 'nats'),
  _Comparison('accuracy, equal', 'equal', 'accuracy_gain', 'points'),
  _Comparison('train loss, tuned', 'tuned', 'loss_gain', 'nats'),
  _Comparison('accuracy, tuned', 'tuned', 'accuracy_gain', 'points'),
  _Comparison('steps to the target', 'targets', 'steps_ratio', '×'),
  _Comparison('seconds to the target', 'targets', 'seconds_ratio', '×'),
)


def text(
  config: ml_collections.ConfigDict,
  found: Sequence[Row],
  against: Sequence[Row],
) -> str:
  """Returns the report without its command, configuration and versions.

  Args:
    config: of the study.
    found: of ``rankings.summaries``.
    against: of ``rankings.champions``.
  """
  return '\n'.join(
    [
      f'# The methods on {config.dataset.name}',
      '',
      caption(config),
      '',
      "## At equal hyper-parameters: the paper's Table 2",
      '',
      report.markdown(standings(found, 'equal'), _equal(config)),
      '![Training curves](curves.png)',
      '',
      '## Each tuned by the same budget',
      '',
      report.markdown(standings(found, 'tuned'), _tuned(config)),
      report.markdown(_grid(found), 'Mean train loss (nats) at every rate.'),
      '## To the target',
      '',
      report.markdown(_benchmark(found), _to_target(config)),
      '![Steps and time to the target](targets.png)',
      '',
      '## Over the seeds',
      '',
      report.markdown(_deviations(found), _VARIANCE),
      '![Standard deviations over seeds](variance.png)',
      '',
      '## Where GT-DDP loses',
      '',
      *_losses(found, against),
      '',
    ]
  )


def caption(config: ml_collections.ConfigDict) -> str:
  """Returns what a reader must know beside every table."""
  samples = [
    config.dataset[f'{split}_samples'] or size
    for split, size in zip(
      ('train', 'test'), _sizes(config.dataset.name), strict=True
    )
  ]
  return (
    f'{config.dataset.name} ({samples[0]} training and {samples[1]} test '
    f'samples), {config.model.name} {tuple(config.model.widths)}, '
    f'{config.epochs} epochs, batch {config.batch_size}, seeds '
    f'{", ".join(map(str, config.methods.seeds))}. Train loss: mean of the '
    f'batches of the last epoch (nats); values are means ± sample standard '
    f'deviations over seeds. Differences are from the base alone, paired by '
    f'seed, with 95 % intervals; *better* and *worse* stand where the interval '
    f'leaves out zero. The best rate has the least mean train loss; the test '
    f'split chooses nothing.'
  )


def _sizes(name: str) -> tuple[int, int]:
  spec = catalog.SPECS[name]
  return spec.train, spec.test


def standings(found: Sequence[Row], part: str) -> list[report.Column]:
  """Returns losses and accuracies beside those of the bases.

  Args:
    found: of ``rankings.summaries``.
    part: 'equal' or 'tuned'.
  """
  rows = [summary[part] for summary in found]
  edges = [part == 'tuned' and summary['at_edge'] for summary in found]
  losses, accuracies = (
    [row[key] for row in rows] for key in ('loss_gain', 'accuracy_gain')
  )
  return [
    _names(found),
    report.Column(
      'rate',
      '',
      [
        f'{row["rate"]:g}{_EDGE if edge else ""}'
        for row, edge in zip(rows, edges, strict=True)
      ],
    ),
    report.Column('train loss', 'nats', [_loss(row) for row in rows]),
    report.Column('difference', 'nats', [_gain(g, 1, '.2g') for g in losses]),
    report.Column('verdict', '', [_verdict(g) for g in losses]),
    report.Column('accuracy', '%', [_accuracy(row) for row in rows]),
    report.Column(
      'difference', 'points', [_gain(g, 100, '.2f') for g in accuracies]
    ),
    report.Column('verdict', '', [_verdict(g) for g in accuracies]),
  ]


def _names(found: Sequence[Row]) -> report.Column:
  return report.Column('method', '', [s['method'] for s in found])


def _loss(row: Row) -> str:
  if row['diverged']:
    return f'diverged {row["diverged"]}/{row["runs"]}'
  return report.spread(row['losses'], '.3g')


def _accuracy(row: Row) -> str:
  values = row['accuracies']
  if None in values:
    return _ABSENT
  return report.spread([100 * value for value in values], '.2f')


def _gain(gain: Row | None, scale: float, form: str) -> str:
  if gain is None or 'mean' not in gain:
    return _ABSENT
  mean, half = scale * gain['mean'], scale * gain['half_width']
  return f'{mean:+{form}} ± {half:{form}}'


def _ratio(ratio: Row | None) -> str:
  if ratio is None or ratio['ratio'] is None:
    return _ABSENT
  digits = 2
  # An interval that leaves out 1 shows that it does.
  while digits < 6 and ratio['verdict'] != paired.OPEN:
    if 1 not in (round(ratio['low'], digits), round(ratio['high'], digits)):
      break
    digits += 1
  middle, low, high = (
    f'{ratio[key]:.{digits}f}' for key in ('ratio', 'low', 'high')
  )
  return f'{middle} [{low}, {high}]'


def _verdict(gain: Row | None) -> str:
  return _ABSENT if gain is None else gain.get('verdict', _ABSENT)


def _equal(config: ml_collections.ConfigDict) -> str:
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


def _tuned(config: ml_collections.ConfigDict) -> str:
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
  return (
    f'{words}; a star marks an end of the grid, beyond which a better one may '
    f'lie. The rate is chosen and judged on the same seeds. Lion and Muon have '
    f'the momentum that they were published with; Muon takes kernels of '
    f'convolutions as matrices and leaves vectors to Adam. Shampoo and SOAP '
    f'are absent: no maintained package that fits optax was found.'
  )


def _grid(found: Sequence[Row]) -> list[report.Column]:
  columns = [_names(found)]
  for place in range(max(len(s['rates']) for s in found)):
    cells = []
    for parts in (s['rates'] for s in found):
      if place >= len(parts):
        cells.append(_ABSENT)
        continue
      part = parts[place]
      value = report.number(part['loss'], '.3g')
      if part['diverged']:
        value = f'diverged {part["diverged"]}/{part["runs"]}'
      cells.append(f'{value} at {part["rate"]:g}')
    columns.append(report.Column(f'rate {place + 1}', '', cells))
  return columns


def _benchmark(found: Sequence[Row]) -> list[report.Column]:
  rows = [summary['targets'] for summary in found]
  return [
    _names(found),
    report.Column('rate', '', [f'{row["rate"]:g}' for row in rows]),
    report.Column(
      'reached', 'runs', [f'{row["reached"]}/{row["runs"]}' for row in rows]
    ),
    report.Column(
      'median', 'steps', [report.number(r['median_steps'], '.0f') for r in rows]
    ),
    report.Column('steps', '× base', [_ratio(r['steps_ratio']) for r in rows]),
    report.Column('verdict', '', [_verdict(r['steps_ratio']) for r in rows]),
    report.Column(
      'median', 's', [report.number(r['median_seconds'], '.3g') for r in rows]
    ),
    report.Column('time', '× base', [_ratio(r['seconds_ratio']) for r in rows]),
    report.Column('verdict', '', [_verdict(r['seconds_ratio']) for r in rows]),
    report.Column('step', '× base', [f'{s["step_ratio"]:.2f}' for s in found]),
    report.Column(
      'compilation', 's', [f'{s["compile_seconds"]:.1f}' for s in found]
    ),
  ]


def _to_target(config: ml_collections.ConfigDict) -> str:
  return (
    f'Target: {config.methods.target_loss:g} nats, as an exponential average '
    f'of batch losses (0.9). Every method at its best rate, which was chosen '
    f'by the final loss. Medians over all seeds, a run that never got there '
    f'counting as the slowest; time is steps times the median step of the '
    f'run, without compilation. Ratios are geometric means of pairs by seed '
    f'with 95 % intervals, where every run of both got there. The time of a '
    f'step: median of the ratios run by run.'
  )


_VARIANCE = (
  'Sample standard deviation of the final train loss over the seeds, at every '
  "rate (a star: the base's best), and its ratio to that of the base with the "
  '95 % interval of Pitman and Morgan for pairs, which takes the losses for '
  'normal.'
)


def _deviations(found: Sequence[Row]) -> list[report.Column]:
  rows = [
    (summary, part)
    for summary in found
    if summary['method'] != summary['base']
    for part in summary['deviations']
  ]
  return [
    report.Column('method', '', [summary['method'] for summary, _ in rows]),
    report.Column(
      'rate',
      '',
      [
        f'{part["rate"]:g}{_EDGE if part["rate"] == s["base_rate"] else ""}'
        for s, part in rows
      ],
    ),
    *(
      report.Column(
        head, 'nats', [report.number(part[key], '.2g') for _, part in rows]
      )
      for head, key in (('base', 'base_deviation'), ('GT-DDP', 'deviation'))
    ),
    report.Column('ratio', '', [_ratio(part) for _, part in rows]),
    report.Column('verdict', '', [_verdict(part) for _, part in rows]),
  ]


def _losses(found: Sequence[Row], against: Sequence[Row]) -> list[str]:
  """The verdicts in words; the first table counts them."""
  ours = [s for s in found if s['method'] != s['base']]
  asked: list[tuple[str, list[str]]] = [
    (c.title, [_verdict(c.of(s)) for s in ours]) for c in _COMPARISONS
  ]
  spreads = [_verdict(part) for s in ours for part in s['deviations']]
  asked.append(('standard deviation, every rate', spreads))
  words = (paired.BETTER, paired.WORSE, paired.OPEN)
  columns = [report.Column('against the base', '', [name for name, _ in asked])]
  columns += [
    report.Column(
      word, '', [str(verdicts.count(word)) for _, verdicts in asked]
    )
    for word in words
  ]
  decided = sum(v in words for _, verdicts in asked for v in verdicts)
  note = (
    f'{decided} comparisons, each with an error of 5 % of its own: about '
    f'{decided / 20:.0f} would be told apart by chance alone. Missing ones: a '
    f'run diverged, or did not get to the target.'
  )
  lines = [
    f'- {summary["method"]}: {"; ".join(parts)}.'
    for summary in ours
    if (parts := _worse(summary))
  ]
  if not lines:
    lines = ['- No form is told apart from its base to its disadvantage.']
  rivals = [_rival(part) for part in against]
  return [
    report.markdown(columns, note),
    'Worse than the base alone:',
    '',
    *lines,
    '',
    f'The best of {len(ours)} forms with feedback against the best of '
    f'{len(found) - len(ours)} methods without, each tuned. Both are picked on '
    f'the seeds that they are compared on, which is in favour of the larger '
    f'group:',
    '',
    *(rivals or ['- On no criterion did a method of each kind get there.']),
  ]


def _worse(summary: Row) -> list[str]:
  """What a form loses against its base, with the number."""
  parts = []
  for comparison in _COMPARISONS:
    gain = comparison.of(summary)
    if gain is None or gain['verdict'] != paired.WORSE:
      continue
    parts.append(f'{comparison.title} ({_amount(gain, comparison.unit)})')
  wide = [
    f'{part["rate"]:g}'
    for part in summary['deviations']
    if part.get('verdict') == paired.WORSE
  ]
  if wide:
    parts.append(f'standard deviation of the loss at rate {", ".join(wide)}')
  targets = summary['targets']
  if targets['reached'] < targets['base_reached']:
    parts.append(
      f'target reached by {targets["reached"]} of {targets["runs"]} runs, '
      f'with the base alone by {targets["base_reached"]}'
    )
  return parts


def _amount(gain: Row, unit: str) -> str:
  if 'ratio' in gain:
    return f'× {_ratio(gain)}'
  if 'mean' not in gain:
    return 'diverged'
  scale, form = (100, '.2f') if unit == 'points' else (1, '.2g')
  return f'{_gain(gain, scale, form)} {unit}'


_SHOWN: dict[str, tuple[Callable[[float], str], str]] = {
  'train loss': (lambda v: f'{v:.3g} nats', 'nats'),
  'test accuracy': (lambda v: f'{100 * v:.2f} %', 'points'),
  'steps to the target': (lambda v: f'{v:.0f} steps', '×'),
  'seconds to the target': (lambda v: f'{v:.3g} s', '×'),
}


def _rival(part: Row) -> str:
  """One sentence on a criterion."""
  show, unit = _SHOWN[part['criterion']]
  gain = part['gain']
  head = (
    f'- {part["criterion"]}: {part["ours"]} ({show(part["our_value"])}) is '
  )
  tail = f'{part["plain"]} ({show(part["plain_value"])})'
  if gain is None:
    return f'{head}beside {tail}; one seed tells nothing.'
  between = 'from' if gain['verdict'] == paired.OPEN else 'than'
  return f'{head}{gain["verdict"]} {between} {tail}: {_amount(gain, unit)}.'
