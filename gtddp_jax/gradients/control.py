"""Per-sample gradients of a control, as rows of a matrix.

Row ``(i, r)`` is ``g^{i,r}``, all leaves of the control packed into one vector.
Some kinds of layers have a closed form; other controls are differentiated
sample by sample. A control that later stages read again has
several *uses*, its own stage first; the row is the sum over them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax import errors
from gtddp_jax import graph as graph_lib
from gtddp_jax.gradients import packing
from gtddp_jax.gradients import trajectory as trajectory_lib

Array = jax.Array
Arrays = tuple[jax.Array, ...]


class Use(NamedTuple):
  """A stage that reads the control, linearised."""

  t: int
  point: trajectory_lib.Point
  directions: trajectory_lib.Directions


class Sample(NamedTuple):
  """What a use contributes to per-sample gradients; leading axis = samples.

  Attributes:
    entry: the layer's input for the own stage (what of it has samples), the
      state for later ones.
    fixed: what is not differentiated.
    bars: cotangents after the layer, or after the stage; ``[B, R, k, ...]``.
  """

  entry: Arrays
  fixed: graph_lib.Fixed
  bars: Arrays


def samples(uses: Sequence[Use], batch: int) -> list[Sample]:
  """Splits the leading axis of everything per sample, ``[B, k, ...]``."""

  def split(values: Arrays) -> Arrays:
    return tuple(
      v.reshape(batch, v.shape[0] // batch, *v.shape[1:]) for v in values
    )

  def split_bars(values: Arrays) -> Arrays:
    return tuple(
      jnp.moveaxis(
        v.reshape(v.shape[0], batch, v.shape[1] // batch, *v.shape[2:]), 0, 1
      )
      for v in values
    )

  def sample(use: Use) -> Sample:
    own = use is uses[0]
    point, directions = use.point, use.directions
    fixed = graph_lib.Fixed(split(point.fixed.aux), split(point.fixed.inputs))
    return Sample(
      split(_of_samples(point) if own else point.state),
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
  form = closed_form(uses)
  if form is not None:
    (x,), (h,) = data[0].entry, data[0].bars
    return form.gradients(x, h)
  leaves = jax.vmap(lambda d: _of_sample(graph, uses, d, rank))(data)
  flat = [
    leaf.reshape(*leaf.shape[:2], math.prod(leaf.shape[2:])) for leaf in leaves
  ]
  return jnp.concatenate(flat, axis=-1) if len(flat) > 1 else flat[0]


def closed_form(uses: Sequence[Use]) -> graph_lib.ClosedForm | None:
  """That of the layer, if the control is not read anywhere else."""
  return None if len(uses) > 1 else uses[0].point.stage.closed_form


def _of_samples(point: trajectory_lib.Point) -> Arrays:
  pairs = zip(point.x, point.stage.has_samples, strict=True)
  return tuple(x for x, own in pairs if own)


def _of_sample(
  graph: graph_lib.LayerGraph,
  uses: Sequence[Use],
  data: list[Sample],
  rank: int,
) -> Arrays:
  """Gradients of one sample by differentiation, leaves ``[R, ...]``.

  Stages are traced for whole batches. The sample several times, with a
  cotangent on the first, is the smallest that every network treats as such.
  """
  few = graph.of_few()
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
    entry = _repeated(entry, few.batch_size)
    if use is own:
      entry = _with_shared(own.point, few.stages[use.t], entry)
    read, at = reader(
      few.stages[use.t],
      use.point,
      entry,
      dataclasses.replace(
        _repeated(fixed, few.batch_size), extras=use.point.fixed.extras
      ),
      own=use is own,
    )
    _, pull = jax.vjp(read, at)
    (pulled,) = jax.vmap(
      lambda bar, pull=pull: pull(_padded(bar, few.batch_size))
    )(bars)
    indices = use.point.stage.control if use is own else use.point.stage.shared
    total = add_uses(own.point.stage.control, total, indices, pulled)
  return total


def _with_shared(
  point: trajectory_lib.Point, few: graph_lib.Stage, entry: Arrays
) -> Arrays:
  """The layer's input for few samples: with what is the same for all samples.

  Raises:
    OptionError: if that has another shape in a batch of few.
  """
  rest, found = iter(entry), []
  for x, own, shape in zip(
    point.x, point.stage.has_samples, few.x, strict=True
  ):
    value = next(rest) if own else x
    if value.shape != shape.shape:
      raise errors.OptionError(
        f'Per-sample gradients of {point.stage.name!r}: it reads an array of '
        f'shape {list(value.shape)} that is made for the whole batch at once '
        f'(of few, {list(shape.shape)}). Use value="frozen", '
        f'or compute it in another module.',
        'value',
      )
    found.append(value)
  return tuple(found)


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
  point: trajectory_lib.Point,
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


def _repeated(values: Any, times: int) -> Any:
  return jax.tree.map(lambda v: jnp.concatenate([v] * times), values)


def _padded(values: Any, times: int) -> Any:
  """With zeros in the place of all samples but the first."""

  def padded(v: Array) -> Array:
    return jnp.concatenate([v, *[jnp.zeros_like(v)] * (times - 1)])

  return jax.tree.map(padded, values)


def _forward(
  function: Callable[[Arrays], Arrays], at: Arrays, tangent: Arrays
) -> Arrays:
  """The derivative along a tangent of a function with a backward one alone.

  Pulling a cotangent back is linear; the transpose of that is the forward
  derivative.
  """
  after, pull = jax.vjp(function, at)
  (change,) = jax.linear_transpose(lambda bar: pull(bar)[0], after)(tangent)
  return change


class Player:
  """Per-sample gradients of one control (see the module's head).

  Attributes:
    closed_form: of its layer, or None.
    packing: how its leaves lie in a row.
    size: length of a row.
    indices: flat parameter indices of its leaves.
    itemsize: bytes of one number of a gradient.
  """

  def __init__(
    self,
    graph: graph_lib.LayerGraph,
    trajectory: trajectory_lib.Trajectory,
    directions: Sequence[trajectory_lib.Directions],
    t: int,
  ):
    """Collects stage ``t`` and the later stages that read its control."""
    points = trajectory.points
    self.indices = points[t].stage.control
    own = set(self.indices)
    self._uses = [
      Use(s, points[s], directions[s])
      for s in range(t, len(points))
      if s == t or own & set(points[s].stage.shared)
    ]
    self._graph = graph
    last = directions[-1].after[0]
    self._rank = last.shape[0]
    self.itemsize = last.dtype.itemsize
    control = points[t].control
    self.size = sum(math.prod(u.shape) for u in control)
    self.closed_form = closed_form(self._uses)
    self.packing: packing.Packing = self.closed_form or packing.EndToEnd(
      control
    )

  @property
  def positions(self) -> int:
    """T: at how many places of a sample its layer is used."""
    assert self.closed_form is not None
    (h,) = self._uses[0].directions.layer
    both = self._graph.batch_size * self._rank
    return self.closed_form.positions(h.shape) // both

  def samples(self) -> list[Sample]:
    """What its rows are made of, leading axis = samples."""
    return samples(self._uses, self._graph.batch_size)

  def rows(self, data: list[Sample]) -> Array:
    """Gradients of the samples given, ``[b, R, size]``."""
    return rows(self._graph, self._uses, data, self._rank)

  def factors(self) -> tuple[Array, Array]:
    """Inputs ``[B, k, ...]`` and cotangents ``[B, R, k, ...]`` of the layer."""
    (data,) = self.samples()
    return data.entry[0], data.bars[0]

  def combine(self, weights: Array) -> Arrays:
    """``sum_i sum_r w_i^r g^{i,r}``; weights ``[B, R]``, leaves as result."""
    weigh = trajectory_lib.weigh
    own, *later = self._uses
    if self.closed_form is not None and self.closed_form.sums_on_cpu:
      return self._summed(self.closed_form, weights)
    _, total, _ = own.point.pull_layer(weigh(weights, own.directions.layer))
    for _, point, directions in later:
      _, _, pulled = point.pull(weigh(weights, directions.after))
      total = add_uses(self.indices, total, point.stage.shared, pulled)
    return total

  def _summed(self, form: graph_lib.ClosedForm, weights: Array) -> Arrays:
    """``combine`` of a convolution.

    On a CPU, products of patches are up to 3 times faster than the gradient
    that XLA makes of a convolution, and seldom slower.
    """
    own = self._uses[0]
    return jax.lax.platform_dependent(
      *own.point.x,
      *own.directions.layer,
      weights,
      cpu=lambda x, h, w: form.unpack(form.total(x, h, w)),
      default=lambda _, h, w: own.point.pull_layer(
        trajectory_lib.weigh(w, (h,))
      )[1],
    )

  def directional(self, k: Arrays) -> Array:
    """``g^{i,r} . k``, ``[B, R]``, by a derivative along ``k``."""
    own = self._uses[0]
    return self._change(own, k) + self.shared_change(k, after=own.t)

  def shared_change(self, k: Arrays, after: int) -> Array:
    """What uses after stage ``after`` make of a change ``k``, ``[B, R]``."""
    total = jnp.zeros(())
    for use in self._uses[1:]:
      if use.t > after:
        total += self._change(use, k)
    return total

  def _change(self, use: Use, k: Arrays) -> Array:
    """``<P, derivative of a use along k>``, ``[B, R]``."""
    own = use is self._uses[0]
    point = use.point
    read, at = reader(
      point.stage, point, point.x if own else point.state, point.fixed, own=own
    )
    given = dict(zip(self.indices, k, strict=True))
    indices = point.stage.control if own else point.stage.shared
    tangent = tuple(
      given[i].astype(v.dtype) if i in given else jnp.zeros_like(v)
      for i, v in zip(indices, at, strict=True)
    )
    if point.stage.has_forward_derivative:
      _, change = jax.jvp(read, (at,), (tangent,))
    else:
      change = _forward(read, at, tangent)
    directions = use.directions.layer if own else use.directions.after
    return trajectory_lib.dot(directions, change, self._graph.batch_size)
