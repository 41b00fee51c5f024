"""One candidate step: the base alone, or backward sweep and closed loop.

A step only proposes; whether it is taken is decided where the state is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax import curvature as curvature_lib
from gtddp_jax import errors
from gtddp_jax import gradients as gradients_lib
from gtddp_jax import graph as graph_lib
from gtddp_jax import terminal as terminal_lib
from gtddp_jax import value as value_lib
from gtddp_jax.optimizer import rollout as rollout_lib

Array = jax.Array


class Recipe(NamedTuple):
  """What a step is made of; see ``gt_ddp``."""

  graph: graph_lib.LayerGraph
  loss: terminal_lib.Loss
  base: Any
  expand: terminal_lib.TerminalValue
  level: value_lib.Level
  trust_region: float | None
  cooperate: bool


class Given(NamedTuple):
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


def open_loop(recipe: Recipe, given: Given) -> Step:
  """The base's own step; computes the gradients if none are given."""
  if isinstance(recipe.base, curvature_lib.Bound):
    return planned(recipe, given, rollout_lib.open_loop)
  grads, changed, measured = _gradients(recipe, given)
  updates, base_state = recipe.base.update(
    grads, given.base_state, given.params, **given.extra_args
  )
  return Step(
    updates, base_state, grads, {**given.collections, **changed}, measured
  )


def closed_loop(recipe: Recipe, given: Given) -> Step:
  """Linearises, expands the loss, sweeps backward and rolls out forward."""

  def sweep(plan: rollout_lib.Plan) -> rollout_lib.Rollout:
    return rollout_lib.closed_loop(plan, recipe.level(plan.problem))

  return planned(recipe, given, sweep)


def planned(
  recipe: Recipe,
  given: Given,
  decide: Callable[[rollout_lib.Plan], rollout_lib.Rollout],
) -> Step:
  """A step along the nominal trajectory and its directions."""
  given, changed, measured = _restricted(recipe, given)
  inputs, targets = given.batch
  graph = recipe.graph.for_inputs(inputs)
  nominal = gradients_lib.linearize(
    graph, graph.flatten(given.params), inputs, _extras(graph, given)
  )
  loss = terminal_lib.of_pairs(recipe.loss, graph.outputs)
  losses = terminal_lib.per_sample(loss, nominal.outputs, targets)
  expansion = terminal_lib.check(
    recipe.expand(
      loss, nominal.outputs, targets, *_terminal_key(recipe, given)
    ),
    nominal.outputs,
  )
  radius = _radius(recipe.trust_region, expansion.slope)
  if graph.mixed and not terminal_lib.is_uniform(recipe.expand):
    expansion = terminal_lib.with_gradient(expansion)
  directions = gradients_lib.propagate(nominal, expansion.directions)
  linearised = nominal, directions
  problem = _problem(recipe, given, graph, expansion, linearised, radius)
  result = decide(rollout_lib.Plan(problem, nominal, directions))
  return Step(
    graph.unflatten(result.updates),
    result.base_state,
    graph.unflatten(result.gradients),
    {**given.collections, **nominal.collections, **changed},
    {
      'loss': jnp.mean(losses),
      'feedback_ratio': result.feedback_ratio,
      'clipped_share': result.clipped_share,
      'smallest_factor': result.smallest_factor,
      **measured,
    },
  )


def _problem(
  recipe: Recipe,
  given: Given,
  graph: graph_lib.LayerGraph,
  expansion: terminal_lib.Expansion,
  linearised: tuple[gradients_lib.Trajectory, list[gradients_lib.Directions]],
  radius: Array | None,
) -> value_lib.Problem:
  """What the level works on."""
  spans = graph.decisions(recipe.cooperate)
  operators = [
    gradients_lib.Sensitivity(
      [gradients_lib.Player(graph, *linearised, t) for t in span],
      *expansion.slope.shape,
    )
    for span in spans
  ]
  return value_lib.Problem(
    terminal=value_lib.Value(expansion.slope, expansion.curvature),
    sensitivities=operators,
    spans=spans,
    base=_decider(recipe, given, expansion, operators),
    given=_leaves(given.grads),
    radius=radius,
  )


