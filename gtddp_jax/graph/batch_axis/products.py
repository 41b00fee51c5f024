"""Layouts of contractions, convolutions and stacks of matrices."""

from __future__ import annotations

from gtddp_jax.graph import program as jaxprs
from gtddp_jax.graph.batch_axis.call import Call, join, slots
from gtddp_jax.graph.batch_axis.layout import (
  Axis,
  Factor,
  Layout,
  is_within,
  merged,
  size_of,
  within,
)


def dot_general(call: Call) -> list[Layout | None]:
  """Products summed over contracted axes."""
  (contracted, shared) = call.params['dimension_numbers']
  left, right = call.axes(0), call.axes(1)
  meet = any(not is_within(left[a]) for a in contracted[0]) or any(
    not is_within(right[a]) for a in contracted[1]
  )
  axes: list[Axis] = []
  for a, b in zip(*shared, strict=True):
    sides = [
      v and Layout((side[at],))
      for v, side, at in zip(call.layouts, (left, right), (a, b), strict=True)
    ]
    found = join(sides, (size_of(left[a]),))
    assert found is not None
    axes.append(found.axes[0])
    meet |= found.coupled
  for side, side_axes in enumerate((left, right)):
    used = {*contracted[side], *shared[side]}
    axes += [a for at, a in enumerate(side_axes) if at not in used]
  return [Layout(tuple(axes), meet)]


def convolution(call: Call) -> list[Layout | None]:
  """A convolution; kernels of several samples come as its groups."""
  numbers, groups = (
    call.params['dimension_numbers'],
    call.params['feature_group_count'],
  )
  left, right, shape = call.axes(0), call.axes(1), call.out_shape
  inputs, outputs = numbers.lhs_spec, numbers.out_spec
  axes = list(map(within, shape))
  axes[outputs[0]] = left[inputs[0]]
  space = [left[a] for a in inputs[2:]]
  space += [right[a] for a in numbers.rhs_spec[1:]]
  meet = not all(map(is_within, space))
  channels, filters = left[inputs[1]], right[numbers.rhs_spec[0]]
  if call.params['batch_group_count'] != 1:
    meet |= not (is_within(left[inputs[0]]) and is_within(filters))
    axes[outputs[0]] = within(shape[outputs[0]])
  elif not (is_within(channels) and is_within(filters)):
    grouped = _grouped(channels, filters, groups, shape[outputs[1]])
    meet |= grouped is None
    axes[outputs[1]] = grouped or slots(shape[outputs[1]], call.batch)
  return [Layout(tuple(axes), meet)]


def _grouped(
  channels: Axis, filters: Axis, groups: int, size: int
) -> Axis | None:
  """Output channels of a convolution whose groups are the samples."""
  first = channels[0] if not is_within(channels) else filters[0]
  for axis in (channels, filters):
    if not is_within(axis) and axis[0] != first:
      return None
  if first.stride <= 0 or groups % first.size or size % first.size:
    return None
  if any(f.stride for axis in (channels, filters) for f in axis[1:]):
    return None
  return merged((first, Factor(size // first.size)))


def matrices(call: Call) -> list[Layout | None]:
  """Of stacks of matrices, one by one: leading axes are kept."""
  name = call.equation.primitive.name
  own = 1 if name == 'lu_pivots_to_permutation' else 2
  count = len(call.shape(0)) - own
  stacks = [v and Layout(v.axes[:count], v.coupled) for v in call.layouts]
  stack = join(stacks, call.shape(0)[:count])
  assert stack is not None
  inner = [axis for v in call.layouts if v for axis in v.axes[count:]]
  meet = stack.coupled or not all(map(is_within, inner))
  return [
    Layout((*stack.axes, *map(within, jaxprs.shape_of(v)[count:])), meet)
    for v in call.equation.outvars
  ]
