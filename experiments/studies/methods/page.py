"""The report of the study of methods, and what its tables say in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from configs.schema import Config
from experiments.report import intervals, tables
from experiments.studies.methods import rankings, standings

Row = dict[str, Any]


class _Comparison(NamedTuple):
  """One question asked of every variant with feedback, against its base."""

  title: str
  part: str
  key: str
  unit: str

  @property
  def worse(self) -> str:
    """What is said of a difference to the variant's disadvantage."""
    return intervals.LOWER if self.unit == 'points' else intervals.HIGHER

  def of(self, summary: Row) -> Row | None:
    """The interval and its significance; None where there is none.

    A variant that is best at the rate of its base has been compared there.
    """
    if self.part == 'tuned' and not standings.elsewhere([summary]):
      return None
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
  config: Config,
  found: Sequence[Row],
  against: Sequence[Row],
) -> str:
  """Returns the report without its command, configuration and versions."""
  return '\n'.join(
    [
      f'# The methods on {config.dataset.name}',
      '',
      standings.caption(config),
      '',
      "## At equal hyper-parameters: the paper's Table 2",
      '',
      tables.markdown(
        standings.standings(found, 'equal'),
        standings.equal_caption(config),
      ),
      '![Training curves](curves.png)',
      '',
      '## Each tuned by the same budget',
      '',
      _tuned(config, found),
      tables.markdown(standings.grid(found), standings.GRID),
      '## To the target',
      '',
      tables.markdown(
        standings.benchmark(found), standings.target_caption(config)
      ),
      '![Steps and time to the target](targets.png)',
      '',
      '## Over the seeds',
      '',
      tables.markdown(standings.deviations(found), standings.VARIANCE),
      '![Standard deviations over seeds](variance.png)',
      '',
      '## Where GT-DDP loses',
      '',
      *_losses(found, against),
      '',
    ]
  )


def short(found: Sequence[Row], against: Sequence[Row]) -> list[str]:
  """Returns what came out, in a few sentences."""
  ours = [s for s in found if s['method'] != s['base']]

  def counts(key: str) -> str:
    return intervals.counts([intervals.word(s['equal'][key]) for s in ours])

  rivals = {part['criterion']: _rival(part)[2:] for part in against}
  absent = 'no comparison, as no method of one kind got there on every seed.'
  said = [rivals.get(name, f'{name}: {absent}') for name in rankings.CRITERIA]
  return [
    f'The best GT-DDP variant against the best of {_named(found)} alone, each '
    f'tuned, and picked on the seeds that they are compared on (by the train '
    f'loss for loss and accuracy).',
    *(f'{one[0].upper()}{one[1:]}' for one in said),
    f'The {len(ours)} variants against their bases at equal hyper-parameters, '
    f'train loss: {counts("loss_gain")}; accuracy: {counts("accuracy_gain")}.',
    f'The standard deviation of the train loss over the seeds, at every rate: '
    f'{intervals.counts(_spreads(ours))}.',
  ]


def _spreads(ours: Sequence[Row]) -> list[str]:
  """What intervals say of deviations over the seeds."""
  return [intervals.word(p) for s in ours for p in s['deviations']]


def _named(found: Sequence[Row]) -> str:
  """The methods without feedback."""
  *first, last = [s['method'] for s in found if s['method'] == s['base']]
  return f'{", ".join(first)} and {last}' if first else str(last)


def _tuned(config: Config, found: Sequence[Row]) -> str:
  """Methods at their best rates, but for those in the table of equal ones."""
  caption = standings.tuned_caption(config)
  others = standings.elsewhere(found)
  same = len(found) - len(others)
  if not others:
    return (
      f'All {same} methods are best at the rate of the table above, which '
      f'shows them.\n\n{caption}\n'
    )
  return tables.markdown(
    standings.standings(others, 'tuned'),
    f'The {same} methods that are best at the rate of the table above are not '
    f'shown again. {caption}',
  )


def _losses(found: Sequence[Row], against: Sequence[Row]) -> list[str]:
  """What the intervals say in words; the first table counts them."""
  ours = [s for s in found if s['method'] != s['base']]
  asked: list[tuple[str, list[str]]] = [
    (c.title, [intervals.word(c.of(s)) for s in ours]) for c in _COMPARISONS
  ]
  asked.append(('standard deviation, every rate', _spreads(ours)))
  columns = [tables.Column('against the base', '', [name for name, _ in asked])]
  columns += [
    tables.Column(word, '', [str(words.count(word)) for _, words in asked])
    for word in intervals.OUTCOMES
  ]
  compared = sum(v in intervals.OUTCOMES for _, words in asked for v in words)
  note = (
    f'{compared} comparisons, each with an error of 5 % of its own: about '
    f'{compared / 20:.0f} would be significant by chance if no two differed. '
    f'Diverged: where the base alone did not. Missing ones: the '
    f'base diverged, or a run did not get to the target, or, for deviations, '
    f'did not learn; or a variant is best at the rate of its base, and counted '
    f'among the equal ones alone; or there are less than {intervals.LEAST} '
    f'seeds (of deviations {intervals.LEAST_SPREAD}), or differences that are '
    f'all equal.'
  )
  lines = [
    f'- {summary["method"]}: {"; ".join(parts)}.'
    for summary in ours
    if (parts := _worse(summary))
  ]
  if not lines and compared:
    lines = ['- No variant is significantly worse than its base.']
  elif not lines:
    lines = ['- Nothing could be compared.']
  rivals = [_rival(part) for part in against]
  return [
    tables.markdown(columns, note),
    'Worse than the base alone:',
    '',
    *lines,
    '',
    f'The best of {len(ours)} variants with feedback against the best of '
    f'{len(found) - len(ours)} methods without, each tuned. Both are picked on '
    f'the seeds that they are compared on, which is in favour of the larger '
    f'group; loss and accuracy are those of the least train loss:',
    '',
    *(rivals or ['- On no criterion did a method of each kind get there.']),
  ]


def _worse(summary: Row) -> list[str]:
  """What a variant loses against its base, with the number."""
  parts = []
  for comparison in _COMPARISONS:
    gain = comparison.of(summary)
    bad = comparison.worse, intervals.DIVERGED
    if gain is None or gain['significance'] not in bad:
      continue
    parts.append(f'{comparison.title} ({_amount(gain, comparison.unit)})')
  wide = [
    f'{part["rate"]:g}'
    for part in summary['deviations']
    if part.get('significance') == intervals.HIGHER
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
    return f'× {intervals.text(gain, unit)}'
  if 'mean' not in gain:
    return 'diverged'
  return f'{intervals.text(gain, unit)} {unit}'


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
  if gain is None or gain['significance'] == intervals.NONE:
    return f'{head}beside {tail}; too few seeds, or equal ones.'
  amount = _amount(gain, unit)
  if gain['significance'] == intervals.OPEN:
    return f'{head}**not significantly different** from {tail}: {amount}.'
  return f'{head}**{gain["significance"]}** than {tail}: {amount}.'
