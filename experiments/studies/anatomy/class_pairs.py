"""Which two classes a direction separates."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_SHUFFLES = 200  # of the labels
_QUANTILE = 0.95


class Pair(NamedTuple):
  """The two classes that are farthest apart along a direction."""

  low: int  # the class with the smaller mean
  high: int  # the class with the larger mean
  # d', the difference of their means over the root of the mean of their
  # variances
  distance: float
  chance: float  # the largest d' that 95 % of shuffled labels stay below

  def text(self) -> str:
    """Returns the pair, low first, such as '3 / 8'."""
    return f'{self.low} / {self.high}'

  @property
  def certain(self) -> bool:
    """Whether it is farther apart than by chance."""
    return self.distance > self.chance


def best(values: np.ndarray, labels: np.ndarray, seed: int = 0) -> Pair:
  """Returns the pair of classes that is farthest apart, and its chance.

  Args:
    values: one per sample: its projection.
    labels: from 0, one per sample. Classes with less than two samples, and
      pairs without variance, do not count.
    seed: of the shuffles, which allow for the choice of the pair among all.

  Raises:
    ValueError: for fewer than two classes that count.
  """
  values = np.asarray(values, np.float64)
  labels = np.asarray(labels)
  if np.sum(np.bincount(labels) > 1) < 2:
    raise ValueError(
      'class_pairs.best: expected two classes of two samples at least, got '
      f'labels {np.unique(labels).tolist()}; give more samples.'
    )
  found = distances(values, labels)
  low, high = np.unravel_index(np.argmax(found), found.shape)
  rng = np.random.default_rng(seed)
  shuffled = [
    distances(values, rng.permutation(labels)).max() for _ in range(_SHUFFLES)
  ]
  chance = float(np.quantile(shuffled, _QUANTILE))
  return Pair(int(low), int(high), float(found[low, high]), chance)


def distances(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Returns the signed d' of all pairs, of a value and a label per sample.

  ``[classes, classes]``, the mean of the column less that of the row in units
  of their deviation; 0 where there is none.
  """
  counts = np.bincount(labels).astype(float)
  safe = np.maximum(counts, 1)
  means = np.bincount(labels, values) / safe
  squares = np.bincount(labels, (values - means[labels]) ** 2)
  variances = np.where(counts > 1, squares / np.maximum(counts - 1, 1), np.nan)
  gaps = means[None, :] - means[:, None]
  both = np.sqrt((variances[None, :] + variances[:, None]) / 2)
  known = both > 0  # False where it is not a number
  return np.where(known, gaps / np.where(known, both, 1), 0.0)
