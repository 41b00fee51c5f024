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

from configs.schema import Config
from experiments.data import catalog, digits, prepared, preprocessing


class Split(NamedTuple):
  """Some samples."""

  # ``[N, H, W, C]``, uint8; ``preprocessing.prepare`` scales them.
  images: np.ndarray
  labels: np.ndarray  # ``[N]``, int32

  @property
  def size(self) -> int:
    """The number of samples."""
    return len(self.labels)


class Dataset(NamedTuple):
  """A training and a test split, the number of classes, and the scale."""

  train: Split
  test: Split
  classes: int
  scale: preprocessing.Statistics


def load(
  name: str,
  scaling: str,
  data_dir: str | None = None,
  train_samples: int | None = None,
  test_samples: int | None = None,
) -> Dataset:
  """Returns a data set; reads files alone, never a network.

  Args:
    name: a key of ``catalog.SPECS``.
    scaling: one of ``preprocessing.SCALINGS``; see ``configs/default.py``.
    data_dir: the folder of all sets; None for that of tensorflow-datasets.
    train_samples: how many, from the first on, make the training split; None
      for all.
    test_samples: as many of the test split.

  Raises:
    NotPreparedError: if the set has yet to be prepared.
  """
  spec = catalog.SPECS[name]
  if spec.files or catalog.find(name, data_dir):
    parts = prepared.splits(name, data_dir)
  else:
    parts = digits.splits()
  train = Split(*(part[:train_samples] for part in parts['train']))
  scale = preprocessing.statistics(train.images, scaling, spec.white)
  test = Split(*(part[:test_samples] for part in parts['test']))
  return Dataset(train, test, spec.classes, scale)


def from_config(section: Config) -> Dataset:
  """Returns the data set that the ``dataset`` section of a config names."""
  return load(
    section.name,
    section.scaling,
    section.data_dir,
    section.train_samples,
    section.test_samples,
  )


def batch(split: Split, batch_size: int, seed: int, step: int) -> Split:
  """Returns the samples of a training step, from 0.

  The seed is that of their order; see the module's head.
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
