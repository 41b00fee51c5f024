"""Sensitivities: the per-sample gradients of one control, as an operator.

``g^{i,r} = F_u^T P_{t+1}^{i,r}`` is the gradient of control ``t`` that
direction ``r`` of sample ``i`` gives. The recursions need four products::

    combine(w)      (1/B) sum_i sum_r w_i^r g^{i,r}     like u
    directional(k)  g^{i,r} . k                         [B, R]
    gram(solve)     g^{i,r} . Q_uu^-1 g^{i,s}           [B, R, R]
    kernel(solve)   g^{i,r} . Q_uu^-1 g^{j,s}           [B, R, B, R]

Per-sample gradients are kept when they fit in ``LARGEST_KEPT`` numbers: all are
then matrix products. Otherwise ``combine`` is a back-propagation of re-weighted
samples, ``directional`` a forward derivative, and the other two go over blocks
of samples. A control that later stages read again collects the gradients of all
its uses.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax import contractions
from gtddp_jax import graph as graph_lib
from gtddp_jax import trajectory as trajectory_lib

Array = jax.Array
Arrays = tuple[jax.Array, ...]
Solve = Callable[[Arrays], Arrays]

LARGEST_KEPT = 2**26

Piece = tuple[Arrays, graph_lib.Fixed, Arrays]


class Samples(NamedTuple):
  """What per-sample gradients are made from, leading axis = samples.

  Attributes:
    own: input of the layer, what is fixed, cotangents of the layer's output.
    again: for each later use, the state, what is fixed, cotangents after it.
  """

  own: Piece
  again: list[Piece]


class Sensitivity:
  """The operator ``G_t`` of one stage (see the module's head)."""

  def __init__(
    self,
    graph: graph_lib.LayerGraph,
    trajectory: trajectory_lib.Trajectory,
    directions: Sequence[trajectory_lib.Directions],
    t: int,
  ):
    """Collects stage ``t`` and the later stages that read its control."""
    self._graph = graph
    self._point = trajectory.points[t]
    self._directions = directions[t]
    self._kept: Arrays | None = None
    self._t = t
    self._rank = directions[-1].after[0].shape[0]
    own = self._point.stage.control
    self._again = [
      (s, trajectory.points[s], directions[s])
      for s in range(t + 1, len(directions))
      if set(own) & set(trajectory.points[s].stage.shared)
    ]

  def combine(self, weights: Array) -> Arrays:
    """``(1/B) sum_i sum_r w_i^r g^{i,r}``; weights ``[B, R]``."""
    weights = weights / self._graph.batch_size
    if self._kept is not None:
      return tuple(
        jnp.tensordot(weights.astype(g.dtype), g, axes=[[0, 1], [0, 1]])
        for g in self._kept
      )
    weigh = trajectory_lib.weigh
    _, total, _ = self._point.pull_layer(weigh(weights, self._directions.layer))
    for _, point, directions in self._again:
      _, _, pulled = point.pull(weigh(weights, directions.after))
      total = self._add(
        total, dict(zip(point.stage.shared, pulled, strict=True))
      )
    return total

  def directional(self, k: Arrays) -> Array:
    """``g^{i,r} . k``, ``[B, R]``."""
    if self._kept is not None:
      return _sum(
        jnp.tensordot(g, v.astype(g.dtype), axes=v.ndim)
        for g, v in zip(self._kept, k, strict=True)
      )
    stage, batch = self._point.stage, self._graph.batch_size
    _, change = jax.jvp(
      lambda u: stage.layer(
        self._point.x, u, self._point.shared, self._point.fixed
      ),
      (self._point.control,),
      (tuple(map(_like, k, self._point.control)),),
    )
    total = trajectory_lib.dot(self._directions.layer, change, batch)
    return total + self.shared_change(k, after=self._t)

  def shared_change(self, k: Arrays, after: int) -> Array:
    """What uses after stage ``after`` make of a change ``k``, ``[B, R]``."""
    batch = self._graph.batch_size
    own = dict(zip(self._point.stage.control, k, strict=True))
    total = jnp.zeros(())
    for s, point, directions in self._again:
      if s <= after:
        continue
      tangent = tuple(
        _like(own[i], v) if i in own else jnp.zeros_like(v)
        for i, v in zip(point.stage.shared, point.shared, strict=True)
      )
      _, change = jax.jvp(
        _reader(point.stage, point.state, point.control, point.fixed),
        (point.shared,),
        (tangent,),
      )
      total += trajectory_lib.dot(directions.after, change, batch)
    return total

  def gram(self, solve: Solve) -> Array:
    """``g^{i,r} . Q_uu^-1 g^{i,s}``, ``[B, R, R]``; keeps ``g`` if it fits."""
    solve_all = jax.vmap(solve)

    def products(g: Arrays) -> Array:  # leaves [R, ...] of one sample
      return _sum(
        _rows(a) @ _rows(b).T for a, b in zip(g, solve_all(g), strict=True)
      )

    self.keep()
    if self._kept is not None:
      if self._rank == 1:
        return jax.vmap(products)(self._kept)
      return contractions.over_samples(products, self._kept)
    grams = jax.lax.map(
      lambda s: jax.vmap(products)(self._gradients(s)), self._blocks()
    )
    return grams.reshape(self._graph.batch_size, self._rank, self._rank)

  def kernel(self, solve: Solve) -> Array:
    """``g^{i,r} . Q_uu^-1 g^{j,s}``, ``[B, R, B, R]``; keeps ``g`` if it fits.

    Otherwise both sample axes go over blocks, and gradients are formed again
    for every pair of blocks.
    """

    def products(left: Arrays, right: Arrays) -> Array:  # leaves [b R, ...]
      return _sum(
        _rows(a) @ _rows(b).T
        for a, b in zip(left, jax.vmap(solve)(right), strict=True)
      )

    def flat(g: Arrays) -> Arrays:
      return tuple(v.reshape(-1, *v.shape[2:]) for v in g)

    self.keep()
    batch, rank = self._graph.batch_size, self._rank
    if self._kept is not None:
      g = flat(self._kept)
      return products(g, g).reshape(batch, rank, batch, rank)
    blocks = self._blocks()

    def rows(left: Samples) -> Array:
      g = flat(self._gradients(left))
      columns = jax.lax.map(
        lambda right: products(g, flat(self._gradients(right))), blocks
      )  # [n, b R, b R]
      return jnp.moveaxis(columns, 0, 1).reshape(columns.shape[1], -1)

    return jax.lax.map(rows, blocks).reshape(batch, rank, batch, rank)

  def _blocks(self) -> Samples:
    """The samples in blocks whose gradients fit, leading axis = blocks."""
    batch = self._graph.batch_size
    most = max(1, LARGEST_KEPT // (self._rank * self._size()))
    block = max(b for b in range(1, batch + 1) if batch % b == 0 and b <= most)
    blocks: Samples = jax.tree.map(
      lambda v: v.reshape(batch // block, block, *v.shape[1:]), self._samples()
    )
    return blocks

  def keep(self) -> None:
    """Forms the per-sample gradients ``[B, R, ...]`` if they fit."""
    numbers = self._graph.batch_size * self._rank * self._size()
    if self._kept is None and numbers <= LARGEST_KEPT:
      self._kept = self._gradients(self._samples())

  def _size(self) -> int:
    return sum(math.prod(u.shape) for u in self._point.control)

  def _samples(self) -> Samples:
    """What the gradients of each sample are made from, leading axis B."""
    batch = self._graph.batch_size

    def split(values: Arrays) -> Arrays:
      return tuple(v.reshape(batch, -1, *v.shape[1:]) for v in values)

    def bars(values: Arrays) -> Arrays:
      return tuple(
        jnp.moveaxis(v.reshape(v.shape[0], batch, -1, *v.shape[2:]), 0, 1)
        for v in values
      )

    def fixed(point: trajectory_lib.Point) -> graph_lib.Fixed:
      return graph_lib.Fixed(split(point.fixed.aux), split(point.fixed.inputs))

    own = self._point
    return Samples(
      (split(own.x), fixed(own), bars(self._directions.layer)),
      [(split(p.state), fixed(p), bars(d.after)) for _, p, d in self._again],
    )

  def _gradients(self, samples: Samples) -> Arrays:
    """Per-sample gradients ``[b, R, ...]`` of the samples given."""
    stage, control = self._point.stage, self._point.control
    closed = None
    if contractions.supports(stage) and not self._again:
      closed = stage.kernel
    gradients: list[Array] = []
    if len(control) > (closed is not None):
      gradients += jax.vmap(self._of_sample)(samples)
    if closed is not None:
      (x, _, h_bar), _ = samples
      kernel = contractions.kernel_gradients(
        stage, x[0], h_bar[0], control[closed].shape
      )
      gradients[closed : closed + 1] = [kernel]
    return tuple(gradients)

  def _of_sample(self, sample: Samples) -> Arrays:
    """Gradients ``[R, ...]`` of one sample, by differentiation.

    Stages are traced for whole batches. A batch of two, the sample twice with
    a cotangent on the first, is the smallest that every network treats so.
    """
    pair = self._graph.for_batch(2).stages
    (x, fixed, h_bar), again = sample
    control = self._point.control
    _, pull = jax.vjp(
      lambda u: pair[self._t].layer(
        _twice(x), u, self._point.shared, _twice(fixed)
      ),
      control,
    )
    total: Arrays = tuple(
      jnp.zeros((self._rank, *u.shape), u.dtype) for u in control
    )
    if h_bar:  # else only later stages read this control
      (total,) = jax.vmap(lambda bar: pull(_padded(bar)))(h_bar)
    for (s, point, _), (c, fixed, bars) in zip(self._again, again, strict=True):
      _, pull = jax.vjp(
        _reader(pair[s], _twice(c), point.control, _twice(fixed)), point.shared
      )
      (pulled,) = jax.vmap(lambda bar, pull=pull: pull(_padded(bar)))(bars)
      total = self._add(
        total, dict(zip(point.stage.shared, pulled, strict=True))
      )
    return total

  def _add(self, total: Arrays, more: dict[int, Array]) -> Arrays:
    return tuple(
      g + more[i] if i in more else g
      for i, g in zip(self._point.stage.control, total, strict=True)
    )


def _sum(terms: Iterable[Array]) -> Array:
  return functools.reduce(jnp.add, terms)


def _like(value: Array, like: Array) -> Array:
  return value.astype(like.dtype)


def _rows(g: Array) -> Array:
  return g.reshape(g.shape[0], -1)


def _twice(values: Any) -> Any:
  return jax.tree.map(lambda v: jnp.concatenate([v, v]), values)


def _padded(values: Any) -> Any:
  return jax.tree.map(lambda v: jnp.concatenate([v, jnp.zeros_like(v)]), values)


def _reader(
  stage: graph_lib.Stage, c: Arrays, u: Arrays, fixed: graph_lib.Fixed
) -> Callable[[Arrays], Arrays]:
  """The stage as a function of the earlier controls that it reads again."""
  return lambda v: stage(c, u, v, fixed)[0]
