"""Steps of a base that sizes them: predicted, rolled out, tested.

With ``d``, ``S`` of the sweep and ``e`` the change of the outcomes that it
predicts for the whole step, a candidate of size ``alpha`` is one rollout with
the weights ``alpha d + S e^`` (``e^`` what the stages before have changed), and
without feedback ``alpha d_0``. Nothing is factorised anew. The linearised chain
predicts that the mean loss decreases by ::

    -(1/B) sum_i  alpha d_T e + (alpha^2 / 2) e S_T e

``d_T``, ``S_T`` those at the outputs. The actual decrease is that of the
network on the same batch, at the same random numbers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax import curvature as curvature_lib
from gtddp_jax import errors
from gtddp_jax import graph as graph_lib
from gtddp_jax import terminal as terminal_lib
from gtddp_jax import value as value_lib
from gtddp_jax.optimizer import rollout as rollout_lib
from gtddp_jax.optimizer import step as step_lib
from gtddp_jax.optimizer.options import StepOptions

Array = jax.Array


class _Candidate(NamedTuple):
  """A step of some size.

  Attributes:
    rollout: the step, in its final length.
    size: alpha, with what a bound on the step leaves of it.
  """

  rollout: rollout_lib.Rollout
  size: Array


class _Search(NamedTuple):
  """Where the search is.

  Attributes:
    tries: candidates so far.
    candidate: the last one.
    decrease: of the mean loss, by the last one.
    full: decrease predicted for the first one.
    taken: whether the last one is accepted.
  """

  tries: Array
  candidate: _Candidate
  decrease: Array
  full: Array
  taken: Array


def sized_step(
  options: StepOptions, call: step_lib.UpdateCall
) -> step_lib.Step:
  """The step of a base with ``sizes_step``, with feedback or without.

  A rejected step has updates and gradients of zero.

  Raises:
    OptionError: if gradients are given.
  """
  if call.grads is not None:
    raise errors.OptionError(
      'This base makes the gradients of its batch itself: expected '
      'update(None, state, params, batch=(inputs, targets)), got gradients. '
      'Its line search tests the loss of the batch alone: a penalty belongs '
      'into the loss, weight decay behind gt_ddp.'
    )
  plan = step_lib.linearized(options, call)
  curvature: Any = plan.curvature
  sized: curvature_lib.SizedCurvature = curvature
  sweep = step_lib.swept(options, plan.problem)

  def candidate(size: Array) -> _Candidate:
    return _rolled_out(options, plan, sweep, size)

  if sized.halvings is None:
    found = candidate(sized.size)
    unknown = jnp.full((), jnp.nan, found.size.dtype)
    taken = jnp.ones((), bool)
    trial = _trial(found, unknown, taken)
  else:
    found, ratio, taken = _searched(options, call, plan, sweep, candidate)
    trial = _trial(found, ratio, taken)
  base_state, measured = sized.settled(trial)
  rollout = found.rollout._replace(
    updates=list(trial.updates),
    gradients=[jnp.where(taken, g, 0) for g in found.rollout.gradients],
    base_state=base_state,
  )
  step = step_lib.finished(options, plan, rollout)
  return step._replace(measured={**step.measured, **measured})


def _trial(
  found: _Candidate, ratio: Array, taken: Array
) -> curvature_lib.Trial:
  updates = [jnp.where(taken, u, 0) for u in found.rollout.updates]
  return curvature_lib.Trial(
    updates, found.rollout.base_state, found.size, ratio, taken
  )


def _rolled_out(
  options: StepOptions,
  plan: rollout_lib.Plan,
  sweep: value_lib.Sweep,
  size: Array,
) -> _Candidate:
  """The candidate of a size: the feedforward terms are scaled by it."""
  curvature: Any = plan.curvature
  problem = plan.problem
  if problem.prior is not None:
    prior = tuple((size * k).astype(k.dtype) for k in problem.prior)
    plan = plan._replace(problem=problem._replace(prior=prior))
  scale = size.astype(problem.terminal.slope.dtype)
  values: list[Any] = list(sweep.values)
  scaled = sweep._replace(
    values=[value._replace(slope=scale * value.slope) for value in values]
  )
  roll = rollout_lib.closed_loop if options.feedback else rollout_lib.open_loop
  found = roll(plan, scaled)
  updates, factor = curvature.bounded(found.updates)
  return _Candidate(found._replace(updates=updates), size * factor)


def predicted_decrease(
  terminal: value_lib.Value, outcome: Array, size: Array
) -> Array:
  """What the linearised chain predicts of the mean loss, see the module."""
  slope = jnp.sum(terminal.slope * outcome, axis=1)
  curved = jnp.sum(outcome * terminal.feedback(outcome), axis=1)
  size = size.astype(slope.dtype)
  return -jnp.mean(size * slope + size**2 / 2 * curved)


def _searched(
  options: StepOptions,
  call: step_lib.UpdateCall,
  plan: rollout_lib.Plan,
  sweep: value_lib.Sweep,
  candidate: Any,
) -> tuple[_Candidate, Array, Array]:
  """The first candidate that is accepted, else the last; its gain ratio."""
  sized: Any = plan.curvature
  terminal, outcome = plan.problem.terminal, sweep.outcome
  assert outcome is not None

  def tried(search: _Search) -> _Search:
    found = candidate(sized.size * 0.5**search.tries)
    losses = _losses(options, call, found.rollout.updates)
    decrease = jnp.mean(plan.losses - losses).astype(search.decrease.dtype)
    predicted = predicted_decrease(terminal, outcome, found.size)
    full = jnp.where(search.tries == 0, predicted, search.full)
    taken = sized.accepts(decrease, predicted)
    return _Search(search.tries + 1, found, decrease, full, taken)

  def unfinished(search: _Search) -> Array:
    return ~search.taken & (search.tries <= sized.halvings)

  wide = jnp.result_type(plan.losses, sized.size)
  start = _Search(
    jnp.zeros((), sized.size.dtype),
    jax.tree.map(
      lambda s: jnp.zeros(s.shape, s.dtype),
      jax.eval_shape(candidate, sized.size),
    ),
    jnp.zeros((), wide),
    jnp.zeros_like(predicted_decrease(terminal, outcome, sized.size)),
    jnp.zeros((), bool),
  )
  # Inside shard_map all that a loop carries varies along the same axes.
  axes = graph_lib.axes_of((plan.losses, call))
  start = graph_lib.cast(start, axes)
  search = jax.lax.while_loop(
    unfinished, lambda s: graph_lib.cast(tried(s), axes), start
  )
  # A prediction that is lost in the rounding errors of the loss itself.
  hidden = 4 * jnp.finfo(plan.losses.dtype).eps * jnp.mean(jnp.abs(plan.losses))
  ratio = search.decrease / search.full
  ratio = jnp.where(jnp.isfinite(ratio), ratio, -1)
  ratio = jnp.where(jnp.abs(search.full) <= hidden, jnp.nan, ratio)
  return search.candidate, ratio, search.taken


def _losses(
  options: StepOptions, call: step_lib.UpdateCall, updates: list[Array]
) -> Array:
  """The loss of each sample after a step, ``[B]``."""
  inputs, targets = call.batch
  graph = options.graph.for_inputs(inputs)
  leaves = zip(graph.flatten(call.params), updates, strict=True)
  params = graph.unflatten([(u + du).astype(u.dtype) for u, du in leaves])
  extras = step_lib.extras_of(graph, call)
  outputs = graph.run(params, inputs, extras).outputs
  return terminal_lib.sample_losses(
    options.loss, outputs, targets, graph.batch_size
  )
