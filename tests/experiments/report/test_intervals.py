"""Intervals of paired numbers beside SciPy's, and what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from experiments.report import intervals

pytestmark = pytest.mark.once


def test_ratios_are_those_of_the_logarithms() -> None:
  ours, theirs = [4.0, 9.0, 8.0], [1.0, 3.0, 2.0]
  got = intervals.ratio(ours, theirs)
  logs = np.log(np.divide(ours, theirs))
  low, high = stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs))
  assert got is not None
  expected = [math.exp(x) for x in (logs.mean(), low, high)]
  assert list(got.values()) == pytest.approx(expected)


def test_deviations_compare_as_pitman_and_morgan_do() -> None:
  rng = np.random.default_rng(0)
  theirs = rng.normal(size=12)
  ours = 0.5 * theirs + 0.4 * rng.normal(size=12)
  got = intervals.deviation_ratio(ours.tolist(), theirs.tolist())
  assert got is not None
  assert got['ratio'] == pytest.approx(ours.std(ddof=1) / theirs.std(ddof=1))
  # At an end of the interval, the test of equal variances has p = 0.05.
  for end in ('low', 'high'):
    scaled = ours / got[end]
    p = stats.pearsonr(scaled + theirs, scaled - theirs).pvalue
    assert p == pytest.approx(0.05)
  few, more = [1.0, 2.0, 4.0, 3.0], [1.0, 3.0, 2.0, 9.0]
  assert intervals.deviation_ratio(few, more) is None
  assert intervals.deviation_ratio([*few, 5.0], [*more, 5.0]) is not None
  assert intervals.deviation_ratio([*few, None], [*more, 5.0]) is None


def test_one_step_on_every_seed_tells_nothing() -> None:
  base = [51, 52, 50]
  for steps, word in (
    ([50, 51, 49], intervals.OPEN),
    ([49, 50, 48], intervals.LOWER),
  ):
    found = intervals.compared_ratio(steps, base, whole=True)
    assert found is not None and found['significance'] == word
  found = intervals.compared_ratio([50, 51, 49], base)
  assert found is not None and found['significance'] == intervals.LOWER


def test_significance() -> None:
  assert intervals.significance(-2, -1) == intervals.LOWER
  assert intervals.significance(-1, 0) == intervals.OPEN
  assert intervals.significance(1.1, 2, neutral=1) == intervals.HIGHER


def test_no_significance_from_two_seeds_or_from_equal_differences() -> None:
  # Two images of 360 more on each seed, but for rounding.
  base = [count / 360 for count in (30, 59, 117)]
  ours = [count / 360 for count in (32, 61, 119)]
  assert intervals.difference(ours[:2], base[:2]) is None
  assert intervals.ratio(ours[:2], base[:2]) is None
  assert (
    intervals.of_difference(intervals.difference(ours, base)) == intervals.NONE
  )
  assert (
    intervals.of_difference(intervals.difference(base, base)) == intervals.NONE
  )
  assert intervals.of_difference(None) == intervals.NONE
  ours[0] += 1e-4
  assert (
    intervals.of_difference(intervals.difference(ours, base))
    == intervals.HIGHER
  )
