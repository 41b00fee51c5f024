"""Batch-augmented dynamic programming, nothing dropped: for small batches.

The state covers the whole batch, ``X = (x^1 ... x^B)``, and ``V_XX`` has a
block for each pair of samples. With ``P_t`` the derivative of all ``B R``
terminal directions by ``X_t`` (a full matrix where batch statistics couple
samples), ``G_t`` that by the control, ``S`` one matrix over all directions::

    V_XX = P S P^T / B            N = G (M / eta)^-1 G^T
    d <- A^-1 d                   S <- A^-1 S           A = I + S N / B

which is ``Q_xx - Q_xu Q_uu^-1 Q_ux`` with ``Q_uu = M / eta + F_u^T V_XX F_u``,
and the very recursion of 'coupled' where nothing but the controls couples
samples. A back-propagation per sample and direction makes ``P`` and ``G``
exact; no matrix has more than ``(B R)^2`` numbers, but for ``P`` itself.

This module is not among the public names; ``from gtddp_jax import augmented``.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy import linalg

from gtddp_jax import curvature as curvature_lib
from gtddp_jax import errors
from gtddp_jax import gradients as gradients_lib
from gtddp_jax import graph as graph_lib
from gtddp_jax import optimizer as optimizer_lib
from gtddp_jax import terminal as terminal_lib

Array = jax.Array
Arrays = tuple[jax.Array, ...]


@dataclasses.dataclass(frozen=True)
class Solution:
  """One step, with and without the coupling of samples; a pytree.

  Attributes:
    names: parameter path of the module of each stage.
    kinds: 'dense', 'conv' or 'generic'.
    blocks: per stage the Frobenius norms of the blocks of ``V_XX`` before it,
      ``[B, B]``; zeros for the first stage, which has no state before it.
    updates: of the parameters.
    alone: the same where each stage hands on a value function whose ``S`` has
      lost its blocks between samples. Without batch statistics these are the
      blocks of ``V_XX``; with them, what goes through ``P`` stays.
  """

  names: tuple[str, ...]
  kinds: tuple[str, ...]
  blocks: tuple[Array, ...]
  updates: Any
  alone: Any


jax.tree_util.register_dataclass(
  Solution, ['blocks', 'updates', 'alone'], ['names', 'kinds']
)


class _Value(NamedTuple):
  """``d``, ``[B R]``, and ``L`` with ``S = L L^T``, ``[B R, B R]``."""

  slope: Array
  root: Array


class _Cut(NamedTuple):
  """``P`` before a stage, leaves ``[B R, B, ...]``, and ``G``, ``[B R, p]``."""

  state: Arrays
  gradients: Array


def solve(
  graph: graph_lib.LayerGraph,
  loss: terminal_lib.Loss,
  params: Any,
  batch: tuple[Any, Any],
  base: Any,
  terminal: str | terminal_lib.TerminalValue = 'gauss_newton',
  state: Any = None,
) -> Solution:
  """Solves the batch-augmented problem at one step; nothing is changed.

  Args:
    graph: as for ``gt_ddp``; no parameter may be used by two stages.
    loss: as for ``gt_ddp``.
    params: where to take the step.
    batch: inputs and targets; a few dozen samples.
    base: ``sgd``, ``rmsprop``, ``adam`` or ``soap``, which give ``M / eta``.
    terminal: as for ``gt_ddp``, without random numbers or subset.
    state: a state that holds one of ``gt_ddp`` with this base; None for that
      before the first step.

  Returns:
    What is known of ``V_XX``, and the updates.

  Raises:
    OptionError: for another base, or a parameter that is used twice.
  """
  lifted = curvature_lib.lift(base)
  if lifted.needs_operators or not lifted.has_curvature:
    raise errors.OptionError(
      f'augmented.solve: expected a base with a Q_uu made of Q_u alone, got '
      f'{type(base).__name__}; use sgd, rmsprop, adam or soap of this library.'
    )
  for stage in graph.stages:
    if stage.shared:
      path = graph.paths[stage.shared[0]]
      raise errors.OptionError(
        f'augmented.solve: expected parameters that one stage uses, got '
        f'{path!r}, which {stage.name!r} uses again; untie them.'
      )
  # What is factorised needs every digit of a float32.
  with jax.default_matmul_precision('float32'):
    held = None if state is None else optimizer_lib.state_in(state, 'augmented')
    problem = _Problem(graph, loss, params, batch, terminal, held)
    bound = lifted.bind(graph, graph.decisions(False), 'none')
    base_state = bound.init(params) if held is None else held.base
    context = curvature_lib.StepContext((), None, None, {})
    found = []
    for coupled in True, False:
      steps = bound.begin(base_state, params, context)
      values = problem.swept(steps, coupled=coupled)
      found.append((values, problem.rolled_out(steps, values)))
    (values, updates), (_, alone) = found
    return Solution(
      tuple(stage.name for stage in graph.stages),
      tuple(stage.kind for stage in graph.stages),
      tuple(map(problem.blocks, problem.cuts, values)),
      updates,
      alone,
    )


class _Problem:
  """The nominal trajectory of a batch and its exact derivatives."""

  def __init__(
    self,
    graph: graph_lib.LayerGraph,
    loss: terminal_lib.Loss,
    params: Any,
    batch: tuple[Any, Any],
    terminal: Any,
    held: optimizer_lib.GtDdpState | None,
  ):
    inputs, targets = batch
    graph = graph.for_inputs(inputs)
    extras = graph.extras
    if held is not None:
      extras = extras._replace(collections=held.collections)
    leaves = graph.flatten(params)
    nominal = gradients_lib.linearize(graph, leaves, inputs, extras)
    expand = terminal_lib.named(terminal)
    end = terminal_lib.check(
      expand(
        terminal_lib.on_rows(loss, graph, targets), nominal.outputs, targets
      ),
      nominal.outputs,
    )
    self.batch, self.rank = end.slope.shape
    root = linalg.block_diag(*terminal_lib.square_root(end.curvature))
    self._end = _Value(end.slope.ravel(), root)
    self._points, self._tree = nominal.points, jax.tree.structure(params)
    self._unread = {i: jnp.zeros_like(leaves[i]) for i in graph.unread}
    self.packings = [
      gradients_lib.EndToEnd(point.control) for point in nominal.points
    ]
    self.cuts = self._pulled(nominal, end.directions)

  def _pulled(
    self, nominal: gradients_lib.Trajectory, directions: Any
  ) -> list[_Cut]:
    """Every direction of every sample, by itself, at every stage."""

    def apart(z: Array) -> Array:  # [R, B, ...] to [B R, B, ...]
      own = jnp.eye(self.batch, dtype=z.dtype)
      own = own.reshape(self.batch, 1, self.batch, *(1,) * (z.ndim - 2))
      return (own * z[None]).reshape(-1, *z.shape[1:])

    after = gradients_lib.over_directions(
      nominal.pull_outputs, jax.tree.map(apart, directions)
    )
    cuts = []
    for point, packing in zip(
      reversed(nominal.points), reversed(self.packings), strict=True
    ):

      def pull(
        bar: Arrays, point: Any = point, packing: Any = packing
      ) -> tuple[Arrays, Array]:
        before, h_bar, _ = point.pull(bar)
        return before, packing.pack(point.pull_layer(h_bar)[1])

      cut = _Cut(*jax.vmap(pull)(after))
      cuts.append(cut)
      after = cut.state
    return cuts[::-1]

  def swept(
    self, steps: curvature_lib.Curvature, *, coupled: bool
  ) -> list[_Value]:
    """The value function before each stage, which its update is made from."""
    value, values = self._end, []
    for n in reversed(range(len(self.cuts))):
      gradients = self.cuts[n].gradients
      control = self._points[n].stage.control
      q_u = self.packings[n].unpack(value.slope @ gradients / self.batch)
      steps.observe(control, value.slope, q_u)
      inverse = steps.inverse(control).apply(gradients, self.packings[n])
      value = _before(value, inverse @ gradients.T / self.batch)
      values.append(value)
      if not coupled:
        value = value._replace(root=self._without_coupling(value.root))
    return values[::-1]

  def _without_coupling(self, root: Array) -> Array:
    """A root of the blocks of ``L L^T`` on the diagonal."""
    rows = root.reshape(self.batch, self.rank, -1)
    blocks = jnp.einsum('brk,bsk->brs', rows, rows)
    return linalg.block_diag(*terminal_lib.square_root(blocks))

  def rolled_out(
    self, steps: curvature_lib.Curvature, values: list[_Value]
  ) -> Any:
    """The updates, each with the feedback of those before."""
    updates: dict[int, Array] = {}
    state, aux = self._points[0].state, self._points[0].fixed.aux
    for n, point in enumerate(self._points):
      slope, root = values[n]
      change = tuple(map(jnp.subtract, state, point.state))
      size = slope.size
      e = sum(
        (
          p.reshape(size, -1) @ c.ravel()
          for p, c in zip(self.cuts[n].state, change, strict=True)
        ),
        start=jnp.zeros_like(slope),
      )
      total = (slope + root @ (root.T @ e)) @ self.cuts[n].gradients
      own = self.packings[n].unpack(total / self.batch)
      control = point.stage.control
      moves = steps.step(control, dict(zip(control, own, strict=True)))
      updates.update(zip(control, moves, strict=True))
      u = tuple(map(jnp.add, point.control, moves))
      fixed = dataclasses.replace(point.fixed, aux=aux)
      state, aux = point.stage(state, u, (), fixed)
    for i, nothing in self._unread.items():
      (updates[i],) = steps.step((i,), {i: nothing})
    return jax.tree.unflatten(
      self._tree, [updates[i] for i in range(len(updates))]
    )

  def blocks(self, cut: _Cut, value: _Value) -> Array:
    """Frobenius norms of the blocks of ``V_XX``, ``[B, B]``."""
    size = value.slope.size
    inner = jnp.zeros((self.batch, size, size), value.root.dtype)
    for leaf in cut.state:
      rows = leaf.reshape(size, self.batch, -1).astype(inner.dtype)
      inner += jnp.einsum('kbn,lbn->bkl', rows, rows)
    inner = value.root.T @ inner @ value.root
    flat = inner.reshape(self.batch, -1)
    return jnp.sqrt(jnp.maximum(flat @ flat.T, 0)) / self.batch


def _before(value: _Value, kernel: Array) -> _Value:
  """The value before a stage from that after it, for ``N / B``."""
  slope, root = value
  inner = root.T @ kernel @ root
  size = jnp.eye(len(slope), dtype=inner.dtype)
  factor = jnp.linalg.cholesky(size + (inner + inner.T) / 2)
  moved = linalg.cho_solve((factor, True), root.T @ (kernel @ slope))
  return _Value(
    slope - root @ moved,
    linalg.solve_triangular(factor, root.T, lower=True).T,
  )
