"""Levenberg-Marquardt with dense matrices, in closed and in open loop.

The symbols are those of `oracle`. With `l_u = -lambda M k_0` the gradient of
the cost of momentum, `Q_uu = lambda M + f_u' V_XX f_u`, and the feedforward
term scaled by alpha:

  closed loop   du_t = alpha k_t + K_t dX_t, rolled out through the network
  open loop     du = -alpha (lambda M + J' S J / B)^-1 (J' phi_x / B + l_u)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from oracle import Leaves, Linear, Terminal, _block_diagonal, _named

Array = np.ndarray


class Damped(NamedTuple):
  """lambda M (a diagonal for each stage), k_0 (likewise) and alpha."""

  damping: list[Array]
  prior: list[Array]
  alpha: float


def closed_loop(
  stages: Sequence[Linear], terminal: Terminal, damped: Damped
) -> Leaves:
  """Updates by leaf path, from the recursion on the batch-augmented state."""
  B = len(terminal.V_x)
  V_X = np.concatenate(terminal.V_x) / B
  V_XX = _block_diagonal(terminal.V_xx) / B
  gains = []
  for t in reversed(range(len(stages))):
    f_X, f_u = _block_diagonal(stages[t].f_x), np.concatenate(stages[t].f_u)
    D = np.diag(damped.damping[t])
    Q_u = f_u.T @ V_X - D @ damped.prior[t]
    Q_uu, Q_uX = D + f_u.T @ V_XX @ f_u, f_u.T @ V_XX @ f_X
    k, K = -np.linalg.solve(Q_uu, Q_u), -np.linalg.solve(Q_uu, Q_uX)
    gains.insert(0, (k, K))
    V_X = f_X.T @ V_X + Q_uX.T @ k
    V_XX = f_X.T @ V_XX @ f_X + Q_uX.T @ K
  updates: Leaves = {}
  xhat = stages[0].x
  for stage, (k, K) in zip(stages, gains, strict=True):
    du = damped.alpha * k + K @ (xhat - stage.x).ravel()
    updates |= _named(stage, du)
    xhat = np.stack([stage.step(x, stage.u + du) for x in xhat])
  return updates


def jacobian(stages: Sequence[Linear]) -> list[Array]:
  """Of the outputs of all samples in the control of each stage."""
  after = np.eye(_block_diagonal(stages[-1].f_x).shape[0])
  found = []
  for stage in reversed(stages):
    found.insert(0, after @ np.concatenate(stage.f_u))
    after = after @ _block_diagonal(stage.f_x)
  return found


def _jointly(
  stages: Sequence[Linear], terminal: Terminal
) -> tuple[int, Array, Array, Array]:
  """``B``, and of all samples the Jacobian, ``S_T`` and the gradient."""
  J = np.concatenate(jacobian(stages), axis=1)
  S, phi_x = _block_diagonal(terminal.V_xx), np.concatenate(terminal.V_x)
  return len(terminal.V_x), J, S, phi_x


def direction(
  stages: Sequence[Linear], terminal: Terminal, damped: Damped
) -> Array:
  """The Gauss-Newton step of all controls at alpha = 1, in one vector."""
  B, J, S, phi_x = _jointly(stages, terminal)
  D, k_0 = np.concatenate(damped.damping), np.concatenate(damped.prior)
  hessian = np.diag(D) + J.T @ S @ J / B
  return -np.linalg.solve(hessian, J.T @ phi_x / B - D * k_0)


def open_loop(
  stages: Sequence[Linear], terminal: Terminal, damped: Damped
) -> Leaves:
  """Updates by leaf path, from one solve in the space of the parameters."""
  step = damped.alpha * direction(stages, terminal, damped)
  ends = np.cumsum([stage.u.size for stage in stages])[:-1]
  updates: Leaves = {}
  for stage, part in zip(stages, np.split(step, ends), strict=True):
    updates |= _named(stage, part)
  return updates


def predicted(
  stages: Sequence[Linear], terminal: Terminal, damped: Damped
) -> float:
  """Decrease of the mean loss by that step, the network linearised."""
  B, J, S, phi_x = _jointly(stages, terminal)
  e = damped.alpha * J @ direction(stages, terminal, damped)
  return float(-(phi_x @ e + e @ S @ e / 2) / B)
