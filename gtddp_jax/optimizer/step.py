"""One candidate step: the base alone, or backward sweep and closed loop.

A step is only proposed; ``transform`` keeps the state, and takes it if it is
finite.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax import checks, errors
from gtddp_jax import curvature as curvature_lib
from gtddp_jax import gradients as gradients_lib
from gtddp_jax import graph as graph_lib
from gtddp_jax import terminal as terminal_lib
from gtddp_jax import value as value_lib
from gtddp_jax.optimizer import rollout as rollout_lib
from gtddp_jax.optimizer.options import StepOptions

Array = jax.Array


class UpdateCall(NamedTuple):
  """What the caller of ``update`` gives.

  Attributes:
    grads: open-loop gradients, a pytree, or None.
    base_state: of the base.
    params: pytree of parameters.
    batch: inputs and targets.
    collections: of the network.
    rngs: random keys by name, for the network and the terminal.
    extra_args: for the base.
  """

  grads: Any
  base_state: Any
  params: Any
  batch: tuple[Any, Any]
  collections: Any
  rngs: Mapping[str, Array]
  extra_args: dict[str, Any]


class Step(NamedTuple):
  """A candidate step.

  Attributes:
    updates: a pytree like the parameters.
    base_state: the base's new state.
    gradients: what the base was given.
    collections: of the network, as it changed them.
    measured: scalars by name; those that were not measured are absent.
  """

  updates: Any
  base_state: Any
  gradients: Any
  collections: Any
  measured: dict[str, Array]


def open_loop(options: StepOptions, call: UpdateCall) -> Step:
  """The base's own step; computes the gradients if none are given."""
  if options.base.needs_operators:
    plan = linearized(options, call)
    sweep = swept(options, plan.problem)
    return finished(options, plan, rollout_lib.open_loop(plan, sweep))
  grads, changed, measured = _gradients(options, call)
  updates, base_state = options.base.update(
    grads, call.base_state, call.params, **call.extra_args
  )
  return Step(
    updates, base_state, grads, {**call.collections, **changed}, measured
  )


def closed_loop(options: StepOptions, call: UpdateCall) -> Step:
  """Linearises, expands the loss, sweeps backward and rolls out forward."""
  plan = linearized(options, call)
  sweep = options.value(plan.problem)
  return finished(options, plan, rollout_lib.closed_loop(plan, sweep))


def swept(options: StepOptions, problem: value_lib.Problem) -> value_lib.Sweep:
  """The backward sweep for a rollout with feedback, or without."""
  if options.feedback:
    return options.value(problem)
  if options.sizes_step:
    return options.value.without_feedback(problem)
  return value_lib.recursion('frozen')(problem)


def linearized(options: StepOptions, call: UpdateCall) -> rollout_lib.Plan:
  """The nominal trajectory, its directions, and what a sweep works on there.

  Args:
    options: of the optimizer.
    call: of ``update``.

  Returns:
    All that is known before the backward sweep.

  Raises:
    LossError: if the loss or the terminal returns another shape than expected.
    OptionError: if a random key is missing.
  """
  call, changed, measured = _restricted(options, call)
  inputs, _ = call.batch
  graph = options.graph.for_inputs(inputs)
  leaves = graph.flatten(call.params)
  nominal = gradients_lib.linearize(
    graph, leaves, inputs, extras_of(graph, call)
  )
  losses, expansion, radius = _expanded(options, call, graph, nominal)
  directions = gradients_lib.propagate(nominal, expansion.directions)
  players = [
    [gradients_lib.Player(graph, nominal, directions, t) for t in span]
    for span in options.decisions
  ]
  operators = _operators(options, players, expansion.slope.shape)
  given = None
  if call.grads is not None:  # complex ones as pairs of real ones
    given = list(map(graph_lib.as_real, jax.tree.leaves(call.grads)))
  root = None
  if options.base.needs_operators:
    root = terminal_lib.square_root(expansion.curvature)
  context = curvature_lib.StepContext(operators, root, given, call.extra_args)
  curvature = options.bound.begin(call.base_state, call.params, context)
  prior = None
  if options.sizes_step:
    sized: Any = curvature
    prior = sized.prior
  problem = value_lib.Problem(
    terminal=value_lib.Value(expansion.slope, expansion.curvature),
    operators=operators,
    spans=options.decisions,
    curvature=curvature,
    given=given,
    radius=radius,
    prior=prior,
  )
  return rollout_lib.Plan(
    problem,
    curvature,
    nominal,
    directions,
    {i: given[i] if given else jnp.zeros_like(leaves[i]) for i in graph.unread},
    losses,
    {**call.collections, **nominal.collections, **changed},
    measured,
  )


