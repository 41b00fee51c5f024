"""Patches of a convolution's inputs, and cotangents against them.

The taps of all but the first axis of space are joined to wide rows, those of
the padding included. The taps of the first axis are then slices of them; or,
where they only shift the rows, the cotangents are shifted in their place, which
are narrower to copy, with zeros where they leave::

    sum_t h_t x_{t+o}^T = sum_s h_{s-o} x_s^T
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Shape = tuple[int, ...]
_NARROW = 16  # columns below which a product costs more than joining them
_ZEROS = 4  # products with zeros, for a number in a row, that cost its copy


class Window(NamedTuple):
  """A convolution in space, axis by axis.

  Attributes:
    sizes: of the kernel.
    strides: of the places.
    dilation: of the kernel.
    padding: of the inputs, low and high.
    spread: of the inputs, whose neighbours have so many places less one, of
      zeros, between them (a transposed convolution).
  """

  sizes: Shape
  strides: Shape
  dilation: Shape
  padding: tuple[tuple[int, int], ...]
  spread: Shape

  def blocks(self, x: Array, space: Shape) -> list[Array]:
    """Patches, one array for each tap along the first axis.

    Args:
      x: inputs ``[k, ..., C]``.
      space: sizes of the outputs in space.

    Returns:
      Arrays ``[k * places, other taps * C]``; all in one if that is narrow.
    """
    wide = self._wide(x, space)
    parts = [self._tap(wide, space, [0], [o]) for o in range(self.sizes[0])]
    if wide.shape[-1] < _NARROW:
      parts = [jnp.concatenate(parts, axis=-1)]
    return [part.reshape(-1, part.shape[-1]) for part in parts]

  def pairs(
    self, x: Array, h: Array, space: Shape
  ) -> list[tuple[Array, Array]]:
    """Cotangents and rows whose products are columns of the gradient.

    Args:
      x: inputs ``[k, ..., C]``.
      h: cotangents ``[R, k * places, c]``.
      space: sizes of the outputs in space.

    Returns:
      Pairs ``[R, T, c]`` and ``[T, columns]``, in the order of ``blocks``.
    """
    if not self._shifts(x.shape[-1], h.shape[-1], space):
      return [(h, block) for block in self.blocks(x, space)]
    wide = self._wide(x, space)
    rows = wide.reshape(-1, wide.shape[-1])
    places = h.reshape(len(h), len(x), *space, h.shape[-1])
    last = self._reach
    none = (0, 0)
    shifted = [
      jnp.pad(places, (none, none, (o, last - o), *[none] * len(space)))
      for o in range(0, last + 1, self.dilation[0])
    ]
    return [(s.reshape(len(h), -1, h.shape[-1]), rows) for s in shifted]

  @property
  def _reach(self) -> int:
    """From the first to the last tap along the first axis."""
    return (self.sizes[0] - 1) * self.dilation[0]

  def _shifts(self, channels: int, columns: int, space: Shape) -> bool:
    """Whether to shift cotangents, of so many columns, against the rows."""
    wide = channels * math.prod(self.sizes[1:])
    return (
      self.strides[0] == 1
      and self.sizes[0] > 1
      and columns <= wide >= _NARROW
      and self._reach * columns <= _ZEROS * space[0]
    )

  def _wide(self, x: Array, space: Shape) -> Array:
    """Padded inputs with the taps of all but the first axis joined."""
    sides = zip(self.padding, self.spread, strict=True)
    pads = [(0, 0, 0), *((*pad, n - 1) for pad, n in sides), (0, 0, 0)]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), pads)
    others = range(1, len(self.sizes))
    offsets = itertools.product(*(range(self.sizes[a]) for a in others))
    return jnp.concatenate(
      [self._tap(x, space, others, offset) for offset in offsets], axis=-1
    )

  def _tap(
    self, x: Array, space: Shape, axes: Sequence[int], offset: Sequence[int]
  ) -> Array:
    """The part of ``x`` under one tap of the given axes."""
    for axis, o in zip(axes, offset, strict=True):
      start, stride = o * self.dilation[axis], self.strides[axis]
      stop = start + (space[axis] - 1) * stride + 1
      x = jax.lax.slice_in_dim(x, start, stop, stride, axis + 1)
    return x


def of(equation: dict[str, Any], sizes: Shape) -> Window:
  """The window of a convolution with a kernel of these sizes in space."""
  return Window(
    sizes,
    equation['window_strides'],
    equation['rhs_dilation'],
    tuple(equation['padding']),
    tuple(equation['lhs_dilation']),
  )
