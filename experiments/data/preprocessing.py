"""From uint8 images to what a network takes; runs on the device, under jit."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SCALINGS = ('unit', 'standard')
_CHUNK = 1000  # images counted at once


class Statistics(NamedTuple):
  """Per channel, in units of the raw pixels."""

  mean: np.ndarray  # ``[C]``, float32; becomes 0
  deviation: np.ndarray  # ``[C]``, float32; becomes 1


def statistics(images: np.ndarray, scaling: str, white: int) -> Statistics:
  """Returns what ``prepare`` subtracts and divides by.

  Args:
    images: ``[N, H, W, C]``, uint8; the training split.
    scaling: ``'unit'``, from 0 to 1; or ``'standard'``, mean 0 and standard
      deviation 1 of each channel over all images.
    white: the raw value that ``'unit'`` maps to 1.
  """
  channels = images.shape[-1]
  if scaling == 'unit':
    zeros = np.zeros(channels, np.float32)
    return Statistics(zeros, np.full(channels, white, np.float32))
  levels = np.arange(256.0)
  shares = _histograms(images) / images[..., 0].size
  mean = shares @ levels
  variance = (shares * np.square(levels - mean[:, None])).sum(axis=1)
  return Statistics(
    mean.astype(np.float32), np.sqrt(variance).astype(np.float32)
  )


def _histograms(images: np.ndarray) -> np.ndarray:
  """Returns ``[C, 256]``: how many pixels have which value."""
  counts = np.zeros((images.shape[-1], 256))
  for first in range(0, len(images), _CHUNK):
    part = images[first : first + _CHUNK]
    for channel, count in enumerate(counts):
      count += np.bincount(part[..., channel].ravel(), minlength=256)
  return counts


def prepare(images: jax.Array | np.ndarray, scale: Statistics) -> jax.Array:
  """Returns scaled images, float32, of uint8 ones ``[B, H, W, C]``."""
  mean, deviation = (part.reshape(1, 1, 1, -1) for part in scale)
  return (jnp.asarray(images, jnp.float32) - mean) / deviation


def augment(
  key: jax.Array, images: jax.Array, pad: int, flip: bool
) -> jax.Array:
  """Returns images each of which is shifted, and mirrored or not, at random.

  Args:
    key: of the step, such as ``jax.random.fold_in(key, step)``.
    images: ``[B, H, W, C]``, raw.
    pad: largest shift along each axis, in pixels; what enters is 0.
    flip: whether every second image (on average) is mirrored, left to right.
  """
  offset_key, flip_key = jax.random.split(key)
  size = len(images)
  padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  offsets = jax.random.randint(offset_key, (size, 2), 0, 2 * pad + 1)

  def crop(image: jax.Array, offset: jax.Array) -> jax.Array:
    start = (offset[0], offset[1], jnp.zeros_like(offset[0]))
    return jax.lax.dynamic_slice(image, start, images.shape[1:])

  cropped = jax.vmap(crop)(padded, offsets)
  if not flip:
    return cropped
  mirrored = jax.random.bernoulli(flip_key, shape=(size, 1, 1, 1))
  return jnp.where(mirrored, cropped[:, :, ::-1], cropped)
