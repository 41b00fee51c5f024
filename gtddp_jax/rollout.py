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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

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
  directions: list[trajectory_lib.Directions],
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
  batch, rank = problem.terminal.slope.shape
  updates: dict[int, Array] = {}
  gradients: dict[int, Array] = {}
  checked = sweep.checked
  answers: list[Array] = []
  slopes: list[Array] = []
  clipped = sweep.clipped
  state: Arrays = ()
  aux: Arrays = ()

  def gradient(i: int) -> Array:
    """The final gradient of a leaf, or its open-loop one if still ahead."""
    if i not in gradients:
      t = next(t for t, c in enumerate(problem.controls) if i in c)
      gains = values.open_gain(
        problem,
        problem.sensitivities[t],
        problem.controls[t],
        sweep.values[t].slope,
      )
      return gains[problem.controls[t].index(i)]
    return gradients[i]

  def observed(i: int) -> Array:
    return sweep.observed[i] if i in sweep.observed else gradients[i]

  for t, (point, control) in enumerate(
    zip(trajectory.points, problem.controls, strict=True)
  ):
    value = sweep.values[t]
    weights = value.slope
    if t > 0:
      change = tuple(map(jnp.subtract, state, point.state))
      e = jnp.zeros((batch, rank)) + sum(
        problem.sensitivities[s].shared_change(
          tuple(updates[i] for i in problem.controls[s]), after=t - 1
        )
        for s in range(t)
      )
      e += trajectory_lib.dot(directions[t].state, change, batch)
      answer, shortened = values.shorten(value.answer(e), problem.radius)
      weights = weights + answer
      clipped += shortened
      answers.append(answer)
      slopes.append(value.slope)
      checked += batch
    total = values.open_gain(
      problem, problem.sensitivities[t], control, weights
    )
    gradients.update(zip(control, total, strict=True))
    step = problem.base.step(control, gradient, observed)
    updates.update(zip(control, step, strict=True))
    if t + 1 < len(problem.controls):
      u = _updated(point.control, control, updates)
      v = _updated(point.shared, point.stage.shared, updates)
      fixed = dataclasses.replace(point.fixed, aux=aux)
      state, aux = point.stage(state, u, v, fixed)
  size = len(updates)
  return Rollout(
    [updates[i] for i in range(size)],
    [gradients[i] for i in range(size)],
    problem.base.finish(gradient, observed),
    _ratio(answers, slopes),
    clipped / max(checked, 1),
  )


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
