"""Layouts of what is taken from, or put into, places that are computed."""

from __future__ import annotations

from collections.abc import Sequence

from gtddp_jax.graph.batch_axis.call import (
  Call,
  counted,
  either,
  own_row,
  slots,
)
from gtddp_jax.graph.batch_axis.layout import (
  Axis,
  Layout,
  is_within,
  size_of,
  within,
)
from gtddp_jax.graph.batch_axis.parts import cut


def gather(call: Call) -> list[Layout | None]:
  """Slices taken from places that are computed."""
  numbers, sizes = call.params['dimension_numbers'], call.params['slice_sizes']
  source, index = call.axes(0), call.axes(1)[:-1]
  shape = call.out_shape
  axes: list[Axis] = list(map(within, shape))
  rows = [a for a in range(len(shape)) if a not in numbers.offset_dims]
  for row, axis in zip(rows, index, strict=True):
    axes[row] = axis
  coupled = False
  gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
  windows = iter(numbers.offset_dims)
  for at, axis in enumerate(source):
    place: int | None = next(windows) if at not in gone else None
    if is_within(axis):
      continue
    if at in numbers.operand_batching_dims:
      n = numbers.operand_batching_dims.index(at)
      row = rows[numbers.start_indices_batching_dims[n]]
      axes[row], differ = either(axis, axes[row])
      coupled |= differ
    elif place is not None:
      whole = sizes[at] == size_of(axis)
      axes[place] = axis if whole else slots(sizes[at], call.batch)
      coupled |= not whole
    else:
      own = _rows_of(call, at, axis)
      differ = own is None
      if own is not None:
        place, taken = own
        axes[rows[place]], differ = either(taken, axes[rows[place]])
      coupled |= differ
  if coupled and not any(f.stride for a in axes for f in a):
    axes = [
      slots(size, call.batch) if at in rows[:1] else axis
      for at, (axis, size) in enumerate(zip(axes, shape, strict=True))
    ]
  return [Layout(tuple(axes), coupled)]


def _rows_of(call: Call, at: int, axis: Axis) -> tuple[int, Axis] | None:
  """The axis of the indices by which each sample is given rows of its own.

  Returns:
    That axis, and what the rows are; None if samples ask for each other's.
  """
  numbers = call.params['dimension_numbers']
  found = counted(call, at, numbers.start_index_map)
  if found is None or found[1][0] < 0 or found[1][-1] >= size_of(axis):
    return None
  place, rows = found
  part = cut(axis, rows.start, rows[-1] + 1, rows.step, call.batch)
  return None if part.coupled else (place, part.axes[0])


def scatter(call: Call) -> list[Layout | None]:
  """Slices put into, or added to, places that are computed."""
  numbers = call.params['dimension_numbers']
  into, new, index = list(call.axes(0)), call.axes(2), call.axes(1)[:-1]
  gone = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
  windows = iter(numbers.update_window_dims)
  rows = [a for a in range(len(new)) if a not in numbers.update_window_dims]
  placed: set[int] = set()  # axes of the updates whose samples find their place
  coupled = False
  for at, axis in enumerate(into):
    if at not in gone:
      place = next(windows)
      same = size_of(new[place]) == size_of(axis)
    else:
      row = _target(call, at, axis, [new[r] for r in rows])
      same = row is not None
      place = rows[row] if row is not None else -1
    if not same:
      coupled |= not is_within(axis)
      continue
    placed.add(place)
    into[at], differ = either(axis, new[place])
    coupled |= differ
    if place in rows:
      into[at], differ = either(into[at], index[rows.index(place)])
      coupled |= differ
  stray = [axis for place, axis in enumerate(new) if place not in placed]
  asked = [index[n] for n, place in enumerate(rows) if place not in placed]
  coupled |= not all(map(is_within, (*stray, *asked)))
  return [Layout(tuple(into), coupled)]


def _target(
  call: Call, at: int, axis: Axis, updates: Sequence[Axis]
) -> int | None:
  """The axis of the indices whose rows go to the same rows of the operand."""
  numbers = call.params['dimension_numbers']
  if at in numbers.operand_batching_dims:
    n = numbers.operand_batching_dims.index(at)
    return numbers.scatter_indices_batching_dims[n]
  of_samples = [a for a in (axis, *updates) if not is_within(a)]
  if not of_samples:
    return None
  return own_row(call, at, numbers.scatter_dims_to_operand_dims, of_samples[0])
