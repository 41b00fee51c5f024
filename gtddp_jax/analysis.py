"""What a step of ``gt_ddp`` does, stage by stage: for tables and pictures.

With ``P_t`` the directions at the cut before a decision (one column per sample
and direction of the batch), ``S`` the curvature that weighs its samples and
``G`` its per-sample gradients::

    H = P_t S P_t^T                 value Hessian over the states of the batch
    K = -Q_uu^-1 Q_ux = -(1/B) Q_uu^-1 G^T S P_t^T               feedback gain

``H`` is what the value function after the decision makes of the states before
it, ``f_x^T V_xx f_x``; with 'coupled', ``V_xx`` before it, times B.
Controls that are tied, whose new values are part of the state, count with the
updates but not with ``P_t``. Sizes are those of small batches: ``(B R)^2``
numbers are factorised per decision.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax import errors
from gtddp_jax import gradients as gradients_lib
from gtddp_jax import graph as graph_lib
from gtddp_jax import optimizer as optimizer_lib
from gtddp_jax import terminal as terminal_lib
from gtddp_jax import value as value_lib

Array = jax.Array
_VECTORS = 3  # eigenvectors of a convolution

# The options of a step with feedback.
_OPTIONS = {
  field.name
  for field in dataclasses.fields(optimizer_lib.StepOptions)
  if field.init
} - {'graph', 'loss', 'feedback'}


@dataclasses.dataclass(frozen=True)
class Decision:
  """What is known of one decision; a pytree of its arrays.

  Attributes:
    name: paths of the modules whose parameters are updated, joined by ', '.
    kind: 'dense', 'conv' or 'generic', of the first stage.
    update: norm of the update.
    open_update: norm of the update that the base alone would make.
    feedback: norm of the difference of the two.
    curvature: eigenvalues of ``S``, ``[B R]``, falling.
    spectrum: eigenvalues of ``H`` that may differ from zero, ``[B R]``,
      falling; zeros for the first decision, which has no state before it.
    gains: Frobenius norm of the columns of ``K`` of each sample, ``[B]``; zeros
      for the first decision.
    eigenvectors: of a convolution, the leading ones, see ``leading``, ``[3,
      ...]`` (fewer if there are fewer directions); else None.
    images: of a convolution, see ``leading``, leaves ``[3, ...]``; else, or if
      the inputs are integers, None.
  """

  name: str
  kind: str
  update: Array
  open_update: Array
  feedback: Array
  curvature: Array
  spectrum: Array
  gains: Array
  eigenvectors: Array | None
  images: Any


_META = ['name', 'kind']
jax.tree_util.register_dataclass(
  Decision,
  [f.name for f in dataclasses.fields(Decision) if f.name not in _META],
  _META,
)


def stages(
  graph: graph_lib.LayerGraph,
  loss: terminal_lib.Loss,
  params: Any,
  batch: tuple[Any, Any],
  state: Any = None,
  rngs: Mapping[str, Array] = MappingProxyType({}),
  **options: Any,
) -> list[Decision]:
  """Takes one step apart; nothing is changed.

  Args:
    graph: as for ``gt_ddp``.
    loss: as for ``gt_ddp``.
    params: where to take the step.
    batch: inputs and targets.
    state: a state that holds one of ``gt_ddp`` with this base; None for that
      before the first step.
    rngs: as for ``update``.
    **options: of ``gt_ddp``: ``base`` (one that has ``Q_uu``), and what differs
      from its defaults.

  Returns:
    One item per decision, in the order in which they are made.

  Raises:
    OptionError: for options that ``gt_ddp`` refuses, or a base without
      ``Q_uu``.
  """
  if set(options) - _OPTIONS or 'base' not in options:
    raise errors.OptionError(
      f'analysis.stages: expected base and other options of gt_ddp, got '
      f'{sorted(options)}; write stages(graph, loss, params, batch, base=sgd('
      f'0.1)).'
    )
  resolved = optimizer_lib.StepOptions(graph, loss, **options)
  if not resolved.base.has_curvature:
    raise errors.OptionError(
      f'analysis.stages: expected a base with Q_uu, got '
      f'{type(options["base"]).__name__}; use one of sgd, rmsprop, adam, kfac, '
      f'ekfac, soap of this library.'
    )
  held = None if state is None else optimizer_lib.state_in(state, 'stages')
  call = optimizer_lib.UpdateCall(
    None,
    resolved.bound.init(params) if held is None else held.base,
    params,
    batch,
    resolved.graph.extras.collections if held is None else held.collections,
    rngs,
    {},
  )
  return _Analysis(resolved, call).decisions()


class _Analysis:
  """One step, with and without feedback."""

  def __init__(
    self, options: optimizer_lib.StepOptions, call: optimizer_lib.UpdateCall
  ):
    self._options, self._call = options, call
    self._plan = plan = optimizer_lib.linearized(options, call)
    sweep = options.value(plan.problem)
    closed = optimizer_lib.finished(
      options, plan, optimizer_lib.closed_loop(plan, sweep)
    )
    if not options.value.needs_curvature:
      _observe(plan.problem)
    alone = optimizer_lib.open_loop(options, call)
    self._updates = tuple(jax.tree.leaves(closed.updates))
    self._alone = tuple(jax.tree.leaves(alone.updates))
    self._values = sweep.values

  def decisions(self) -> list[Decision]:
    """See ``stages``."""
    return [self._decision(n) for n in range(len(self._plan.problem.spans))]

  def _decision(self, n: int) -> Decision:
    problem, trajectory = self._plan.problem, self._plan.trajectory
    span, operator = problem.spans[n], problem.operators[n]
    point = trajectory.points[span[0]]
    at = self._plan.directions[span[0]]
    batch, rank = problem.terminal.slope.shape
    new = graph_lib.pick(self._updates, operator.control)
    old = graph_lib.pick(self._alone, operator.control)
    weight = dense(self._values[n], batch, rank)
    gram = _gram(at.state, batch, rank)
    vectors = images = None
    if point.stage.kind == 'conv' and len(point.x) == 1:
      vectors, images = self._leading(span[0], weight)
    return Decision(
      ', '.join(trajectory.points[t].stage.name for t in span),
      point.stage.kind,
      _norm(new),
      _norm(old),
      _norm([a - b for a, b in zip(new, old, strict=True)]),
      jnp.linalg.eigvalsh(weight)[::-1],
      jnp.linalg.eigvalsh(_sandwich(weight, gram))[::-1],
      self._gains(n, weight, gram),
      vectors,
      images,
    )

  def _gains(self, n: int, weight: Array, gram: Array) -> Array:
    """Norms of the columns of ``K`` of each sample, ``[B]``."""
    problem = self._plan.problem
    operator = problem.operators[n]
    batch, rank = problem.terminal.slope.shape
    if n == 0:
      return jnp.zeros(batch, weight.dtype)
    inverse = problem.curvature.inverse(operator.control)

    def of_sample(part: tuple[Array, Array]) -> Array:
      columns, own = part  # [R, B R], [R, R]
      rows = jnp.stack(
        [
          inverse.apply(
            operator.packing.pack(operator.combine(c.reshape(batch, rank))),
            operator.packing,
          )
          for c in columns
        ]
      )
      square = jnp.sum((rows @ rows.T) * own)
      return jnp.sqrt(jnp.maximum(square, 0))

    columns = weight.T.reshape(batch, rank, batch * rank)
    return jax.lax.map(of_sample, (columns, gram))

  def _leading(self, t: int, weight: Array) -> tuple[Array, Any]:
    """See ``leading``."""
    options, call = self._options, self._call
    batch, rank = self._plan.problem.terminal.slope.shape
    point = self._plan.trajectory.points[t]
    (x,) = gradients_lib.over_directions(
      lambda h: point.pull_layer(h)[0], self._plan.directions[t].layer
    )
    shape = point.x[0].shape
    count = min(_VECTORS, batch * rank)
    vectors = leading(x.reshape(rank, batch, -1), weight, count)
    vectors = vectors.reshape(count, shape[0] // batch, *shape[1:])

    def entering(inputs: Any) -> Array:
      graph = options.graph.for_inputs(inputs)
      rngs = {name: call.rngs[name] for name in graph.extras.rngs}
      extras = graph_lib.Extras(call.collections, rngs)
      found = gradients_lib.linearize(
        graph, graph.flatten(call.params), inputs, extras
      )
      return found.points[t].x[0]

    # A terminal may have looked at fewer samples.
    inputs = jax.tree.map(lambda v: jnp.asarray(v[:batch]), call.batch[0])
    leaves = jax.tree.leaves(inputs)
    if not all(jnp.issubdtype(v.dtype, jnp.inexact) for v in leaves):
      return vectors, None  # there is no derivative to project by
    _, pull = jax.vjp(entering, inputs)

    def image(vector: Array) -> Any:
      every = jnp.broadcast_to(vector, (batch, *vector.shape)).reshape(shape)
      (found,) = pull((every / batch).astype(point.x[0].dtype))
      return jax.tree.map(lambda v: v.sum(axis=0), found)

    return vectors, jax.vmap(image)(vectors)


def dense(value: Any, batch: int, rank: int) -> Array:
  """``S`` of a value function as a matrix ``[B R, B R]``."""
  size = batch * rank
  basis = jnp.eye(size, dtype=value.slope.dtype).reshape(size, batch, rank)
  found = jax.vmap(value.feedback)(basis).reshape(size, size)
  return (found + found.T) / 2


def leading(directions: Array, weight: Array, count: int = 1) -> Array:
  """The leading eigenvectors of the mean over samples of ``S P P^T``.

  Args:
    directions: ``P``, ``[R, B, n]``, at the input of one layer: what each
      direction makes of a change there. The samples have one space in common.
    weight: ``S``, ``[B R, B R]``, of which the blocks of samples are read.
    count: how many; at most ``B R``.

  Returns:
    ``[count, n]``, eigenvalues falling, of length one (zero if the matrix has
    no more); the largest entry of each is positive. The *image* of one is the
    mean over samples of ``J^T v``, with ``J`` the derivative of that input by
    the network's.
  """
  rank, batch, _ = directions.shape
  blocks = weight.reshape(batch, rank, batch, rank)
  own = blocks[jnp.arange(batch), :, jnp.arange(batch)]
  root = terminal_lib.square_root(own).astype(directions.dtype)
  rows = jnp.einsum('rbn,bri->bin', directions, root)
  rows = rows.reshape(batch * rank, -1) / jnp.sqrt(batch)
  _, vectors = jnp.linalg.eigh(rows @ rows.T)
  found = vectors[:, ::-1][:, :count].T @ rows
  lengths = jnp.linalg.norm(found, axis=1, keepdims=True)
  found = found / jnp.where(lengths > 0, lengths, 1)
  places = jnp.argmax(jnp.abs(found), axis=1, keepdims=True)
  largest = jnp.take_along_axis(found, places, axis=1)
  return found * jnp.where(largest < 0, -1, 1)


def projections(
  graph: graph_lib.LayerGraph,
  params: Any,
  inputs: Any,
  found: Sequence[Decision],
  collections: Any = None,
) -> list[Array | None]:
  """What enters each layer, along the eigenvectors found there.

  Args:
    graph: as for ``stages``.
    params: of the network.
    inputs: any number of samples, such as the test split.
    found: by ``stages``.
    collections: of the network; None for those traced.

  Returns:
    Per decision ``[samples, vectors]``, or None where it has no eigenvectors.
  """
  graph = graph.for_inputs(inputs)
  extras = graph.extras
  if collections is not None:
    extras = extras._replace(collections=collections)
  nominal = gradients_lib.linearize(
    graph, graph.flatten(params), inputs, extras
  )
  entering = {point.stage.name: point.x for point in nominal.points}

  def along(decision: Decision) -> Array | None:
    if decision.eigenvectors is None:
      return None
    (x,) = entering[decision.name.split(', ')[0]]
    vectors = decision.eigenvectors.reshape(len(decision.eigenvectors), -1)
    return x.reshape(graph.batch_size, -1) @ vectors.T

  return [along(decision) for decision in found]


def _observe(problem: value_lib.Problem) -> None:
  """Lets a base see every ``Q_u``, as no recursion has done."""
  slope = problem.terminal.slope
  for operator in problem.operators:
    problem.curvature.observe(operator.control, slope, operator.combine(slope))


def _gram(state: Sequence[Array], batch: int, rank: int) -> Array:
  """``P_t^T P_t`` of each sample, ``[B, R, R]``."""
  total = jnp.zeros((batch, rank, rank))
  for leaf in state:
    wide = jnp.promote_types(leaf.dtype, jnp.float32)
    flat = leaf.astype(wide).reshape(rank, batch, -1)
    total = total + jnp.einsum('rbn,sbn->brs', flat, flat)
  return total


def _sandwich(weight: Array, gram: Array) -> Array:
  """A symmetric matrix with the eigenvalues of ``S P^T P``."""
  batch, rank, _ = gram.shape
  root = terminal_lib.square_root(gram).astype(weight.dtype)
  blocks = weight.reshape(batch, rank, batch, rank)
  found = jnp.einsum('bri,brcs,csj->bicj', root, blocks, root)
  return found.reshape(weight.shape)


def _norm(leaves: Sequence[Array]) -> Array:
  def square(leaf: Array) -> Array:
    wide = jnp.promote_types(leaf.dtype, jnp.float32)
    return jnp.sum(jnp.square(leaf.astype(wide)))

  return jnp.sqrt(jnp.sum(jnp.stack([square(leaf) for leaf in leaves])))
