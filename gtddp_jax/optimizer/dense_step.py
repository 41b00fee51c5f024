"""A step by dense matrices: slow, for checking small networks.

``P_t`` and ``G_t`` are whole Jacobians, by ``jax.jacrev`` of the chain from
each cut to the outputs; all samples are in one vector. With
``D = (M / eta)^-1``, backward and then forward over the stages::

    coupled  d <- A^-1 d                 S <- A^-1 S       A = I + S N / B
    bellman  d_i <- d_i + S_i (G k)_i    S_i <- S_i - S_i N_ii S_i / B
             N = G D G^T                 k = -D G^T d / B
    du = -D G^T (d + S e) / B            e = P (c^ - c)
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax import curvature as curvature_lib
from gtddp_jax import gradients as gradients_lib
from gtddp_jax import graph as graph_lib
from gtddp_jax import terminal as terminal_lib
from gtddp_jax import value as value_lib
from gtddp_jax.optimizer.options import StepOptions

Array = jax.Array

_TERMINALS = ('gradient', 'gauss_newton')
_MOST = 2**21  # numbers in the Jacobians of all stages together


def refusal(graph: graph_lib.LayerGraph, options: StepOptions) -> str | None:
  """Why a step is not made by dense matrices; None if it is."""
  shapes = jax.tree.leaves(graph.outputs)
  outputs = sum(math.prod(s.shape) for s in shapes)
  numbers = sum(
    math.prod(s.shape)
    for s in (
      *jax.tree.leaves(graph.params),
      *(c for stage in graph.stages for c in stage.state),
    )
  )
  reasons = {
    'no feedback, no recursion': not options.feedback,
    'the base has no Q_uu of its gradients alone': (
      options.base.needs_operators or not options.base.has_curvature
    ),
    'the value recursion is of your own': _recursion(options) is None,
    'the terminal draws numbers, or takes part of the batch': (
      options.terminal not in map(terminal_lib.named, _TERMINALS)
    ),
    'samples are coupled': graph.mixed,
    'a parameter is read by several stages': any(
      stage.shared for stage in graph.stages
    ),
    'the network is too large': outputs * numbers > _MOST,
    'complex outputs': any(jnp.iscomplexobj(s) for s in shapes),
    'random numbers': bool(graph.extras.rngs),
  }
  return next((why for why, holds in reasons.items() if holds), None)


def _recursion(options: StepOptions) -> str | None:
  kinds: dict[Any, str] = {
    value_lib.Frozen: 'frozen',
    value_lib.Bellman: 'bellman',
    value_lib.Coupled: 'coupled',
  }
  return kinds.get(type(options.value))


def dense_step(
  options: StepOptions, params: Any, batch: tuple[Any, Any], state: Any
) -> Any:
  """The updates of one step.

  Args:
    options: of ``gt_ddp``; none that ``refusal`` refuses.
    params: in float64, as all that follows.
    batch: inputs and targets.
    state: of ``gt_ddp``.

  Returns:
    A pytree like the parameters.
  """
  old = options.graph
  graph = graph_lib.build(old.network, params, batch[0], old.owner)
  extras = old.extras._replace(collections=state.collections)
  chain = _Chain(graph, params, batch[0], extras)
  loss = terminal_lib.on_rows(options.loss, graph, batch[1])
  expansion = options.terminal(loss, chain.outputs, batch[1])
  jacobians = chain.jacobians(expansion)
  context = curvature_lib.StepContext((), None, None, {})
  base = options.base.bind(graph, options.decisions, 'none').begin(
    state.base, params, context
  )
  values = _backward(options, expansion, jacobians, base, chain)
  return chain.forward(values, jacobians, base, _bounding(options, expansion))


class _Chain:
  """The stages at the nominal parameters."""

  def __init__(
    self, graph: graph_lib.LayerGraph, params: Any, inputs: Any, extras: Any
  ):
    self.graph, self.leaves = graph, graph.flatten(params)
    self._fixed = [graph.surroundings(inputs, extras)]
    self.states: list[Any] = [()]
    for t, stage in enumerate(graph.stages):
      u = graph_lib.pick(self.leaves, stage.control)
      after, aux = stage(self.states[t], u, (), self._fixed[t])
      self.states.append(after)
      self._fixed.append(dataclasses.replace(self._fixed[t], aux=aux))
    self.outputs = self._outputs(self.states[-1])

  def _outputs(self, state: Any) -> Any:
    leaves = self.graph.finish(state, self.leaves, self._fixed[-1])
    return jax.tree.unflatten(jax.tree.structure(self.graph.outputs), leaves)

  def jacobians(self, expansion: Any) -> list[tuple[Array, Array]]:
    """``P_t`` and ``G_t`` of every stage, rows ``B R``."""

    def projected(state: Any) -> Array:
      total: Any = 0.0
      for z, o in zip(
        jax.tree.leaves(expansion.directions),
        jax.tree.leaves(self._outputs(state)),
        strict=True,
      ):
        total += (z * o[None]).reshape(*z.shape[:2], -1).sum(-1).T  # [B, R]
      return total.ravel()

    found: list[tuple[Array, Array]] = []
    beyond = projected
    for t in reversed(range(len(self.graph.stages))):
      stage, fixed = self.graph.stages[t], self._fixed[t]

      def from_here(
        state: Any, u: Any, stage: Any = stage, fixed: Any = fixed,
        rest: Any = beyond,
      ) -> Array:  # fmt: skip
        return rest(stage(state, u, (), fixed)[0])

      u = graph_lib.pick(self.leaves, stage.control)
      by_state, by_control = jax.jacrev(from_here, (0, 1))(self.states[t], u)
      rows = len(beyond(self.states[t + 1]))
      found.append((_matrix(by_state, rows), _matrix(by_control, rows)))
      beyond = functools.partial(_at_control, from_here, u)
    return found[::-1]

  def forward(
    self,
    values: list[tuple[Array, Array]],
    jacobians: Any,
    base: Any,
    bounded: Callable[[Array], Array],
  ) -> Any:
    """The closed loop."""
    state, fixed = self.states[0], self._fixed[0]
    updates: dict[int, Array] = {}
    for t, stage in enumerate(self.graph.stages):
      (d, s), (p, g) = values[t], jacobians[t]
      change = [
        (a - b).ravel() for a, b in zip(state, self.states[t], strict=True)
      ]
      e = p @ jnp.concatenate(change) if change else jnp.zeros_like(d)
      total = g.T @ (d + bounded(s @ e)) / self.graph.batch_size
      u = graph_lib.pick(self.leaves, stage.control)
      gradients = gradients_lib.EndToEnd(u).unpack(total)
      own = dict(zip(stage.control, gradients, strict=True))
      moves = base.step(stage.control, own)
      updates.update(zip(stage.control, moves, strict=True))
      moved = tuple(map(jnp.add, u, moves))
      state, aux = stage(state, moved, (), fixed)
      fixed = dataclasses.replace(fixed, aux=aux)
    for i in self.graph.unread:
      (updates[i],) = base.step((i,), {i: jnp.zeros_like(self.leaves[i])})
    return self.graph.unflatten([updates[i] for i in range(len(updates))])


def _bounding(options: StepOptions, expansion: Any) -> Callable[[Array], Array]:
  """Shortens each sample's part of a row ``[B R]`` to the trust region."""
  if options.trust_region is None:
    return lambda row: row
  slope = expansion.slope
  bound = options.trust_region * jnp.sqrt(jnp.sum(slope**2) / slope.shape[0])

  def bounded(row: Array) -> Array:
    rows = row.reshape(slope.shape)
    length = jnp.sqrt(jnp.sum(rows**2, axis=1, keepdims=True))
    return jnp.where(length > bound, rows * (bound / length), rows).ravel()

  return bounded


