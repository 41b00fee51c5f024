"""Scaling and augmentation: exact, and functions of their key."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data import preprocessing, splits

KEY = jax.random.key(3)


@pytest.fixture
def images() -> np.ndarray:
  generator = np.random.default_rng(0)
  levels = generator.integers(0, (256, 100, 20), (2345, 6, 5, 3))
  return levels.astype(np.uint8)


def test_unit() -> None:
  dataset = splits.load('digits', 'unit')
  for split in (dataset.train, dataset.test):
    scaled = preprocessing.prepare(split.images, dataset.scale)
    assert scaled.dtype == jnp.float32
    assert (scaled.min(), scaled.max()) == (0, 1)
    np.testing.assert_array_equal(scaled * 16, split.images)


def test_standard(images: np.ndarray) -> None:
  scale = preprocessing.statistics(images, 'standard', white=255)
  wide = images.astype(np.float64)
  np.testing.assert_allclose(scale.mean, wide.mean((0, 1, 2)), rtol=1e-6)
  np.testing.assert_allclose(scale.deviation, wide.std((0, 1, 2)), rtol=1e-6)
  scaled = preprocessing.prepare(images, scale)
  assert scaled.dtype == jnp.float32
  assert scaled.shape == images.shape
  for channel in range(3):
    values = np.asarray(scaled[..., channel], np.float64)
    assert abs(values.mean()) < 1e-5
    assert abs(values.std() - 1) < 1e-5


def test_the_test_split_is_scaled_by_the_training_split() -> None:
  dataset = splits.load('digits', 'standard')
  scaled = preprocessing.prepare(dataset.test.images, dataset.scale)
  assert 1e-4 < abs(scaled.mean()) < 0.1


def test_a_key_says_it_all(images: np.ndarray) -> None:
  batch = jnp.asarray(images[:64])
  augment = jax.jit(preprocessing.augment, static_argnums=(2, 3))
  first, again, other = (
    augment(jax.random.fold_in(KEY, step), batch, 2, True) for step in (7, 7, 8)
  )
  assert first.shape == batch.shape
  assert first.dtype == jnp.uint8
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


@pytest.mark.parametrize('flip', [True, False])
def test_every_image_is_a_shift_of_itself(
  images: np.ndarray, flip: bool
) -> None:
  pad, batch = 1, images[:400]
  found = np.asarray(preprocessing.augment(KEY, jnp.asarray(batch), pad, flip))
  padded = np.pad(batch, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  counts = np.zeros((2, 3, 3))
  for i, image in enumerate(found):
    for down, right in np.ndindex(3, 3):
      shifted = padded[i, down : down + 6, right : right + 5]
      counts[0, down, right] += np.array_equal(image, shifted)
      counts[1, down, right] += np.array_equal(image, shifted[:, ::-1])
  assert counts.sum() == 400
  # Each of 9 places (18 with a mirror) has the same chance.
  used = counts if flip else counts[0]
  assert used.sum() == 400
  assert used.min() > 0.3 * 400 / used.size
  assert used.max() < 2 * 400 / used.size


def test_no_shift_and_no_mirror_is_the_identity(images: np.ndarray) -> None:
  same = preprocessing.augment(KEY, jnp.asarray(images[:9]), 0, False)
  np.testing.assert_array_equal(same, images[:9])
