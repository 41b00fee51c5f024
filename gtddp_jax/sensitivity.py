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
of samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gtddp_jax import contractions, per_sample
from gtddp_jax import graph as graph_lib
from gtddp_jax import trajectory as trajectory_lib

Array = jax.Array
Arrays = tuple[jax.Array, ...]
Solve = Callable[[Arrays], Arrays]

LARGEST_KEPT = 2**26


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
    points = trajectory.points
    own = set(points[t].stage.control)
    self._uses = [
      per_sample.Use(s, points[s], directions[s])
      for s in range(t, len(points))
      if s == t or own & set(points[s].stage.shared)
    ]
    self._graph = graph
    self._batch = graph.batch_size
    self._rank = directions[-1].after[0].shape[0]
    self._control = points[t].control
    self._size = sum(math.prod(u.shape) for u in self._control)
    self._kept: Array | None = None  # [B, R, p]

  def combine(self, weights: Array) -> Arrays:
    """``(1/B) sum_i sum_r w_i^r g^{i,r}``; weights ``[B, R]``."""
    weights = weights / self._batch
    if self._kept is not None:
      kept = self._kept.reshape(-1, self._size)
      return self._unflatten(weights.astype(kept.dtype).ravel() @ kept)
    weigh = trajectory_lib.weigh
    own, *later = self._uses
    _, total, _ = own.point.pull_layer(weigh(weights, own.directions.layer))
    for _, point, directions in later:
      _, _, pulled = point.pull(weigh(weights, directions.after))
      total = per_sample.add_uses(
        own.point.stage.control, total, point.stage.shared, pulled
      )
    return total

  def directional(self, k: Arrays) -> Array:
    """``g^{i,r} . k``, ``[B, R]``."""
    if self._kept is not None:
      return self._kept @ _flatten(k).astype(self._kept.dtype)
    own = self._uses[0]
    return self._change(own, k) + self.shared_change(k, after=own.t)

  def shared_change(self, k: Arrays, after: int) -> Array:
    """What uses after stage ``after`` make of a change ``k``, ``[B, R]``."""
    total = jnp.zeros(())
    for use in self._uses[1:]:
      if use.t > after:
        total += self._change(use, k)
    return total

  def gram(self, solve: Solve) -> Array:
    """``g^{i,r} . Q_uu^-1 g^{i,s}``, ``[B, R, R]``; keeps ``g`` if it fits."""

    def products(g: Array) -> Array:  # [R, p] of one sample
      return g @ self._solved(solve, g).T

    self.keep()
    if self._kept is None:
      grams = jax.lax.map(
        lambda block: jax.vmap(products)(self._rows(block)), self._blocks()
      )
      return grams.reshape(self._batch, self._rank, self._rank)
    if self._rank > 1:
      return contractions.over_samples(products, self._kept)
    g = self._kept[:, 0]
    return jnp.sum(g * self._solved(solve, g), axis=1)[:, None, None]

  def kernel(self, solve: Solve) -> Array:
    """``g^{i,r} . Q_uu^-1 g^{j,s}``, ``[B, R, B, R]``; keeps ``g`` if it fits.

    Otherwise both sample axes go over blocks, and gradients are formed again
    for every pair of blocks.
    """

    def flat(g: Array) -> Array:
      return g.reshape(-1, self._size)

    def from_left(block: list[per_sample.Sample]) -> Array:
      left = flat(self._rows(block))
      columns = jax.lax.map(
        lambda right: left @ self._solved(solve, flat(self._rows(right))).T,
        blocks,
      )  # [blocks, b R, b R]
      return jnp.moveaxis(columns, 0, 1).reshape(columns.shape[1], -1)

    self.keep()
    if self._kept is not None:
      g = flat(self._kept)
      products = g @ self._solved(solve, g).T
    else:
      blocks = self._blocks()
      products = jax.lax.map(from_left, blocks)
    return products.reshape(self._batch, self._rank, self._batch, self._rank)

  def keep(self) -> None:
    """Forms the per-sample gradients ``[B, R, p]`` if they fit."""
    numbers = self._batch * self._rank * self._size
    if self._kept is None and numbers <= LARGEST_KEPT:
      self._kept = self._rows(per_sample.samples(self._uses, self._batch))

  def _rows(self, data: list[per_sample.Sample]) -> Array:
    return per_sample.rows(self._graph, self._uses, data, self._rank)

  def _blocks(self) -> list[per_sample.Sample]:
    """The samples in blocks whose gradients fit, leading axis = blocks."""
    most = max(1, LARGEST_KEPT // (self._rank * self._size))
    sizes = range(1, min(most, self._batch) + 1)
    block = max(b for b in sizes if self._batch % b == 0)
    blocks: list[per_sample.Sample] = jax.tree.map(
      lambda v: v.reshape(self._batch // block, block, *v.shape[1:]),
      per_sample.samples(self._uses, self._batch),
    )
    return blocks

  def _change(self, use: per_sample.Use, k: Arrays) -> Array:
    """``<P, derivative of a use along k>``, ``[B, R]``."""
    own = use is self._uses[0]
    point = use.point
    read, at = per_sample.reader(
      point.stage, point, point.x if own else point.state, point.fixed, own=own
    )
    given = dict(zip(self._uses[0].point.stage.control, k, strict=True))
    indices = point.stage.control if own else point.stage.shared
    tangent = tuple(
      given[i].astype(v.dtype) if i in given else jnp.zeros_like(v)
      for i, v in zip(indices, at, strict=True)
    )
    _, change = jax.jvp(read, (at,), (tangent,))
    directions = use.directions.layer if own else use.directions.after
    return trajectory_lib.dot(directions, change, self._batch)

  def _solved(self, solve: Solve, g: Array) -> Array:
    """``Q_uu^-1`` applied to every row of ``[n, p]``."""
    return jax.vmap(lambda row: _flatten(solve(self._unflatten(row))))(g)

  def _unflatten(self, row: Array) -> Arrays:
    ends = np.cumsum([math.prod(u.shape) for u in self._control])[:-1]
    return tuple(
      piece.reshape(u.shape).astype(u.dtype)
      for piece, u in zip(jnp.split(row, ends), self._control, strict=True)
    )


def _flatten(leaves: Arrays) -> Array:
  flat = [leaf.ravel() for leaf in leaves]
  return jnp.concatenate(flat) if len(flat) > 1 else flat[0]
