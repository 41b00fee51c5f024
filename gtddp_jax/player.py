"""A player: one control, seen through all stages that read it.

Its own stage comes first; a tied control has later uses. What one direction of
one sample says about the control is the sum over the uses (``g^{i,r}``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gtddp_jax import contractions, inverses, per_sample
from gtddp_jax import graph as graph_lib
from gtddp_jax import trajectory as trajectory_lib

Array = jax.Array
Arrays = tuple[jax.Array, ...]


class Player:
  """Per-sample gradients of one control (see the module's head).

  Attributes:
    product: the contraction whose kernel and bias it decides, or None.
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
      per_sample.Use(s, points[s], directions[s])
      for s in range(t, len(points))
      if s == t or own & set(points[s].stage.shared)
    ]
    self._graph = graph
    last = directions[-1].after[0]
    self._rank = last.shape[0]
    self.itemsize = last.dtype.itemsize
    control = points[t].control
    self.size = sum(math.prod(u.shape) for u in control)
    self.product: contractions.Contraction | None = per_sample.contraction(
      self._uses
    )
    self.packing: inverses.Packing = self.product or per_sample.EndToEnd(
      control
    )

  @property
  def positions(self) -> int:
    """T: rows of the contraction for each sample."""
    assert self.product is not None
    (h,) = self._uses[0].directions.layer
    both = self._graph.batch_size * self._rank
    return self.product.positions(h.shape) // both

  def samples(self) -> list[per_sample.Sample]:
    """What its rows are made of, leading axis = samples."""
    return per_sample.samples(self._uses, self._graph.batch_size)

  def rows(self, data: list[per_sample.Sample]) -> Array:
    """Gradients of the samples given, ``[b, R, size]``."""
    return per_sample.rows(self._graph, self._uses, data, self._rank)

  def factors(self) -> tuple[Array, Array]:
    """Inputs ``[B, k, ...]`` and cotangents ``[B, R, k, ...]`` of the layer."""
    (data,) = self.samples()
    return data.entry[0], data.bars[0]

  def combine(self, weights: Array) -> Arrays:
    """``sum_i sum_r w_i^r g^{i,r}``; weights ``[B, R]``, leaves as result."""
    weigh = trajectory_lib.weigh
    own, *later = self._uses
    if self.product is not None and own.point.stage.kind == 'conv':
      return self._of_convolution(weights)
    _, total, _ = own.point.pull_layer(weigh(weights, own.directions.layer))
    for _, point, directions in later:
      _, _, pulled = point.pull(weigh(weights, directions.after))
      total = per_sample.add_uses(
        self.indices, total, point.stage.shared, pulled
      )
    return total

  def _of_convolution(self, weights: Array) -> Arrays:
    """``combine`` of a convolution.

    On a CPU, products of patches are up to 3 times faster than the gradient
    that XLA makes of a convolution, and seldom slower.
    """
    product, own = self.product, self._uses[0]
    assert product is not None
    return jax.lax.platform_dependent(
      *own.point.x,
      *own.directions.layer,
      weights,
      cpu=lambda x, h, w: product.unpack(product.total(x, h, w)),
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

  def _change(self, use: per_sample.Use, k: Arrays) -> Array:
    """``<P, derivative of a use along k>``, ``[B, R]``."""
    own = use is self._uses[0]
    point = use.point
    read, at = per_sample.reader(
      point.stage, point, point.x if own else point.state, point.fixed, own=own
    )
    given = dict(zip(self.indices, k, strict=True))
    indices = point.stage.control if own else point.stage.shared
    tangent = tuple(
      given[i].astype(v.dtype) if i in given else jnp.zeros_like(v)
      for i, v in zip(indices, at, strict=True)
    )
    _, change = jax.jvp(read, (at,), (tangent,))
    directions = use.directions.layer if own else use.directions.after
    return trajectory_lib.dot(directions, change, self._graph.batch_size)
