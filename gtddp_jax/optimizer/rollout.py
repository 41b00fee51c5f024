"""The closed-loop forward sweep: every stage reacts to those before it.

With ``c`` the nominal and ``c^`` the actual state, forward over the stages::

    e  = <P_t, c^ - c>                        change of outcome achieved so far
    w  = d + S e                              what remains for this stage
    du = base step along combine(w)  =  -Q_uu^-1 (l_u + (1/B) sum w g)
    c^ <- F(c^, u + du)

``e`` includes what the coming uses of already updated controls contribute.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax import curvature as curvature_lib
from gtddp_jax import gradients as gradients_lib
from gtddp_jax import graph as graph_lib
from gtddp_jax import value as value_lib

Array = jax.Array
Arrays = tuple[jax.Array, ...]


class Rollout(NamedTuple):
  """Result of the closed-loop sweep.

  Attributes:
    updates: one update per flat parameter leaf.
    gradients: the re-weighted gradient of each leaf.
    base_state: the base optimizer's new state.
    feedback_ratio: root mean square of ``S e`` over that of ``d``.
    clipped_share: share of feedback weights that the trust region shortened.
    smallest_factor: of the backward sweep.
  """

  updates: list[Array]
  gradients: list[Array]
  base_state: Any
  feedback_ratio: Array
  clipped_share: Array
  smallest_factor: Array


class Plan(NamedTuple):
  """What is known before any control is updated.

  Attributes:
    problem: what a backward sweep works on.
    curvature: of the base, which the sweep observes and the rollout asks.
    trajectory: the nominal trajectory.
    directions: propagated to every stage.
    unread: by flat index, the gradients of the parameters that no stage has:
      zero, or those that the caller passed.
    losses: of the samples, ``[B]``.
    collections: of the network, as it changed them.
    measured: scalars by name that are known so far.
  """

  problem: value_lib.Problem
  curvature: curvature_lib.Curvature
  trajectory: gradients_lib.Trajectory
  directions: Sequence[gradients_lib.Directions]
  unread: dict[int, Array]
  losses: Array
  collections: Any
  measured: dict[str, Array]


def closed_loop(plan: Plan, sweep: value_lib.Sweep) -> Rollout:
  """Updates the controls in order, each with the feedback of those before.

  Args:
    plan: of the step.
    sweep: result of the backward sweep.

  Returns:
    Updates, the base's new state and statistics.
  """
  problem, trajectory, directions = (
    plan.problem,
    plan.trajectory,
    plan.directions,
  )
  forward = _ForwardPass(plan, sweep)
  feedbacks: list[Array] = []
  clipped = sweep.clipped
  state, aux = trajectory.points[0].state, trajectory.points[0].fixed.aux
  for n, span in enumerate(problem.spans):
    # What the stages before have changed (e), and the weights that it leaves.
    weights = sweep.values[n].slope
    if n > 0:
      t = span[0]
      change = tuple(map(jnp.subtract, state, trajectory.points[t].state))
      e = forward.outcome(n, directions[t], change)
      feedback, shortened = value_lib.clip_rows(
        sweep.values[n].feedback(e), problem.radius
      )
      weights = weights + feedback
      clipped += shortened
      feedbacks.append(feedback)
    forward.update(n, weights)
    # The actual state moves on with the new controls, and with those of earlier
    # stages that are read again.
    if n + 1 < len(problem.spans):
      for t in span:
        point = trajectory.points[t]
        u = _updated(point.control, point.stage.control, forward.updates)
        v = _updated(point.shared, point.stage.shared, forward.updates)
        fixed = dataclasses.replace(point.fixed, aux=aux)
        state, aux = point.stage(state, u, v, fixed)
        state = gradients_lib.kept(state)
  batch = problem.terminal.slope.shape[0]
  return forward.rollout(
    _ratio(feedbacks, [value.slope for value in sweep.values[1:]]),
    clipped / max(sweep.checked + batch * len(feedbacks), 1),
  )


def open_loop(plan: Plan, sweep: value_lib.Sweep) -> Rollout:
  """Updates the controls without feedback: every ``Q_ux`` is zero.

  Args:
    plan: of the step.
    sweep: its first slope weighs the samples of all decisions.

  Returns:
    As of ``closed_loop``.
  """
  forward = _ForwardPass(plan, sweep)
  for n in range(len(plan.problem.spans)):
    forward.update(n, sweep.values[0].slope)
  return forward.rollout(jnp.zeros(()), jnp.zeros(()))


class _ForwardPass:
  """The controls updated so far, by flat parameter index."""

  def __init__(self, plan: Plan, sweep: value_lib.Sweep):
    self._problem, self._sweep = plan.problem, sweep
    self._curvature = plan.curvature
    self.updates: dict[int, Array] = {}
    self.gradients = dict(plan.unread)
    self._unread = tuple(plan.unread)
    self._open: dict[int, Array] = {}  # open-loop gradients that were asked for

  def update(self, n: int, weights: Array) -> None:
    """The base's step of decision ``n`` for these sample weights."""
    operator = self._problem.operators[n]
    total = value_lib.control_gradient(self._problem, operator, weights)
    self.gradients.update(zip(operator.control, total, strict=True))
    self._step(operator.control)

  def _step(self, control: tuple[int, ...]) -> None:
    # A base that mixes stages reads gradients of others: the best known ones.
    needed = self._curvature.needed(control)
    known = {i: self._best_known(i) for i in needed}
    step = self._curvature.step(control, known)
    if self._problem.prior is not None:
      prior = graph_lib.pick(self._problem.prior, control)
      step = tuple(map(jnp.add, step, prior))
    self.updates.update(zip(control, step, strict=True))

  def rollout(self, feedback_ratio: Array, clipped_share: Array) -> Rollout:
    """The result, once all controls are updated."""
    if self._unread:
      self._step(self._unread)
    size = len(self.updates)
    return Rollout(
      [self.updates[i] for i in range(size)],
      [self.gradients[i] for i in range(size)],
      self._curvature.finish(self.gradients),
      feedback_ratio,
      clipped_share,
      self._sweep.smallest_factor,
    )

  def _best_known(self, i: int) -> Array:
    """The final gradient of a leaf, or its open-loop one if still ahead."""
    if i in self.gradients:
      return self.gradients[i]
    if i not in self._open:
      operators = self._problem.operators
      n = next(n for n, o in enumerate(operators) if i in o.control)
      slope = self._sweep.values[n].slope
      gains = value_lib.control_gradient(self._problem, operators[n], slope)
      self._open.update(zip(operators[n].control, gains, strict=True))
    return self._open[i]

  def outcome(
    self, n: int, directions: gradients_lib.Directions, change: Arrays
  ) -> Array:
    """``e`` at the cut before decision ``n``, ``[B, R]``."""
    batch, rank = self._problem.terminal.slope.shape
    e = gradients_lib.dot(directions.state, change, batch)
    last = self._problem.spans[n][0] - 1
    for operator in self._problem.operators[:n]:
      update = graph_lib.pick(self.updates, operator.control)
      e += operator.shared_change(update, after=last)
    return jnp.broadcast_to(e, (batch, rank))


def _updated(
  values: Arrays, indices: tuple[int, ...], updates: dict[int, Array]
) -> Arrays:
  return tuple(
    (v + updates[i]).astype(v.dtype)
    for v, i in zip(values, indices, strict=True)
  )


def _ratio(feedbacks: list[Array], slopes: list[Array]) -> Array:
  """Norm of all feedback over the norm of all slopes; zero if there is none."""
  if not feedbacks:
    return jnp.zeros(())
  above, below = (jnp.linalg.norm(jnp.stack(v)) for v in (feedbacks, slopes))
  return above / jnp.maximum(below, jnp.finfo(below.dtype).tiny)
