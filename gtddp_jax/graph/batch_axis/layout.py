"""Layouts: where in an array the samples of a batch are.

Every axis is a product of *factors*, outermost first. A factor of the batch has
a stride: its index ``j`` adds ``stride * j`` to the number of the sample. A
factor without stride is an axis within a sample::

    [T, B, F]             (T) (B, stride 1) (F)
    [B T, F]              (B, stride 1)(T)  (F)
    [2, B / 2, F]         (2, stride B / 2) (B / 2, stride 1) (F)

So reshapes and transpositions only regroup and permute factors. ``encode``
brings a value to the one form in which states are carried: the rows of each
sample next to each other along the leading axis, ``[B s_0, s_1, ...]`` with
``[s_0, s_1, ...]`` the shape that one sample has, and a complex number as two
real ones in a trailing axis. ``decode`` is its inverse.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gtddp_jax.graph import varying

Array = jax.Array
Shape = tuple[int, ...]

# Strides of factors that count no sample: those within a sample, and those
# whose elements are of several samples, out of order.
WITHIN, SHUFFLED = 0, -1


class Factor(NamedTuple):
  """A part of an axis; its index times its stride counts samples."""

  size: int
  stride: int = WITHIN


Axis = tuple[Factor, ...]


class Layout(NamedTuple):
  """Where the samples are in a value that depends on the inputs.

  Without factors of the batch it belongs as a whole to one sample (in a batch
  of one, or in a loop over samples), or, if coupled, to none.

  Attributes:
    axes: the factors of each axis.
    coupled: whether what is in the place of one sample depends on others.
    joined: whether that is only since a value of no sample (a batch statistic)
      was joined to it, which is a constant to each sample.
    unknown: the operation after which nothing can be told, or None.
  """

  axes: tuple[Axis, ...]
  coupled: bool = False
  joined: bool = False
  unknown: str | None = None

  @property
  def shape(self) -> Shape:
    """Shape of the value."""
    return tuple(size_of(axis) for axis in self.axes)

  @property
  def batch(self) -> list[Factor]:
    """The factors that count samples."""
    return [f for axis in self.axes for f in axis if f.stride > 0]

  @property
  def is_shuffled(self) -> bool:
    """Whether elements of several samples are out of order."""
    return any(f.stride == SHUFFLED for axis in self.axes for f in axis)

  def has_samples(self, batch: int) -> bool:
    """Whether every sample of a batch has a place of its own in it."""
    if self.unknown or self.is_shuffled:
      return False
    return batch == 1 or math.prod(f.size for f in self.batch) == batch


def size_of(axis: Axis) -> int:
  """Length of an axis."""
  return math.prod(f.size for f in axis)


def within(size: int) -> Axis:
  """An axis of so many elements of one sample."""
  return (Factor(size),) if size != 1 else ()


def is_within(axis: Axis) -> bool:
  """Whether an axis has nothing of the batch."""
  return all(f.stride == WITHIN for f in axis)


def leading(shape: Shape, batch: int) -> Layout:
  """The layout of ``[B k, ...]``, rows of a sample next to each other."""
  if batch == 1 or not shape:
    return Layout(tuple(map(within, shape)))
  first = merged((Factor(batch, 1), Factor(shape[0] // batch)))
  return Layout((first, *map(within, shape[1:])))


def merged(factors: Iterable[Factor]) -> Axis:
  """The factors with neighbours joined that count in one stride."""
  joined: list[Factor] = []
  for factor in factors:
    if factor.size == 1:
      continue
    if joined and (last := joined[-1]).stride == _outer_stride(factor):
      joined[-1] = Factor(last.size * factor.size, factor.stride)
    else:
      joined.append(factor)
  return tuple(joined)


def _outer_stride(factor: Factor) -> int:
  """The stride of a factor that could stand before this one as one with it."""
  return factor.size * factor.stride if factor.stride > 0 else factor.stride


def regrouped(axes: Sequence[Axis], shape: Shape) -> tuple[Axis, ...] | None:
  """The factors in row-major order as axes of another shape.

  Returns:
    The axes; None where a factor of the batch would have to be cut unevenly.
  """
  rest = list(merged(f for axis in axes for f in axis))
  found: list[Axis] = []
  for size in shape:
    taken: list[Factor] = []
    while size > 1:
      if not rest:
        return None
      first = rest.pop(0)
      if size % first.size == 0:
        taken.append(first)
        size //= first.size
      elif first.size % size == 0:
        inner = first.size // size
        outer = first.stride * inner if first.stride > 0 else first.stride
        taken.append(Factor(size, outer))
        rest.insert(0, Factor(inner, first.stride))
        size = 1
      else:
        return None
    found.append(merged(taken))
  return tuple(found)


def of_sample(layout: Layout) -> Shape:
  """The shape of one sample's part, of as many axes as the value."""
  return tuple(
    math.prod(f.size for f in axis if f.stride == WITHIN)
    for axis in layout.axes
  )


def encoded(layout: Layout, batch: int, dtype: Any) -> jax.ShapeDtypeStruct:
  """Shape and dtype of what ``encode`` makes of a value of this layout."""
  first, *rest = of_sample(layout) or (1,)
  return real_shape(jax.ShapeDtypeStruct((batch * first, *rest), dtype))


def encode(layout: Layout, batch: int, value: Array) -> Array:
  """A value with the rows of each sample next to each other.

  Args:
    layout: of the value; one that has all samples.
    batch: B.
    value: an array of the layout's shape, of any dtype.

  Returns:
    ``[B s_0, s_1, ...]``, with a trailing axis of 2 if it is complex.
  """
  sizes, order = _order(layout)
  first, *rest = of_sample(layout) or (1,)
  if order != sorted(order):
    value = value.reshape(sizes).transpose(order)
  return as_real(value.reshape(batch * first, *rest))


def decode(layout: Layout, dtype: Any, value: Array) -> Array:
  """The inverse of ``encode``, for a value of this dtype."""
  sizes, order = _order(layout)
  value = as_dtype(value, dtype)
  if order != sorted(order):
    ordered = value.reshape([sizes[at] for at in order])
    value = ordered.transpose(np.argsort(order))
  return value.reshape(layout.shape)


def _order(layout: Layout) -> tuple[list[int], list[int]]:
  """Sizes of all factors, and their order with samples first."""
  factors = [f for axis in layout.axes for f in axis]
  strides = [f.stride for f in factors]
  order = sorted(range(len(factors)), key=lambda at: (-strides[at], at))
  return [f.size for f in factors], order


def is_complex(dtype: Any) -> bool:
  """Whether numbers of a dtype have an imaginary part."""
  return jnp.issubdtype(dtype, jnp.complexfloating)


def real_shape(shape: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
  """Shape and dtype of what ``as_real`` makes of a value."""
  if not is_complex(shape.dtype):
    return shape
  part = jnp.finfo(shape.dtype).dtype
  return varying.shaped((*shape.shape, 2), part, shape)


def as_real(value: Array) -> Array:
  """Complex numbers as pairs of real ones in a trailing axis."""
  if not is_complex(value.dtype):
    return value
  return jnp.stack([value.real, value.imag], axis=-1)


def as_dtype(value: Array, dtype: Any) -> Array:
  """The inverse of ``as_real`` for numbers of this dtype."""
  if not is_complex(dtype) or is_complex(value.dtype):
    return value
  return jax.lax.complex(value[..., 0], value[..., 1])
