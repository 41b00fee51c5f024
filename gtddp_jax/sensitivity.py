"""Sensitivities: the per-sample gradients of one control, as an operator.

``g^{i,r} = F_u^T P_{t+1}^{i,r}`` is the gradient of control ``t`` that
direction ``r`` of sample ``i`` gives. The recursions need four products, with
``D`` the diagonal of ``Q_uu^-1``::

    combine(w)      (1/B) sum_i sum_r w_i^r g^{i,r}     like u
    directional(k)  g^{i,r} . k                         [B, R]
    gram(D)         g^{i,r} . D g^{i,s}                 [B, R, R]
    kernel(D)       g^{i,r} . D g^{j,s}                 [B, R, B, R]

``combine`` is a back-propagation of re-weighted samples and ``directional`` a
forward derivative, unless ``prepare`` was asked for the other two and found
that keeping the per-sample gradients is cheapest and fits: all are then matrix
products. Where it does not fit, gradients are formed again in blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gtddp_jax import contractions, per_sample
from gtddp_jax import graph as graph_lib
from gtddp_jax import trajectory as trajectory_lib

Array = jax.Array
Arrays = tuple[jax.Array, ...]


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
    self._product = per_sample.contraction(self._uses)
    self._packing: per_sample.Packing = self._product or per_sample.EndToEnd(
      self._control
    )
    self._through_factors = False
    self._most = 1  # gradients formed at once

  def prepare(self, *, cross: bool, isotropic: bool, memory: int) -> None:
    """Chooses how ``gram``, or ``kernel``, is computed.

    Args:
      cross: whether ``kernel`` is wanted, else ``gram``.
      isotropic: whether ``D`` is a scalar on each leaf.
      memory: numbers that may be held at once.
    """
    if self._product is not None:
      self._through_factors = self._in_factors(
        self._product, cross, isotropic, memory
      )
    if self._through_factors:
      return
    self._most = max(1, memory // (self._rank * self._size))
    if self._most >= self._batch:
      self._kept = self._rows(per_sample.samples(self._uses, self._batch))

  def _in_factors(
    self,
    product: contractions.Contraction,
    cross: bool,
    isotropic: bool,
    memory: int,
  ) -> bool:
    """Whether the products of factors are possible, cheaper and fit."""
    (h,) = self._uses[0].directions.layer
    b, r = self._batch, self._rank
    t = product.positions(h.shape) // (b * r)
    if not isotropic and (cross or t > 1):
      return False
    a, c = product.a, product.c
    pairs = b * b if cross else b
    # Touching a product costs about as much as 32 of its terms.
    through_factors = pairs * t * t * (a + r * r * (c + 32))
    through_gradients = r * a * c * (b * t + pairs * r)
    fits = t == 1 or pairs * r * r * t * t <= memory
    return fits and (t == 1 or through_factors < through_gradients)

  def combine(self, weights: Array) -> Arrays:
    """``(1/B) sum_i sum_r w_i^r g^{i,r}``; weights ``[B, R]``."""
    weights = weights / self._batch
    if self._kept is not None:
      kept = self._kept.reshape(-1, self._size)
      return self._packing.unpack(weights.astype(kept.dtype).ravel() @ kept)
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
      return self._kept @ self._packing.pack(k).astype(self._kept.dtype)
    own = self._uses[0]
    return self._change(own, k) + self.shared_change(k, after=own.t)

  def shared_change(self, k: Arrays, after: int) -> Array:
    """What uses after stage ``after`` make of a change ``k``, ``[B, R]``."""
    total = jnp.zeros(())
    for use in self._uses[1:]:
      if use.t > after:
        total += self._change(use, k)
    return total

  def gram(self, inverse: Arrays) -> Array:
    """``g^{i,r} . D g^{i,s}``, ``[B, R, R]``; ``inverse`` is ``D`` by leaf."""
    if self._through_factors:
      return self._gram_of_factors(*self._factors(inverse))
    diagonal = self._spread(inverse)

    def products(g: Array) -> Array:  # [R, p] of one sample
      return (g * diagonal) @ g.T

    if self._kept is None:
      grams = jax.lax.map(
        lambda block: jax.vmap(products)(self._rows(block)), self._blocks()
      )
      return grams.reshape(self._batch, self._rank, self._rank)
    if self._rank > 1:
      return contractions.over_samples(products, self._kept)
    g = self._kept[:, 0]
    return jnp.einsum('bp,bp->b', g, g * diagonal)[:, None, None]

  def kernel(self, inverse: Arrays) -> Array:
    """``g^{i,r} . D g^{j,s}``, ``[B, R, B, R]``.

    In blocks, gradients are formed again for every pair of blocks.
    """
    if self._through_factors:
      return self._kernel_of_factors(*self._factors(inverse))
    diagonal = self._spread(inverse)

    def flat(g: Array) -> Array:
      return g.reshape(-1, self._size)

    def from_left(block: list[per_sample.Sample]) -> Array:
      left = flat(self._rows(block)) * diagonal
      columns = jax.lax.map(
        lambda right: left @ flat(self._rows(right)).T, blocks
      )  # [blocks, b R, b R]
      return jnp.moveaxis(columns, 0, 1).reshape(columns.shape[1], -1)

    if self._kept is not None:
      g = flat(self._kept)
      products = (g * diagonal) @ g.T
    else:
      blocks = self._blocks()
      products = jax.lax.map(from_left, blocks)
    return products.reshape(self._batch, self._rank, self._batch, self._rank)

  def _factors(
    self, inverse: Arrays
  ) -> tuple[contractions.Factors, Array, Array]:
    """Factors, ``D`` of the kernel ``[c, a]`` and of the bias ``[1, c]``."""
    product, stage = self._product, self._uses[0].point.stage
    assert product is not None and stage.kernel is not None
    (data,) = per_sample.samples(self._uses, self._batch)
    of_bias = jnp.zeros(()) if stage.bias is None else inverse[stage.bias]
    of_kernel = inverse[stage.kernel]
    return (
      product.factors(data.entry[0], data.bars[0]),
      product.matrix(of_kernel) if of_kernel.ndim else of_kernel,
      of_bias.reshape(1, -1) if of_bias.ndim else of_bias,
    )

  def _gram_of_factors(
    self, factors: contractions.Factors, of_kernel: Array, of_bias: Array
  ) -> Array:
    x, h = factors
    if x.shape[1] > 1:
      similar = of_kernel * jnp.einsum('bta,bua->btu', x, x) + of_bias
      return jnp.einsum('btu,brtc,bsuc->brs', similar, h, h)
    square = jnp.square(x[:, 0])
    if of_kernel.ndim:
      scale = square @ of_kernel.T
    else:
      scale = of_kernel * square.sum(axis=1, keepdims=True)
    scale = (scale + of_bias)[:, None]  # [B, 1, c or 1]
    return jnp.einsum('brc,bsc->brs', h[:, :, 0] * scale, h[:, :, 0])

  def _kernel_of_factors(
    self, factors: contractions.Factors, of_kernel: Array, of_bias: Array
  ) -> Array:
    x, h = factors
    rows = x.reshape(-1, x.shape[-1])
    similar = of_kernel * (rows @ rows.T) + of_bias
    b, r, t, c = h.shape
    columns = h.reshape(-1, c)
    products = (columns @ columns.T).reshape(b, r, t, b, r, t)
    return jnp.einsum(
      'btju,brtjsu->brjs', similar.reshape(b, t, b, t), products
    )

  def _rows(self, data: list[per_sample.Sample]) -> Array:
    return per_sample.rows(self._graph, self._uses, data, self._rank)

  def _blocks(self) -> list[per_sample.Sample]:
    """The samples in blocks whose gradients fit, leading axis = blocks."""
    sizes = range(1, min(self._most, self._batch) + 1)
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

  def _spread(self, inverse: Arrays) -> Array:
    """``D`` as one row ``[1, p]``."""
    pairs = zip(inverse, self._control, strict=True)
    leaves = tuple(jnp.broadcast_to(d, u.shape) for d, u in pairs)
    return self._packing.pack(leaves)[None]
