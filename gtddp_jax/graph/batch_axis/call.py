"""An equation with the layouts of its operands, and how layouts meet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gtddp_jax.graph import program as jaxprs
from gtddp_jax.graph.batch_axis.layout import (
  SHUFFLED,
  Axis,
  Factor,
  Layout,
  Shape,
  is_within,
  merged,
  size_of,
  within,
)

Layouts = Sequence[Layout | None]


class Call:
  """An equation and what is known of its operands.

  Attributes:
    equation: the equation.
    layouts: of its operands, None for those that depend on no input.
    batch: B.
    constant: the numbers at a place of an operand's last axis, if they are the
      same at every call, else None.
  """

  def __init__(
    self,
    equation: jaxprs.Equation,
    layouts: Layouts,
    batch: int,
    constant: Callable[[Any, int], Any],
  ):
    """Operands in the order of the equation."""
    self.equation, self.layouts, self.batch = equation, layouts, batch
    self.constant = constant

  @property
  def params(self) -> dict[str, Any]:
    """The equation's parameters."""
    return self.equation.params

  def shape(self, operand: int) -> Shape:
    """Shape of an operand."""
    return jaxprs.shape_of(self.equation.invars[operand])

  @property
  def out_shape(self) -> Shape:
    """Shape of the first result."""
    return jaxprs.shape_of(self.equation.outvars[0])

  def axes(self, operand: int) -> tuple[Axis, ...]:
    """Axes of an operand; all within a sample where it depends on no input."""
    layout = self.layouts[operand]
    if layout is None:
      return tuple(map(within, self.shape(operand)))
    return layout.axes


def lost(shape: Shape, unknown: str) -> Layout:
  """The layout of a value of which nothing can be told."""
  return Layout(tuple(map(within, shape)), unknown=unknown)


def join(
  layouts: Layouts, shape: Shape, *, alike: bool = False
) -> Layout | None:
  """Values met elementwise; scalars and axes of size 1 are broadcast.

  Args:
    layouts: of the values.
    shape: of the result.
    alike: whether a value of no sample counts as one of another layout.

  Returns:
    The layout of the result; None if all are None.
  """
  known = [v for v in layouts if v is not None]
  if not known:
    return None
  wide = [_widened(v, shape) for v in known if len(v.axes) == len(shape)]
  first = next((v for v in wide if v.batch), wide[0] if wide else None)
  if first is None:
    first = Layout(tuple(map(within, shape)))
  differ = any(
    v.axes != first.axes for v in wide if alike or v.batch or v.is_shuffled
  )
  return Layout(first.axes, differ or any(v.coupled for v in known))


def _widened(layout: Layout, shape: Shape) -> Layout:
  pairs = zip(layout.axes, shape, strict=True)
  axes = tuple(axis if size_of(axis) == n else within(n) for axis, n in pairs)
  return layout._replace(axes=axes)


def slots(size: int, batch: int) -> Axis:
  """An axis of elements of several samples, each in some sample's place.

  Where the number allows it, places are counted as in ``[B k]``; the samples
  are coupled then. Else they are out of order.
  """
  if batch > 1 and size and size % batch == 0:
    return merged((Factor(batch, 1), Factor(size // batch)))
  return (Factor(size, SHUFFLED),)


def along(
  axes: Sequence[Axis], which: Sequence[int], sizes: Sequence[int], batch: int
) -> Layout:
  """Axes after an operation along some of them, which then have these sizes."""
  result, coupled = list(axes), False
  for axis, size in zip(which, sizes, strict=True):
    if is_within(axes[axis]):
      result[axis] = within(size)
      continue
    coupled = True
    if size_of(axes[axis]) != size:
      result[axis] = slots(size, batch)
  return Layout(tuple(result), coupled)


def either(a: Axis, b: Axis) -> tuple[Axis, bool]:
  """The axis of two that meet, and whether their samples differ."""
  if is_within(a) or is_within(b):
    return (b if is_within(a) else a), False
  return a, a != b


def counted(
  call: Call, at: int, mapped: Sequence[int]
) -> tuple[int, range] | None:
  """The axis of the indices along which rows are asked for in even steps.

  Args:
    call: a gather or a scatter.
    at: the axis of the operand whose rows are asked for.
    mapped: the axes of the operand that the columns of the indices are for.

  Returns:
    The axis, and the rows in order; None if they are not known, or not so.
  """
  column = call.constant(call.equation.invars[1], list(mapped).index(at))
  if column is None or not column.size:
    return None
  column = np.asarray(column)
  first = int(column.flat[0])
  for place, size in enumerate(column.shape):
    second = column.take(min(1, size - 1), place).flat[0]
    step = max(int(second) - first, 1)
    rows = range(first, first + size * step, step)
    shape = [size if axis == place else 1 for axis in range(column.ndim)]
    if (column == np.reshape(rows, shape)).all():
      return place, rows
  return None


def own_row(
  call: Call, at: int, mapped: Sequence[int], axis: Axis
) -> int | None:
  """The axis of the indices along which each sample asks for its own row.

  That is where the indices into axis ``at`` of the operand, all samples of the
  batch in order, are known and count ``0, 1 ...``.
  """
  found = counted(call, at, mapped)
  if found is None or found[1] != range(size_of(axis)):
    return None
  return found[0]