def _expanded(
  options: StepOptions,
  call: UpdateCall,
  graph: graph_lib.LayerGraph,
  nominal: gradients_lib.Trajectory,
) -> tuple[Array, terminal_lib.Expansion, Array | None]:
  """Losses ``[B]``, their expansion at the outputs, and the trust radius."""
  loss = terminal_lib.on_rows(options.loss, graph, call.batch[1])
  losses = terminal_lib.sample_losses(loss, nominal.outputs, call.batch[1])
  expansion = terminal_lib.check(
    options.terminal(
      loss,
      nominal.outputs,
      call.batch[1],
      *_terminal_key(options, call),
    ),
    nominal.outputs,
  )
  # In units of the slopes as the terminal gave them, before they change.
  radius = _radius(options.trust_region, expansion.slope)
  if graph.mixed and not terminal_lib.is_uniform(options.terminal):
    expansion = terminal_lib.with_gradient(expansion)
  return losses, expansion, radius


def _operators(
  options: StepOptions,
  players: list[list[gradients_lib.Player]],
  shape: tuple[int, ...],
) -> list[gradients_lib.Sensitivity]:
  """Per-sample gradients of each decision, for what is asked of them.

  An operator is told at once what it will be asked for, since its cheapest form
  depends on that.
  """
  batch, rank = shape
  operators = []
  for n, group in enumerate(players):
    wanted = gradients_lib.Wanted()
    if options.feedback or options.sizes_step:
      wanted = options.value.wanted(n)
    if wanted.product is not None:
      control = tuple(i for player in group for i in player.indices)
      form = options.bound.factor_form(control)
      wanted = wanted._replace(factor_form=form)
    wanted = wanted._replace(rows=options.bound.reads_rows(group))
    operators.append(gradients_lib.Sensitivity(group, batch, rank, wanted))
  return operators


def finished(
  options: StepOptions, plan: rollout_lib.Plan, result: rollout_lib.Rollout
) -> Step:
  """The step that the forward pass over a plan has made."""
  return Step(
    options.graph.unflatten(result.updates),
    result.base_state,
    options.graph.unflatten(result.gradients),
    plan.collections,
    {
      'loss': jnp.mean(plan.losses),
      'feedback_ratio': result.feedback_ratio,
      'clipped_share': result.clipped_share,
      'smallest_factor': result.smallest_factor,
      **plan.measured,
    },
  )


def _restricted(
  options: StepOptions, call: UpdateCall
) -> tuple[UpdateCall, Any, dict[str, Array]]:
  """The part of the batch that the terminal asks for, if it asks for less.

  The gradient of the whole batch is then a given one.
  """
  samples = getattr(options.terminal, 'samples', None)
  size = jax.tree.leaves(call.batch)[0].shape[0]
  if samples is None or samples >= size:
    return call, {}, {}
  grads, changed, measured = _gradients(options, call)
  part = jax.tree.map(lambda v: v[:samples], call.batch)
  return call._replace(batch=part, grads=grads), changed, measured


def _gradients(
  options: StepOptions, call: UpdateCall
) -> tuple[Any, Any, dict[str, Array]]:
  """Gradients, changed collections and loss; computes what is not call."""
  inputs, targets = call.batch
  graph = options.graph.for_inputs(inputs)

  def mean_loss(params: Any) -> tuple[Array, Any]:
    result = graph.run(params, inputs, extras_of(graph, call))
    losses = terminal_lib.sample_losses(
      options.loss, result.outputs, targets, graph.batch_size
    )
    return jnp.mean(losses), result.collections

  if call.grads is None:
    loss_of = jax.value_and_grad(mean_loss, has_aux=True)
    (loss, changed), grads = loss_of(call.params)
    # Complex ones as optax expects them: along them the loss rises.
    grads = jax.tree.map(jnp.conj, grads)
    return grads, changed, {'loss': loss}
  if not jax.tree.leaves(graph.changed):
    return call.grads, {}, {}
  loss, changed = mean_loss(call.params)
  return call.grads, changed, {'loss': loss}


def extras_of(
  graph: graph_lib.LayerGraph, call: UpdateCall
) -> graph_lib.Extras:
  """Collections and keys for the network.

  Raises:
    OptionError: if a key that it was traced with is missing.
  """
  rngs = {name: _key(call, name, 'network') for name in graph.extras.rngs}
  for name, traced in graph.extras.rngs.items():
    expected, got = map(graph_lib.shape_of, (traced, rngs[name]))
    if got != expected:
      raise errors.OptionError(
        f'rngs[{name!r}]: expected a key like the one traced with, {expected}, '
        f'got {got}. Make both by jax.random.key.'
      )
  return graph_lib.Extras(call.collections, rngs)


def _terminal_key(options: StepOptions, call: UpdateCall) -> tuple[Array, ...]:
  name = getattr(options.terminal, 'rng', None)
  return () if name is None else (_key(call, name, 'terminal'),)


def _key(call: UpdateCall, name: str, reader: str) -> Array:
  if name not in call.rngs:
    raise errors.OptionError(
      f'The {reader} draws random numbers: expected update(..., rngs={{{name!r}'
      f': key}}), got the keys {sorted(call.rngs)}.'
      f'{checks.nearest(name, call.rngs)}'
    )
  return call.rngs[name]


def _radius(trust_region: Any, slope: Array) -> Array | None:
  """The bound in units of the root mean square slope of the batch."""
  if trust_region is None:
    return None
  mean_square = jnp.mean(jnp.sum(slope**2, axis=1))
  return trust_region * jnp.sqrt(mean_square)
