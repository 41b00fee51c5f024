"""The data sets are whole, and the batches functions of (seed, step)."""

from __future__ import annotations

import numpy as np
import pytest

from experiments import data


@pytest.fixture(scope='module')
def digits() -> data.Dataset:
  return data.load('digits', 'unit')


@pytest.mark.parametrize('name', sorted(data.SIZES))
@pytest.mark.parametrize('scaling', data.SCALINGS)
def test_sizes_and_types(name: str, scaling: str) -> None:
  dataset = data.load(name, scaling)
  assert (dataset.train.size, dataset.test.size) == data.SIZES[name]
  for split in (dataset.train, dataset.test):
    assert split.images.ndim == 4
    assert split.images.dtype == np.float32
    assert split.labels.dtype == np.int32
    assert set(split.labels) == set(range(dataset.classes))


def test_the_splits_share_no_sample_and_miss_none(digits: data.Dataset) -> None:
  everything = np.concatenate([digits.train.images, digits.test.images])
  assert len(np.unique(everything.reshape(1797, -1), axis=0)) == 1797


def test_the_split_is_stratified(digits: data.Dataset) -> None:
  train, test = (np.bincount(split.labels) / split.size for split in digits[:2])
  np.testing.assert_allclose(train, test, atol=0.003)


def test_scalings(digits: data.Dataset) -> None:
  standard = data.load('digits', 'standard')
  assert digits.train.images.min() == 0
  assert digits.train.images.max() == 1
  assert abs(standard.train.images.mean()) < 1e-4
  assert abs(standard.train.images.std() - 1) < 1e-4
  # The test split is scaled by the training split's numbers.
  assert abs(standard.test.images.mean()) > 1e-4


def test_every_sample_once_an_epoch() -> None:
  size, batch_size = 103, 10
  steps = range(size)  # ten epochs of 10.3 batches
  stream = np.concatenate(
    [data.indices(size, batch_size, seed=3, step=step) for step in steps]
  )
  epochs = stream.reshape(batch_size, size)
  np.testing.assert_array_equal(
    np.sort(epochs, axis=1), np.tile(np.arange(size), (batch_size, 1))
  )
  assert len({tuple(epoch) for epoch in epochs}) == batch_size


def test_a_batch_depends_on_seed_and_step_alone(digits: data.Dataset) -> None:
  late = data.batch(digits.train, 64, seed=1, step=1000)
  for step in range(30):
    data.batch(digits.train, 64, seed=1, step=step)
  again = data.batch(digits.train, 64, seed=1, step=1000)
  np.testing.assert_array_equal(late.images, again.images)
  np.testing.assert_array_equal(late.labels, again.labels)
  other = data.batch(digits.train, 64, seed=2, step=1000)
  assert not np.array_equal(late.labels, other.labels)


def test_a_batch_may_be_the_whole_split() -> None:
  rows = data.indices(7, 7, seed=0, step=5)
  assert sorted(rows) == list(range(7))
