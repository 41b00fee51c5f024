"""Data sets in memory, and batches that are functions of (seed, step).

The samples of a run form one endless stream: the training split in a new
random order each epoch, one epoch after the other. Step ``k`` takes the samples
``k B`` to ``(k + 1) B - 1`` of the stream. So all batches have ``B`` samples,
none is dropped or repeated within an epoch, and no step depends on history.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from sklearn import datasets, model_selection

SCALINGS = ('unit', 'standard')
SIZES = {'digits': (1437, 360)}  # training and test samples
_SPLIT_SEED = 0  # part of the data set's definition


class Split(NamedTuple):
  """Some samples.

  Attributes:
    images: ``[N, H, W, C]``, float32.
    labels: ``[N]``, int32.
  """

  images: np.ndarray
  labels: np.ndarray

  @property
  def size(self) -> int:
    """The number of samples."""
    return len(self.labels)


class Dataset(NamedTuple):
  """A training and a test split, and the number of classes."""

  train: Split
  test: Split
  classes: int


def load(name: str, scaling: str) -> Dataset:
  """Returns a data set.

  Args:
    name: a key of ``SIZES``.
    scaling: one of ``SCALINGS``; see ``configs/default.py``.

  Returns:
    The data set, the same on every call.
  """
  images, labels = {'digits': _digits}[name]()
  parts = model_selection.train_test_split(
    images,
    labels,
    test_size=SIZES[name][1],
    stratify=labels,
    random_state=_SPLIT_SEED,
  )
  train, test, train_labels, test_labels = parts
  if scaling == 'standard':
    mean, deviation = train.mean(), train.std()
    train, test = ((part - mean) / deviation for part in (train, test))
  return Dataset(
    Split(train.astype(np.float32), train_labels.astype(np.int32)),
    Split(test.astype(np.float32), test_labels.astype(np.int32)),
    classes=int(labels.max()) + 1,
  )


def batch(split: Split, batch_size: int, seed: int, step: int) -> Split:
  """Returns the samples of one training step.

  Args:
    split: where to take them from.
    batch_size: how many.
    seed: of the order.
    step: of the training, from 0.

  Returns:
    ``batch_size`` samples.
  """
  rows = indices(split.size, batch_size, seed, step)
  return Split(split.images[rows], split.labels[rows])


def indices(size: int, batch_size: int, seed: int, step: int) -> np.ndarray:
  """Returns ``[batch_size]`` row numbers below ``size``; see ``batch``."""
  positions = np.arange(step * batch_size, (step + 1) * batch_size)
  epochs, places = np.divmod(positions, size)
  rows = [
    _order(size, seed, int(epoch))[places[epochs == epoch]]
    for epoch in np.unique(epochs)
  ]
  return np.concatenate(rows)


@functools.lru_cache(maxsize=16)
def _order(size: int, seed: int, epoch: int) -> np.ndarray:
  return np.random.default_rng((seed, epoch)).permutation(size)


def _digits() -> tuple[np.ndarray, np.ndarray]:
  """Images ``[1797, 8, 8, 1]`` from 0 to 1, and labels ``[1797]``."""
  bunch = datasets.load_digits()
  return bunch.images[..., None] / 16.0, bunch.target
