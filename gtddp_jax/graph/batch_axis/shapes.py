"""Layouts of what works elementwise, on shapes, or along axes."""

from __future__ import annotations

import math

from gtddp_jax.graph import program as jaxprs
from gtddp_jax.graph.batch_axis.call import Call, along, join, slots
from gtddp_jax.graph.batch_axis.layout import (
  SHUFFLED,
  Axis,
  Factor,
  Layout,
  Shape,
  is_within,
  merged,
  regrouped,
  size_of,
  within,
)


def elementwise(call: Call) -> list[Layout | None]:
  """Each element of the result is made of the same one of each operand."""
  return [join(call.layouts, jaxprs.shape_of(v)) for v in call.equation.outvars]


def broadcast(call: Call) -> list[Layout | None]:
  """A value repeated along new axes, or along axes of size 1."""
  shape, places = call.params['shape'], call.params['broadcast_dimensions']
  axes = list(map(within, shape))
  for axis, place in zip(call.axes(0), places, strict=True):
    if size_of(axis) == shape[place]:
      axes[place] = axis
  return [Layout(tuple(axes))]


def transpose(call: Call) -> list[Layout | None]:
  """Axes in another order."""
  axes = call.axes(0)
  return [Layout(tuple(axes[i] for i in call.params['permutation']))]


def reshape(call: Call) -> list[Layout | None]:
  """The same elements in row-major order."""
  axes, shape = call.axes(0), call.out_shape
  if 0 in shape:  # no element, so no order to keep
    return [Layout(_of_nothing(shape, call.batch))]
  found = regrouped(axes, shape)
  if found is not None:
    return [Layout(found)]
  whole = slots(math.prod(shape), call.batch)
  places = regrouped([whole], shape)
  shuffled = tuple((Factor(size, SHUFFLED),) for size in shape)
  return [Layout(places or shuffled, coupled=True)]


def _of_nothing(shape: Shape, batch: int) -> tuple[Axis, ...]:
  """Axes of an empty value: the first that can hold the batch does."""
  axes = list(map(within, shape))
  for axis, size in enumerate(shape):
    if batch > 1 and size and size % batch == 0:
      axes[axis] = merged((Factor(batch, 1), Factor(size // batch)))
      break
  return tuple(axes)


def squeeze(call: Call) -> list[Layout | None]:
  """Axes of size 1 dropped."""
  dropped = call.params['dimensions']
  axes = call.axes(0)
  return [Layout(tuple(a for i, a in enumerate(axes) if i not in dropped))]


def reduce(call: Call) -> list[Layout | None]:
  """Axes dropped by a sum, a maximum, the place of one."""
  dropped = call.params.get('axes', call.params.get('dimensions', ()))
  found: list[Layout | None] = []
  for out in range(len(call.equation.outvars)):
    axes = call.axes(out)
    meet = any(not is_within(axes[a]) for a in dropped)
    kept = tuple(a for i, a in enumerate(axes) if i not in dropped)
    found.append(Layout(kept, meet))
  return found


def along_axis(call: Call) -> list[Layout | None]:
  """Cumulative sums and the like."""
  axis = call.params['axis']
  return [along(call.axes(0), [axis], [call.out_shape[axis]], call.batch)]


def reverse(call: Call) -> list[Layout | None]:
  """The order of some axes reversed."""
  which = call.params['dimensions']
  sizes = [call.out_shape[axis] for axis in which]
  return [along(call.axes(0), which, sizes, call.batch)]


def sort(call: Call) -> list[Layout | None]:
  """All operands in the order of the first."""
  axis = call.params['dimension']
  joined = join(call.layouts, call.out_shape)
  if joined is None:
    return [None] * len(call.layouts)
  one = along(joined.axes, [axis], [call.out_shape[axis]], call.batch)
  return [Layout(one.axes, one.coupled or joined.coupled)] * len(call.layouts)


def top_k(call: Call) -> list[Layout | None]:
  """The largest along an axis, and their places."""
  axes = call.axes(0)
  axis = call.params.get('axis', call.params.get('reduction_dimension', -1))
  axis %= len(axes)
  size = call.out_shape[axis]
  return [along(axes, [axis], [size], call.batch)] * 2


def fft(call: Call) -> list[Layout | None]:
  """Fourier transforms over the last axes."""
  axes, shape = call.axes(0), call.out_shape
  count = len(call.params['fft_lengths'])
  which = range(len(shape) - count, len(shape))
  return [along(axes, which, [shape[a] for a in which], call.batch)]


def window(call: Call) -> list[Layout | None]:
  """A sliding window, which leaves an axis alone if it is of one element."""
  axes, shape = call.axes(0), call.out_shape
  params = call.params
  which = [
    axis
    for axis, size in enumerate(params['window_dimensions'])
    if size != 1 or shape[axis] != call.shape(0)[axis]
  ]
  return [along(axes, which, [shape[a] for a in which], call.batch)]


def pad(call: Call) -> list[Layout | None]:
  """Elements put around."""
  config = call.params['padding_config']
  which = [axis for axis, padding in enumerate(config) if any(padding)]
  sizes = [call.out_shape[axis] for axis in which]
  return [along(call.axes(0), which, sizes, call.batch)]


def bitcast(call: Call) -> list[Layout | None]:
  """The same bits as other numbers, in a new last axis or in one less."""
  axes, shape = call.axes(0), call.out_shape
  if len(axes) < len(shape):
    return [Layout((*axes, within(shape[-1])))]
  return [Layout(axes[: len(shape)])]


def unwrapped(call: Call) -> list[Layout | None]:
  """Random keys made of numbers, whose last axis goes."""
  layout = call.layouts[0]
  assert layout is not None
  meet = not is_within(layout.axes[-1])
  return [Layout(layout.axes[:-1], meet)]


def random(call: Call) -> list[Layout | None]:
  """Numbers drawn by keys that depend on the inputs: the keys' axes lead."""
  keys = join(call.layouts, call.shape(0))
  assert keys is not None
  count = len(keys.axes)
  shapes = [jaxprs.shape_of(v) for v in call.equation.outvars]
  return [
    Layout((*keys.axes, *map(within, shape[count:])), keys.coupled)
    for shape in shapes
  ]


def across_devices(call: Call) -> list[Layout | None]:
  """Sums over devices: every sample meets those elsewhere."""
  return [v and Layout(v.axes, coupled=True) for v in call.layouts]
