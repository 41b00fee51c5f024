"""The closed-loop forward sweep: every stage answers what upstream has done.

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

from gtddp_jax import graph as graph_lib
from gtddp_jax import trajectory as trajectory_lib
from gtddp_jax import values

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
  """

  updates: list[Array]
  gradients: list[Array]
  base_state: Any
  feedback_ratio: Array
  clipped_share: Array


def closed_loop(
  problem: values.Problem,
  sweep: values.Sweep,
  trajectory: trajectory_lib.Trajectory,
  directions: Sequence[trajectory_lib.Directions],
) -> Rollout:
  """Updates the controls in order, each with the feedback of those before.

  Args:
    problem: what the backward sweep worked on.
    sweep: its result.
    trajectory: the nominal trajectory.
    directions: propagated to every stage.

  Returns:
    Updates, the base's new state and statistics.
  """
  done = _Done(problem, sweep)
  answers: list[Array] = []
  clipped = sweep.clipped
  state, aux = trajectory.points[0].state, trajectory.points[0].fixed.aux
  for t, point in enumerate(trajectory.points):
    control, weights = problem.controls[t], sweep.values[t].slope
    if t > 0:
      change = tuple(map(jnp.subtract, state, point.state))
      e = done.outcome(t, directions[t], change)
      answer, shortened = values.shorten(
        sweep.values[t].answer(e), problem.radius
      )
      weights = weights + answer
      clipped += shortened
      answers.append(answer)
    total = values.open_gain(
      problem, problem.sensitivities[t], control, weights
    )
    done.gradients.update(zip(control, total, strict=True))
    step = problem.base.step(control, done.gradient, done.observed)
    done.updates.update(zip(control, step, strict=True))
    if t + 1 < len(problem.controls):
      u = _updated(point.control, control, done.updates)
      v = _updated(point.shared, point.stage.shared, done.updates)
      fixed = dataclasses.replace(point.fixed, aux=aux)
      state, aux = point.stage(state, u, v, fixed)
  batch, size = problem.terminal.slope.shape[0], len(done.updates)
  return Rollout(
    [done.updates[i] for i in range(size)],
    [done.gradients[i] for i in range(size)],
    problem.base.finish(done.gradient, done.observed),
    _ratio(answers, [value.slope for value in sweep.values[1:]]),
    clipped / max(sweep.checked + batch * len(answers), 1),
  )


class _Done:
  """The controls updated so far, by flat parameter index."""

  def __init__(self, problem: values.Problem, sweep: values.Sweep):
    self._problem, self._sweep = problem, sweep
    self.updates: dict[int, Array] = {}
    self.gradients: dict[int, Array] = {}

  def gradient(self, i: int) -> Array:
    """The final gradient of a leaf, or its open-loop one if still ahead."""
    if i in self.gradients:
      return self.gradients[i]
    problem = self._problem
    t = next(t for t, c in enumerate(problem.controls) if i in c)
    control, slope = problem.controls[t], self._sweep.values[t].slope
    gains = values.open_gain(problem, problem.sensitivities[t], control, slope)
    return gains[control.index(i)]

  def observed(self, i: int) -> Array:
    """What the curvature of a leaf is observed from."""
    known = self._sweep.observed
    return known[i] if i in known else self.gradients[i]

  def outcome(
    self, t: int, directions: trajectory_lib.Directions, change: Arrays
  ) -> Array:
    """``e`` at the cut before stage ``t``, ``[B, R]``."""
    batch, rank = self._problem.terminal.slope.shape
    e = trajectory_lib.dot(directions.state, change, batch)
    for s, control in enumerate(self._problem.controls[:t]):
      update = graph_lib.pick(self.updates, control)
      e += self._problem.sensitivities[s].shared_change(update, after=t - 1)
    return jnp.broadcast_to(e, (batch, rank))


def _updated(
  values: Arrays, indices: tuple[int, ...], updates: dict[int, Array]
) -> Arrays:
  return tuple(
    (v + updates[i]).astype(v.dtype)
    for v, i in zip(values, indices, strict=True)
  )


def _ratio(answers: list[Array], slopes: list[Array]) -> Array:
  """Norm of all answers over that of all slopes; zero if there are none."""
  if not answers:
    return jnp.zeros(())
  above, below = (jnp.linalg.norm(jnp.stack(v)) for v in (answers, slopes))
  return above / jnp.maximum(below, jnp.finfo(below.dtype).tiny)
