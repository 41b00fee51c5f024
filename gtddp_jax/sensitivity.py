"""Sensitivities: the per-sample gradients of one control, as an operator.

``g^{i,r} = F_u^T P_{t+1}^{i,r}`` is the gradient of control ``t`` that
direction ``r`` of sample ``i`` gives. The recursion needs three products::

    combine(w)      (1/B) sum_i sum_r w_i^r g^{i,r}     like u
    directional(k)  g^{i,r} . k                         [B, R]
    gram(solve)     g^{i,r} . Q_uu^-1 g^{i,s}           [B, R, R]

Per-sample gradients are kept when they fit in ``LARGEST_KEPT`` numbers: all
three are then matrix products. Otherwise ``combine`` is a back-propagation of
re-weighted samples, ``directional`` a forward derivative, and ``gram`` goes
over blocks of samples. A control that later stages read again collects the
gradients of all its uses.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax import graph as graph_lib
from gtddp_jax import patches
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
        lambda v, p=point: p.stage(p.state, p.control, v, p.fixed)[0],
        (point.shared,),
        (tangent,),
      )
      total += trajectory_lib.dot(directions.after, change, batch)
    return total

  def gram(self, solve: Solve) -> Array:
    """``g^{i,r} . Q_uu^-1 g^{i,s}``, ``[B, R, R]``; keeps ``g`` if it fits."""
    solve_all = jax.vmap(jax.vmap(solve))

    def products(g: Arrays) -> Array:
      return _sum(
        jnp.einsum('brp,bsp->brs', _rows(a), _rows(b))
        for a, b in zip(g, solve_all(g), strict=True)
      )

    self.keep()
    if self._kept is not None:
      return products(self._kept)
    batch, rank = self._graph.batch_size, self._rank
    block = max(1, LARGEST_KEPT // (rank * self._size()))
    block = max(b for b in range(1, batch + 1) if batch % b == 0 and b <= block)
    blocks = jax.tree.map(
      lambda v: v.reshape(batch // block, block, *v.shape[1:]), self._samples()
    )
    return jax.lax.map(lambda s: products(self._gradients(s)), blocks).reshape(
      batch, rank, rank
    )

  def keep(self) -> None:
    """Forms the per-sample gradients ``[B, R, ...]`` if they fit."""
    numbers = self._graph.batch_size * self._rank * self._size()
    if self._kept is None and numbers <= LARGEST_KEPT:
      self._kept = self._gradients(self._samples())

  def _size(self) -> int:
    return sum(math.prod(u.shape) for u in self._point.control)

  def _samples(self) -> Any:
    """What the gradients of each sample are made from, leading axis B."""
    one = self._graph.for_sample().stages
    batch = self._graph.batch_size

    def per_sample(values: Arrays, shapes: graph_lib.Shapes) -> Arrays:
      return tuple(
        v.reshape(batch, *s.shape) for v, s in zip(values, shapes, strict=True)
      )

    def bars(values: Arrays, shapes: graph_lib.Shapes) -> Arrays:
      return tuple(
        jnp.moveaxis(v.reshape(v.shape[0], batch, *s.shape), 0, 1)
        for v, s in zip(values, shapes, strict=True)
      )

    def fixed(point: trajectory_lib.Point, s: int) -> graph_lib.Fixed:
      inputs = tuple(v[:, None] for v in point.fixed.inputs)
      return graph_lib.Fixed(per_sample(point.fixed.aux, one[s].aux), inputs)

    point, t = self._point, self._t
    first = (
      per_sample(point.x, one[t].layer_in),
      fixed(point, t),
      bars(self._directions.layer, one[t].layer_out),
    )
    again = [
      (
        per_sample(p.state, one[s].state),
        fixed(p, s),
        bars(d.after, one[s + 1].state if s + 1 < len(one) else _last(d)),
      )
      for s, p, d in self._again
    ]
    return first, again

  def _gradients(self, samples: Any) -> Arrays:
    """Per-sample gradients ``[b, R, ...]`` of the samples given."""
    one = self._graph.for_sample().stages
    stage = one[self._t]

    def of_sample(sample: Any) -> Arrays:
      (x, fixed, h_bar), again = sample
      _, pull = jax.vjp(
        lambda u: stage.layer(x, u, self._point.shared, fixed),
        self._point.control,
      )
      if h_bar:
        total = jax.vmap(lambda bar: pull(bar)[0])(h_bar)
      else:  # only later stages read this control
        total = tuple(
          jnp.zeros((self._rank, *u.shape), u.dtype)
          for u in self._point.control
        )
      for (s, point, _), (c, fixed, bars) in zip(
        self._again, again, strict=True
      ):
        _, pull = jax.vjp(
          lambda v, s=s, c=c, p=point, f=fixed: one[s](c, p.control, v, f)[0],
          point.shared,
        )
        pulled = jax.vmap(lambda bar, pull=pull: pull(bar)[0])(bars)
        total = self._add(
          total, dict(zip(point.stage.shared, pulled, strict=True))
        )
      return total

    gradients = jax.vmap(of_sample)(samples)
    if stage.kernel is not None and patches.supports(stage):
      (x, _, h_bar), again = samples
      if not again:
        kernel = patches.kernel_gradients(
          x[0],
          h_bar[0],
          self._point.control[stage.kernel].shape,
          stage.equation,
        )
        gradients = (
          *gradients[: stage.kernel],
          kernel,
          *gradients[stage.kernel + 1 :],
        )
    return gradients

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
  return g.reshape(*g.shape[:2], -1)


def _last(directions: trajectory_lib.Directions) -> graph_lib.Shapes:
  return tuple(
    jax.ShapeDtypeStruct((1, *v.shape[2:]), v.dtype) for v in directions.after
  )
