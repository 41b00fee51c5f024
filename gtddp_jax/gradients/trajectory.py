"""The nominal trajectory, linearised, and directions propagated through it.

Forward, each stage is run once at the nominal state and control. Backward, the
terminal directions ``Z`` become ``P_t``, their ordinary back-propagation to the
cut ``c_t``, and ``H_t``, to the layer's output ``h_t``; no curvature enters::

    P_T = Z        H_t = leave_h^T P_{t+1}        P_t = F_c^T P_{t+1}

Arrays of directions have leading axes ``[R, B]``.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax import graph as graph_lib

Array = jax.Array
Arrays = tuple[jax.Array, ...]


@dataclasses.dataclass(frozen=True)
class Point:
  """A stage linearised at its nominal state and control.

  Attributes:
    stage: the stage.
    state: ``c``.
    fixed: what is not differentiated.
    control: ``u``.
    shared: ``v``, controls decided earlier.
    x: input of the layer.
    pull_enter: ``x_bar -> (c_bar, v_bar)``.
    pull_layer: ``h_bar -> (x_bar, u_bar, v_bar)``.
    pull_leave: ``c'_bar -> (c_bar, h_bar, v_bar)``.
  """

  stage: graph_lib.Stage
  state: Arrays
  fixed: graph_lib.Fixed
  control: Arrays
  shared: Arrays
  x: Arrays
  pull_enter: Callable[[Arrays], tuple[Arrays, Arrays]]
  pull_layer: Callable[[Arrays], tuple[Arrays, Arrays, Arrays]]
  pull_leave: Callable[[Arrays], tuple[Arrays, Arrays, Arrays]]

  def pull(self, after: Arrays) -> tuple[Arrays, Arrays, Arrays]:
    """Back-propagates ``c'_bar``: ``(c_bar, h_bar, v_bar)``."""
    c_leave, h_bar, v_leave = self.pull_leave(after)
    x_bar, _, v_layer = self.pull_layer(h_bar)
    c_enter, v_enter = self.pull_enter(x_bar)
    add = functools.partial(jax.tree.map, jnp.add)
    return add(c_leave, c_enter), h_bar, add(v_leave, add(v_layer, v_enter))


@dataclasses.dataclass(frozen=True)
class Trajectory:
  """The nominal rollout of a graph.

  Attributes:
    points: one per stage.
    outputs: the network's outputs, a pytree; complex ones as pairs of real
      numbers in a trailing axis.
    collections: those that the network changed.
    pull_outputs: outputs' cotangent to the cotangent of the last state.
  """

  points: tuple[Point, ...]
  outputs: Any
  collections: Any
  pull_outputs: Callable[[Any], Arrays]


@dataclasses.dataclass(frozen=True)
class Directions:
  """Back-propagated directions of one stage, leaves ``[R, B, ...]``.

  Attributes:
    state: ``P_t``, at the cut before the stage.
    layer: ``H_t``, at the layer's output.
    after: ``P_{t+1}``, at the cut after the stage.
  """

  state: Arrays
  layer: Arrays
  after: Arrays


def linearize(
  graph: graph_lib.LayerGraph,
  leaves: Arrays,
  inputs: Any,
  extras: graph_lib.Extras | None = None,
) -> Trajectory:
  """Runs the network once, keeping what back-propagation needs.

  Args:
    graph: traced for these input shapes.
    leaves: flat parameters.
    inputs: the batch.
    extras: collections and keys, those of the graph by default.

  Returns:
    The nominal trajectory.
  """
  fixed = graph.surroundings(inputs, extras)
  changed: dict[int, Array] = {}
  state: Arrays = ()
  points = []
  for stage in graph.stages:
    u = graph_lib.pick(leaves, stage.control)
    v = graph_lib.pick(leaves, stage.shared)
    x, pull_enter = jax.vjp(_bind(stage.enter, fixed), state, v)
    h, pull_layer = jax.vjp(_bind(stage.layer, fixed), x, u, v)
    after, pull_leave = jax.vjp(_bind(stage.leave, fixed), state, h, v)
    points.append(
      Point(stage, state, fixed, u, v, x, pull_enter, pull_layer, pull_leave)
    )
    new = stage.collect(state, leaves, fixed)
    changed.update(zip(stage.collected, new, strict=True))
    aux = stage.carry(state, u, v, fixed)
    state, fixed = kept(after), dataclasses.replace(fixed, aux=aux)
  outputs, pull_outputs = jax.vjp(
    lambda c: jax.tree.unflatten(
      jax.tree.structure(graph.outputs),
      map(graph_lib.as_real, graph.finish(c, leaves, fixed)),
    ),
    state,
  )
  return Trajectory(
    tuple(points),
    outputs,
    graph.changed_from(changed),
    lambda z: pull_outputs(z)[0],
  )


def kept(state: Arrays) -> Arrays:
  """A state that later passes read as it is.

  Else XLA may make it anew for each of them, from more than it is.
  """
  return jax.lax.optimization_barrier(state)


def _bind(
  piece: Callable[..., Arrays], fixed: graph_lib.Fixed
) -> Callable[..., Arrays]:
  return lambda *values: piece(*values, fixed)


def propagate(trajectory: Trajectory, terminal: Any) -> list[Directions]:
  """Back-propagates terminal directions ``Z`` to every stage.

  Args:
    trajectory: the nominal trajectory.
    terminal: ``Z``, a pytree like the outputs, leaves ``[R, B, ...]``.

  Returns:
    One ``Directions`` per stage.
  """
  terminal = graph_lib.cast(terminal, graph_lib.axes_of(trajectory.outputs))
  after = over_directions(trajectory.pull_outputs, terminal)
  directions = []
  for point in reversed(trajectory.points):
    state, layer, _ = over_directions(point.pull, after)
    directions.append(Directions(state, layer, after))
    after = state
  return directions[::-1]


def over_directions(pull: Callable[[Any], Any], bars: Any) -> Any:
  """Maps ``pull`` over the leading direction axis, without a loop if R = 1."""
  if not jax.tree.leaves(bars):
    return pull(bars)
  if jax.tree.leaves(bars)[0].shape[0] > 1:
    return jax.vmap(pull)(bars)
  pulled = pull(jax.tree.map(lambda z: z[0], bars))
  return jax.tree.map(lambda z: z[None], pulled)


def weigh(weights: Array, directions: Arrays) -> Arrays:
  """``sum_r w_i^r P^{i,r}``: weights ``[B, R]``, result leaves ``[B, ...]``."""
  return tuple(graph_lib.weighted_sum(weights, p) for p in directions)


def dot(directions: Arrays, change: Arrays, batch: int) -> Array:
  """``<P^{i,r}, change^i>`` per sample and direction, ``[B, R]``.

  Args:
    directions: leaves ``[R, B, ...]``.
    change: leaves ``[B, ...]``.
    batch: B.

  Returns:
    The inner products over the whole state, accumulated in float32 at least.
  """

  def products(p: Array, delta: Array) -> Array:
    wide = jnp.promote_types(p.dtype, jnp.float32)
    flat = (p * delta[None]).astype(wide)
    size = math.prod(delta.shape) // batch
    return flat.reshape(p.shape[0], batch, size).sum(axis=-1).T

  return sum(map(products, directions, change), start=jnp.zeros(()))