def _leaves(grads: Any) -> list[Array] | None:
  """Gradients as they are carried, complex ones as pairs of real ones."""
  if grads is None:
    return None
  return list(map(graph_lib.as_real, jax.tree.leaves(grads)))


def _decider(
  recipe: Recipe,
  given: Given,
  expansion: terminal_lib.Expansion,
  operators: list[gradients_lib.Sensitivity],
) -> value_lib.Decider:
  """The base, asked one decision at a time."""
  if isinstance(recipe.base, curvature_lib.Bound):
    return curvature_lib.Preconditioned(
      recipe.base,
      given.base_state,
      given.params,
      operators,
      terminal_lib.square_root(expansion.curvature),
      _leaves(given.grads),
    )
  return curvature_lib.Stagewise(
    recipe.base, given.base_state, given.params, given.extra_args
  )


def _restricted(
  recipe: Recipe, given: Given
) -> tuple[Given, Any, dict[str, Array]]:
  """The part of the batch that the terminal asks for, if it asks for less.

  The gradient of the whole batch is then a given one.
  """
  samples = getattr(recipe.expand, 'samples', None)
  size = jax.tree.leaves(given.batch)[0].shape[0]
  if samples is None or samples >= size:
    return given, {}, {}
  grads, changed, measured = _gradients(recipe, given)
  part = jax.tree.map(lambda v: v[:samples], given.batch)
  return given._replace(batch=part, grads=grads), changed, measured


def _gradients(
  recipe: Recipe, given: Given
) -> tuple[Any, Any, dict[str, Array]]:
  """Gradients, changed collections and loss; computes what is not given."""
  inputs, targets = given.batch
  graph = recipe.graph.for_inputs(inputs)

  def mean_loss(params: Any) -> tuple[Array, Any]:
    result = graph.run(params, inputs, _extras(graph, given))
    losses = terminal_lib.per_sample(recipe.loss, result.outputs, targets)
    return jnp.mean(losses), result.collections

  if given.grads is None:
    loss_of = jax.value_and_grad(mean_loss, has_aux=True)
    (loss, changed), grads = loss_of(given.params)
    # Complex ones as optax expects them: along them the loss rises.
    grads = jax.tree.map(jnp.conj, grads)
    return grads, changed, {'loss': loss}
  if not jax.tree.leaves(graph.changed):
    return given.grads, {}, {}
  loss, changed = mean_loss(given.params)
  return given.grads, changed, {'loss': loss}


def _extras(graph: graph_lib.LayerGraph, given: Given) -> graph_lib.Extras:
  """Collections and keys for the network.

  Raises:
    OptionError: if a key that it was traced with is missing.
  """
  rngs = {name: _key(given, name, 'network') for name in graph.extras.rngs}
  for name, traced in graph.extras.rngs.items():
    expected, got = map(graph_lib.shape_of, (traced, rngs[name]))
    if got != expected:
      raise errors.OptionError(
        f'rngs[{name!r}]: expected a key like the one traced with, {expected}, '
        f'got {got}. Make both by jax.random.key.'
      )
  return graph_lib.Extras(given.collections, rngs)


def _terminal_key(recipe: Recipe, given: Given) -> tuple[Array, ...]:
  name = getattr(recipe.expand, 'rng', None)
  return () if name is None else (_key(given, name, 'terminal'),)


def _key(given: Given, name: str, reader: str) -> Array:
  if name not in given.rngs:
    raise errors.OptionError(
      f'The {reader} draws random numbers: expected update(..., rngs={{{name!r}'
      f': key}}), got the keys {sorted(given.rngs)}.'
    )
  return given.rngs[name]


def _radius(trust_region: float | None, slope: Array) -> Array | None:
  """The bound in units of the root mean square slope of the batch."""
  if trust_region is None:
    return None
  mean_square = jnp.mean(jnp.sum(slope**2, axis=1))
  return trust_region * jnp.sqrt(mean_square)
