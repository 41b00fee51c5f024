"""Two methods on the same seeds: differences and ratios with 95 % intervals."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scipy import stats

Values = Sequence[float | None]
Interval = dict[str, float]

LOWER, HIGHER = 'significantly lower', 'significantly higher'
OPEN = 'no significant difference'
DIVERGED = 'diverged'  # where the base did not; no number can say by how much
OUTCOMES = LOWER, HIGHER, OPEN, DIVERGED
NONE = '-'  # nothing to compare
LEAST = 3  # seeds; two that happen to agree tell nothing
# Of deviations: the interval of three pairs has one degree of freedom, and
# rests on the losses being normal alone.
LEAST_SPREAD = 5
_EQUAL = 1e-9  # of an end; a narrower interval is of equal values, rounded
# How differences are written: what they are multiplied by, and their form.
_FORMS = {'nats': (1, '.2g'), 'points': (100, '.2f'), 'steps': (1, '.1f')}


def difference(own: Values, base: Values) -> Interval | None:
  """Returns ``mean`` and ``half_width`` of Student's interval of differences.

  None if a number is missing or there are less than ``LEAST`` seeds.
  """
  pairs = _pairs(own, base)
  if pairs is None:
    return None
  differences = [a - b for a, b in pairs]
  mean = statistics.fmean(differences)
  if not statistics.pstdev(differences):  # of which SciPy makes no interval
    return {'mean': mean, 'half_width': 0.0}
  with warnings.catch_warnings(action='ignore'):  # of close differences
    found = stats.ttest_rel(*zip(*pairs, strict=True)).confidence_interval()
  return {'mean': mean, 'half_width': float(found.high - found.low) / 2}


def ratio(own: Values, base: Values) -> Interval | None:
  """Returns the geometric mean of ratios of numbers above 0.

  As ``ratio``, ``low`` and ``high``, by ``difference`` of the logarithms.
  """
  found = difference(_logs(own), _logs(base))
  if found is None:
    return None
  mean, half = found['mean'], found['half_width']
  ends = (mean, mean - half, mean + half)
  return dict(zip(('ratio', 'low', 'high'), map(math.exp, ends), strict=True))


def deviation_ratio(own: Values, base: Values) -> Interval | None:
  """Returns the ratio of the standard deviations over seeds.

  As ``ratio``, ``low`` and ``high``; the interval is Pitman and Morgan's, for
  normal pairs that are correlated. None if a number is missing, there are less
  than ``LEAST_SPREAD`` seeds, or all values of one are equal.
  """
  pairs = _pairs(own, base)
  if pairs is None or len(pairs) < LEAST_SPREAD:
    return None
  columns = [*zip(*pairs, strict=True)]
  ours, theirs = map(statistics.stdev, columns)
  if not ours or not theirs:
    return None
  n, r = len(pairs), statistics.correlation(*columns)
  quantile = float(stats.t.ppf(0.975, n - 2))
  spread = 2 * max(0.0, 1 - r * r) * quantile**2 / (n - 2)
  # With k = 1 + spread: k + sqrt(k^2 - 1), whose inverse is k - sqrt(k^2 - 1).
  factor = math.sqrt(1 + spread + math.sqrt(spread * (2 + spread)))
  middle = ours / theirs
  return {'ratio': middle, 'low': middle / factor, 'high': middle * factor}


def text(found: Mapping[str, Any] | None, unit: str) -> str:
  """Returns a difference with its half width, or a ratio with its interval.

  Args:
    found: of ``compared`` or ``compared_ratio``; '-' where there is no number.
    unit: a key of ``_FORMS``, where a point is a hundredth; '×' for ratios.
  """
  if found is None or not {'mean', 'ratio'} & {*found}:
    return '-'
  if 'ratio' in found:
    return ratio_text(found)
  scale, form = _FORMS[unit]
  mean, half = scale * found['mean'], scale * found['half_width']
  return f'{mean:+{form}} ± {half:{form}}'


def columns(
  head: str, unit: str, of: Callable[[Any], Mapping[str, Any] | None]
) -> list[tuple[str, str, Callable[[Any], str]]]:
  """Returns two columns for ``tables.columns``: a comparison, what it says.

  Args:
    head: of the first.
    unit: see ``text``.
    of: returns the comparison of a row.
  """
  return [
    (head, '× base' if unit == '×' else unit, lambda row: text(of(row), unit)),
    ('significance', '', lambda row: word(of(row))),
  ]


def significance(low: float, high: float, neutral: float = 0.0) -> str:
  """Returns what a 95 % interval says: it must leave out what is neutral.

  ``LOWER``, ``HIGHER`` or ``OPEN``; ``NONE`` where the interval has no width,
  as that of equal differences. Neutral is 0 for a difference, 1 for a ratio.
  """
  if math.isclose(low, high, rel_tol=_EQUAL):
    return NONE
  if low <= neutral <= high:
    return OPEN
  return LOWER if high < neutral else HIGHER


def of_difference(found: Mapping[str, Any] | None) -> str:
  """Returns the ``significance`` of a difference; ``NONE`` for none."""
  if found is None:
    return NONE
  mean, half = found['mean'], found['half_width']
  return significance(mean - half, mean + half)


def of_runs(rows: Sequence[Mapping[str, Any]], key: str) -> list[float | None]:
  """Returns a number of each run; one that diverged came to nothing."""
  return [None if row['diverged'] else row[key] for row in rows]


def compared(own: Values, base: Values) -> dict[str, Any] | None:
  """Returns a ``difference`` with its ``significance``.

  Where a run diverged and none of the base, the latter alone, ``DIVERGED``.
  Else None.
  """
  found = difference(own, base)
  if found is None:
    lost = None in own and None not in base and len(own) >= LEAST
    return {'significance': DIVERGED} if lost else None
  return {**found, 'significance': of_difference(found)}


def compared_ratio(
  own: Values, base: Values, *, whole: bool = False
) -> dict[str, Any] | None:
  """Returns a ``ratio`` with its ``significance``; None where there is none.

  ``whole``: both count steps, of which one less on every seed may be less than
  one: values that differ by one at most have no significant difference.
  """
  found = ratio(own, base)
  if found is None:
    return None
  word = significance(found['low'], found['high'], 1.0)
  pairs = zip(own, base, strict=True)
  close = all(abs(a - b) <= 1 for a, b in pairs if a and b)
  if whole and close and word != NONE:
    word = OPEN
  return {**found, 'significance': word}


def ratio_text(found: Mapping[str, Any] | None) -> str:
  """Returns a ratio with its interval, of ``compared_ratio``; '-' for none."""
  if found is None or found['ratio'] is None:
    return '-'
  digits = 2
  # An interval that leaves out 1 shows that it does.
  while digits < 6 and found['significance'] in (LOWER, HIGHER):
    if 1 not in (round(found['low'], digits), round(found['high'], digits)):
      break
    digits += 1
  middle, low, high = (
    f'{found[key]:.{digits}f}' for key in ('ratio', 'low', 'high')
  )
  return f'{middle} [{low}, {high}]'


def word(found: Mapping[str, Any] | None) -> str:
  """Returns the significance in a comparison; ``NONE`` for none."""
  return NONE if found is None else found.get('significance', NONE)


def counts(words: Sequence[str]) -> str:
  """Returns how many are which; ``NONE`` is not counted."""
  if not any(word in OUTCOMES for word in words):
    return 'none could be compared'
  shown = OUTCOMES if DIVERGED in words else OUTCOMES[:-1]
  return ', '.join(f'{words.count(word)} {word}' for word in shown)


def _logs(values: Values) -> list[float | None]:
  return [None if value is None else math.log(value) for value in values]


def _pairs(own: Values, base: Values) -> list[tuple[float, float]] | None:
  pairs = [
    (a, b)
    for a, b in zip(own, base, strict=True)
    if a is not None and b is not None
  ]
  return pairs if len(pairs) == len(own) >= LEAST else None
