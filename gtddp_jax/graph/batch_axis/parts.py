"""Layouts of parts of values, and of values put together."""

from __future__ import annotations

from collections.abc import Sequence

from gtddp_jax.graph.batch_axis.call import Call, along, either, join, slots
from gtddp_jax.graph.batch_axis.layout import (
  WITHIN,
  Axis,
  Factor,
  Layout,
  is_within,
  merged,
  size_of,
  within,
)


def cut(axis: Axis, start: int, stop: int, step: int, batch: int) -> Layout:
  """The axis of ``[start:stop:step]`` of an axis, as a layout of one axis."""
  size = size_of(axis)
  count = max(0, -(-(stop - start) // step))
  if count == size:
    return Layout((axis,))
  if is_within(axis):
    return Layout((within(count),))
  first, *rest = axis
  block = size // first.size
  whole = start % block == 0 and stop % block == 0 and step == 1
  if first.stride == WITHIN and whole:  # some of the outermost parts
    return Layout((merged((Factor((stop - start) // block), *rest)),))
  *rest, last = axis
  inner = last.stride == WITHIN and step == last.size and start < step
  if inner and count == size // step:  # one of the innermost
    return Layout((tuple(rest),))
  return Layout((slots(count, batch),), coupled=True)


def slice(call: Call) -> list[Layout | None]:
  """The part ``[start:stop:step]`` of each axis."""
  params, axes = call.params, call.axes(0)
  steps = params['strides'] or (1,) * len(axes)
  bounds = zip(
    axes, params['start_indices'], params['limit_indices'], steps, strict=True
  )
  cuts = [cut(*bound, call.batch) for bound in bounds]
  return [Layout(tuple(c.axes[0] for c in cuts), any(c.coupled for c in cuts))]


def split(call: Call) -> list[Layout | None]:
  """Parts of one axis, one after the other."""
  axes, at, where = call.axes(0), 0, call.params['axis']
  found: list[Layout | None] = []
  for size in call.params['sizes']:
    part = cut(axes[where], at, at + size, 1, call.batch)
    parts = (*axes[:where], part.axes[0], *axes[where + 1 :])
    found.append(Layout(parts, part.coupled))
    at += size
  return found


def stack(call: Call) -> list[Layout | None]:
  """Values behind each other in a new axis."""
  at, shape = call.params['axis'], call.out_shape
  found = join(call.layouts, (*shape[:at], *shape[at + 1 :]))
  assert found is not None
  axes = (*found.axes[:at], within(shape[at]), *found.axes[at:])
  return [Layout(axes, found.coupled)]


def unstack(call: Call) -> list[Layout | None]:
  """What is in each place of an axis."""
  axes, at = call.axes(0), call.params['axis']
  meet = not is_within(axes[at])
  rest = Layout((*axes[:at], *axes[at + 1 :]), meet)
  return [rest] * len(call.equation.outvars)


def tile(call: Call) -> list[Layout | None]:
  """Each axis repeated as a whole."""
  pairs = zip(call.params['reps'], call.axes(0), strict=True)
  return [Layout(tuple(merged((Factor(n), *axis)) for n, axis in pairs))]


def concatenate(call: Call) -> list[Layout | None]:
  """Values one after the other along an axis."""
  axis, shape = call.params['dimension'], call.out_shape
  # Parts of size 0 have nothing to say.
  all_parts = list(range(len(call.layouts)))
  numbers = [i for i in all_parts if call.shape(i)[axis]] or all_parts
  kept = [  # the axis in question is looked at apart
    v and Layout((*v.axes[:axis], *v.axes[axis + 1 :]), v.coupled)
    for v in (call.layouts[i] for i in numbers)
  ]
  others = join(kept, (*shape[:axis], *shape[axis + 1 :]))
  if others is None:  # what is not empty depends on no input
    return [None]
  parts = [call.axes(i)[axis] for i in numbers]
  joined = _end_to_end(parts, shape[axis], call.batch)
  axes = (*others.axes[:axis], joined.axes[0], *others.axes[axis:])
  return [Layout(axes, joined.coupled or others.coupled)]


def _end_to_end(parts: Sequence[Axis], size: int, batch: int) -> Layout:
  """Axes one after the other, as a layout of one axis."""
  if all(map(is_within, parts)):
    return Layout((within(size),))
  heads = [p[0].size if p and p[0].stride == WITHIN else 1 for p in parts]
  tails = [p[1:] if p and p[0].stride == WITHIN else p for p in parts]
  if len(set(tails)) == 1 and all(f.stride >= 0 for f in tails[0]):
    return Layout((merged((Factor(sum(heads)), *tails[0])),))
  return Layout((slots(size, batch),), coupled=True)


def dynamic_slice(call: Call) -> list[Layout | None]:
  """A part whose place is computed."""
  axes, sizes = call.axes(0), call.params['slice_sizes']
  which = [a for a, size in enumerate(sizes) if size != size_of(axes[a])]
  return [along(axes, which, [sizes[a] for a in which], call.batch)]


def dynamic_update(call: Call) -> list[Layout | None]:
  """A value with a part replaced whose place is computed."""
  coupled, axes = False, []
  for whole, part in zip(call.axes(0), call.axes(1), strict=True):
    if size_of(whole) == size_of(part):
      axis, differ = either(whole, part)
    else:
      axis, differ = whole, not (is_within(whole) and is_within(part))
    axes.append(axis)
    coupled |= differ
  return [Layout(tuple(axes), coupled)]
