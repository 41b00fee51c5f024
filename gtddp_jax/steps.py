"""One candidate step: the base alone, or backward sweep and closed loop.

A step only proposes; whether it is taken is decided where the state is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax import (
  bellman,
  coupled,
  rollout,
  sensitivity,
  stagewise,
  trajectory,
  values,
)
from gtddp_jax import graph as graph_lib
from gtddp_jax import terminal as terminal_lib

Array = jax.Array

LEVELS: Mapping[str, values.Level] = MappingProxyType(
  {
    'frozen': values.frozen,
    'bellman': bellman.bellman,
    'coupled': coupled.coupled,
  }
)


class Recipe(NamedTuple):
  """What a step is made of; see ``gt_ddp``."""

  graph: graph_lib.LayerGraph
  loss: terminal_lib.Loss
  base: Any
  expand: terminal_lib.TerminalValue
  level: values.Level
  trust_region: float | None


class Given(NamedTuple):
  """What the caller of ``update`` gives.

  Attributes:
    grads: open-loop gradients, a pytree, or None.
    base_state: of the base.
    params: pytree of parameters.
    batch: inputs and targets.
    extra_args: for the base.
  """

  grads: Any
  base_state: Any
  params: Any
  batch: tuple[Any, Any]
  extra_args: dict[str, Any]


class Step(NamedTuple):
  """A candidate step.

  Attributes:
    updates: a pytree like the parameters.
    base_state: the base's new state.
    gradients: what the base was given.
    measured: scalars by name; those that were not measured are absent.
  """

  updates: Any
  base_state: Any
  gradients: Any
  measured: dict[str, Array]


def open_loop(recipe: Recipe, given: Given) -> Step:
  """The base's own step; computes the gradients if none are given."""
  grads, measured = given.grads, {}
  if grads is None:
    inputs, targets = given.batch
    graph = recipe.graph.for_inputs(inputs)

    def mean_loss(params: Any) -> Array:
      outputs = graph(params, inputs)
      return jnp.mean(terminal_lib.per_sample(recipe.loss, outputs, targets))

    measured['loss'], grads = jax.value_and_grad(mean_loss)(given.params)
  updates, base_state = recipe.base.update(
    grads, given.base_state, given.params, **given.extra_args
  )
  return Step(updates, base_state, grads, measured)


def closed_loop(recipe: Recipe, given: Given) -> Step:
  """Linearises, expands the loss, sweeps backward and rolls out forward."""
  inputs, targets = given.batch
  graph = recipe.graph.for_inputs(inputs)
  nominal = trajectory.linearize(graph, graph.flatten(given.params), inputs)
  losses = terminal_lib.per_sample(recipe.loss, nominal.outputs, targets)
  expansion = recipe.expand(recipe.loss, nominal.outputs, targets)
  directions = trajectory.propagate(nominal, expansion.directions)
  problem = values.Problem(
    terminal=values.Value(expansion.slope, expansion.curvature),
    sensitivities=[
      sensitivity.Sensitivity(graph, nominal, directions, t)
      for t in range(len(graph.stages))
    ],
    controls=[stage.control for stage in graph.stages],
    base=stagewise.Stagewise(
      recipe.base, given.base_state, given.params, given.extra_args
    ),
    given=None if given.grads is None else jax.tree.leaves(given.grads),
    radius=_radius(recipe.trust_region, expansion.slope),
  )
  sweep = recipe.level(problem)
  result = rollout.closed_loop(problem, sweep, nominal, directions)
  tree = jax.tree.structure(given.params)
  return Step(
    jax.tree.unflatten(tree, result.updates),
    result.base_state,
    jax.tree.unflatten(tree, result.gradients),
    {
      'loss': jnp.mean(losses),
      'feedback_ratio': result.feedback_ratio,
      'clipped_share': result.clipped_share,
      'smallest_factor': sweep.smallest_factor,
    },
  )


def _radius(trust_region: float | None, slope: Array) -> Array | None:
  """The bound in units of the root mean square slope of the batch."""
  if trust_region is None:
    return None
  mean_square = jnp.mean(jnp.sum(slope**2, axis=1))
  return trust_region * jnp.sqrt(mean_square)
