"""Per-sample gradients of a control, as rows of a matrix.

Row ``(i, r)`` is ``g^{i,r}``, all leaves of the control packed into one vector.
Dense and convolutional layers have a closed form; other controls are
differentiated sample by sample. A control that later stages read again has
several *uses*, its own stage first; the row is the sum over them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gtddp_jax import contractions, errors, inverses, trajectory
from gtddp_jax import graph as graph_lib

Array = jax.Array
Arrays = tuple[jax.Array, ...]


class Use(NamedTuple):
  """A stage that reads the control, linearised."""

  t: int
  point: trajectory.Point
  directions: trajectory.Directions


class Sample(NamedTuple):
  """What a use contributes to per-sample gradients; leading axis = samples.

  Attributes:
    entry: the layer's input for the own stage (what of it has a batch axis),
      the state for later ones.
    fixed: what is not differentiated.
    bars: cotangents after the layer, or after the stage; ``[B, R, k, ...]``.
  """

  entry: Arrays
  fixed: graph_lib.Fixed
  bars: Arrays


def samples(uses: Sequence[Use], batch: int) -> list[Sample]:
  """Splits the leading axis of everything per sample, ``[B, k, ...]``."""

  def split(values: Arrays) -> Arrays:
    return tuple(v.reshape(batch, -1, *v.shape[1:]) for v in values)

  def split_bars(values: Arrays) -> Arrays:
    return tuple(
      jnp.moveaxis(v.reshape(v.shape[0], batch, -1, *v.shape[2:]), 0, 1)
      for v in values
    )

  def sample(use: Use) -> Sample:
    own = use is uses[0]
    point, directions = use.point, use.directions
    fixed = graph_lib.Fixed(split(point.fixed.aux), split(point.fixed.inputs))
    return Sample(
      split(_spread(point) if own else point.state),
      fixed,
      split_bars(directions.layer if own else directions.after),
    )

  return list(map(sample, uses))


def rows(
  graph: graph_lib.LayerGraph,
  uses: Sequence[Use],
  data: list[Sample],
  rank: int,
) -> Array:
  """The per-sample gradients of the samples given.

  Args:
    graph: of the network.
    uses: of the control, its own stage first.
    data: some of the ``samples`` of these uses.
    rank: R, the number of directions.

  Returns:
    ``[b, R, p]``, with p the size of the control.
  """
  product = contraction(uses)
  if product is not None:
    (x,), (h,) = data[0].entry, data[0].bars
    return product.gradients(x, h)
  leaves = jax.vmap(lambda d: _of_sample(graph, uses, d, rank))(data)
  flat = [leaf.reshape(*leaf.shape[:2], -1) for leaf in leaves]
  return jnp.concatenate(flat, axis=-1) if len(flat) > 1 else flat[0]


class EndToEnd(NamedTuple):
  """All leaves end to end."""

  control: Arrays

  @property
  def shapes(self) -> tuple[tuple[int, ...], ...]:
    """Shapes of the leaves."""
    return tuple(u.shape for u in self.control)

  def pack(self, leaves: Arrays) -> Array:
    """Leaves like the control as a row ``[p]``."""
    flat = [leaf.ravel() for leaf in leaves]
    return jnp.concatenate(flat) if len(flat) > 1 else flat[0]

  def unpack(self, row: Array) -> Arrays:
    """The leaves in a row ``[p]``, in the dtypes of the control."""
    ends = np.cumsum([math.prod(u.shape) for u in self.control])[:-1]
    return tuple(
      piece.reshape(u.shape).astype(u.dtype)
      for piece, u in zip(jnp.split(row, ends), self.control, strict=True)
    )


class Together(NamedTuple):
  """The rows of several controls, end to end."""

  parts: tuple[inverses.Packing, ...]

  @property
  def shapes(self) -> tuple[tuple[int, ...], ...]:
    """Shapes of the leaves."""
    return tuple(shape for part in self.parts for shape in part.shapes)

  def pack(self, leaves: Arrays) -> Array:
    """Leaves like the controls as a row ``[p]``."""
    pieces = divide(leaves, [len(part.shapes) for part in self.parts])
    rows = [p.pack(x) for p, x in zip(self.parts, pieces, strict=True)]
    return rows[0] if len(rows) == 1 else jnp.concatenate(rows)

  def unpack(self, row: Array) -> Arrays:
    """The leaves in a row ``[p]``, in the dtypes of the controls."""
    sizes = [sum(map(math.prod, part.shapes)) for part in self.parts]
    rows = jnp.split(row, np.cumsum(sizes)[:-1])
    pairs = zip(self.parts, rows, strict=True)
    return tuple(leaf for part, piece in pairs for leaf in part.unpack(piece))


def divide(leaves: Arrays, counts: Sequence[int]) -> list[Arrays]:
  """Consecutive leaves in groups of so many."""
  ends = [sum(counts[: i + 1]) for i in range(len(counts))]
  pairs = zip(ends, counts, strict=True)
  return [leaves[end - count : end] for end, count in pairs]


def contraction(uses: Sequence[Use]) -> contractions.Contraction | None:
  """The product whose kernel (and bias) the control is, if it is just that."""
  stage, control = uses[0].point.stage, uses[0].point.control
  if len(uses) > 1 or not contractions.supports(stage):
    return None
  return contractions.Contraction(stage, control)


def _spread(point: trajectory.Point) -> Arrays:
  pairs = zip(point.x, point.stage.spread, strict=True)
  return tuple(x for x, spread in pairs if spread)


def _of_sample(
  graph: graph_lib.LayerGraph,
  uses: Sequence[Use],
  data: list[Sample],
  rank: int,
) -> Arrays:
  """Gradients of one sample by differentiation, leaves ``[R, ...]``.

  Stages are traced for whole batches. A batch of two, the sample twice with a
  cotangent on the first, is the smallest that every network treats as such.
  """
  pair = graph.for_batch(2).stages
  own = uses[0]
  control = own.point.control
  total = tuple(jnp.zeros((rank, *u.shape), u.dtype) for u in control)
  for use, (entry, fixed, bars) in zip(uses, data, strict=True):
    if not bars:  # only later stages read this control
      continue
    stage = use.point.stage
    for why in stage.entangled_layer if use is own else stage.entangled:
      raise errors.OptionError(
        f'Per-sample gradients of {own.point.stage.name!r}: stage '
        f'{stage.name!r}, which reads it, {_ENTANGLED[why]}',
        'value',
      )
    entry = _twice(entry)
    if use is own:  # what has no batch axis is the same for all samples
      rest = iter(entry)
      pairs = zip(own.point.x, own.point.stage.spread, strict=True)
      entry = tuple(next(rest) if spread else x for x, spread in pairs)
    read, at = reader(
      pair[use.t],
      use.point,
      entry,
      dataclasses.replace(_twice(fixed), extras=use.point.fixed.extras),
      own=use is own,
    )
    _, pull = jax.vjp(read, at)
    (pulled,) = jax.vmap(lambda bar, pull=pull: pull(_padded(bar)))(bars)
    indices = use.point.stage.control if use is own else use.point.stage.shared
    total = add_uses(own.point.stage.control, total, indices, pulled)
  return total


_ENTANGLED = {
  'random': 'draws random numbers for the whole batch at once: expected none '
  'there. Use value="frozen", or draw them in another module.',
  'mixing': 'makes a value from several samples (a mean over the batch, say), '
  'where no sample has a gradient of its own: expected none between the '
  'parameters and what the rest of the network reads. Use value="frozen", or '
  'give the normalisation a module, or trace(..., owner=...), of its own.',
}


def reader(
  stage: graph_lib.Stage,
  point: trajectory.Point,
  entry: Arrays,
  fixed: graph_lib.Fixed,
  *,
  own: bool,
) -> tuple[Callable[[Arrays], Arrays], Arrays]:
  """A use as a function of the controls it reads, and their nominal values.

  Args:
    stage: as traced for the batch size of ``entry``.
    point: for the nominal controls.
    entry: the layer's input if ``own``, else the state.
    fixed: what is not differentiated.
    own: whether this is the control's own stage (its layer alone is then the
      function) or a later one (the stage as a function of earlier controls).

  Returns:
    The function and the point where it is differentiated.
  """
  if own:
    return lambda u: stage.layer(entry, u, point.shared, fixed), point.control
  return lambda v: stage(entry, point.control, v, fixed)[0], point.shared


def add_uses(
  control: tuple[int, ...],
  total: Arrays,
  indices: tuple[int, ...],
  more: Arrays,
) -> Arrays:
  """Adds gradients of the leaves at ``indices`` to those of the control."""
  found = dict(zip(indices, more, strict=True))
  return tuple(
    g + found[i] if i in found else g
    for i, g in zip(control, total, strict=True)
  )


def _twice(values: Any) -> Any:
  return jax.tree.map(lambda v: jnp.concatenate([v, v]), values)


def _padded(values: Any) -> Any:
  return jax.tree.map(lambda v: jnp.concatenate([v, jnp.zeros_like(v)]), values)