def _at_control(function: Any, u: Any, state: Any) -> Array:
  return function(state, u)


def _backward(
  options: StepOptions, expansion: Any, jacobians: Any, base: Any,
  chain: _Chain,
) -> list[tuple[Array, Array]]:  # fmt: skip
  """``d`` and ``S`` that each stage weighs its samples by."""
  batch, rank = expansion.slope.shape
  d = expansion.slope.ravel()
  s = jax.scipy.linalg.block_diag(*expansion.curvature)
  kind, values = _recursion(options), []
  bounded = _bounding(options, expansion)
  for t in reversed(range(len(jacobians))):
    stage, (_, g) = chain.graph.stages[t], jacobians[t]
    if kind == 'frozen' or (kind == 'bellman' and t == 0):
      values.append((d, s))
      continue
    u = graph_lib.pick(chain.leaves, stage.control)
    packing = gradients_lib.EndToEnd(u)
    q_u = packing.unpack(g.T @ d / batch)
    base.observe(stage.control, d.reshape(batch, rank), q_u)
    n = base.inverse(stage.control).apply(g, packing) @ g.T / batch
    if kind == 'coupled':
      a = jnp.eye(len(d)) + s @ n
      d, s = jnp.linalg.solve(a, d), jnp.linalg.solve(a, s)
      values.append((d, s))
    else:
      values.append((d, s))
      own = dict(zip(stage.control, q_u, strict=True))
      k = jnp.concatenate([m.ravel() for m in base.step(stage.control, own)])
      first = expansion.slope.ravel()
      d = first + bounded(d + s @ (g @ k) - first)
      s = _contracted(s, n, batch, rank)
  return values[::-1]


def _contracted(s: Array, n: Array, batch: int, rank: int) -> Array:
  """``S - S N S / B`` of each sample, its negative part removed."""
  blocks = []
  for i in range(batch):
    at = slice(i * rank, (i + 1) * rank)
    root = terminal_lib.square_root(s[at, at][None])[0]
    values, vectors = jnp.linalg.eigh(root.T @ n[at, at] @ root)
    scaled = root @ vectors * jnp.sqrt(jnp.maximum(1 - values, 0))[None]
    blocks.append(scaled @ scaled.T)
  return jax.scipy.linalg.block_diag(*blocks)


def _matrix(leaves: Any, rows: int) -> Array:
  """Jacobians by several arrays as one matrix."""
  parts = [leaf.reshape(rows, -1) for leaf in leaves]
  return jnp.concatenate(parts, axis=1) if parts else jnp.zeros((rows, 0))
