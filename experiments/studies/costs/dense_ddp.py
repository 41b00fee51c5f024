"""Batch-augmented DDP computed directly, for fully connected networks.

The state is all samples at once, ``X = (x^1 ... x^B)``, with a dense Jacobian
and a dense ``V_XX`` of ``(B n)^2`` numbers, as the textbook recursion has it::

    Q_uu = M / eta + F_u^T V_XX F_u           k = -Q_uu^-1 F_u^T V_X
    Q_uX = F_u^T V_XX F_X                     K = -Q_uu^-1 Q_uX
    V_X <- F_X^T V_X + Q_uX^T k        V_XX <- F_X^T V_XX F_X + Q_uX^T K

It is here to be compared with: ``value='coupled'`` takes the same step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import flatten_util

Array = jax.Array
Loss = Callable[[Array, Array], Array]


def step(
  layers: list[Any], activation: Any, loss: Loss, batch: Any, rate: float
) -> list[Any]:
  """Returns the updates of SGD with batch-augmented feedback.

  With the exact Gauss-Newton matrix.

  Args:
    layers: one ``{'kernel': [n, m], 'bias': [m]}`` per layer.
    activation: between layers, not after the last.
    loss: ``(outputs, targets) -> [B]``.
    batch: inputs ``[B, n]`` and targets.
    rate: eta.
  """
  inputs, targets = batch
  size = len(inputs)
  flat = [flatten_util.ravel_pytree(layer) for layer in layers]

  def run(t: int, state: Array, control: Array) -> Array:  # [B n], [p]
    layer = flat[t][1](control)
    h = state.reshape(size, -1) @ layer['kernel'] + layer['bias'][None]
    return (h if t + 1 == len(layers) else activation(h)).ravel()

  states = [inputs.ravel()]
  for t, (control, _) in enumerate(flat):
    states.append(run(t, states[-1], control))

  def mean_loss(outputs: Array) -> Array:
    return jnp.mean(loss(outputs.reshape(size, -1), targets))

  v_x, v_xx = (
    jax.grad(mean_loss)(states[-1]),
    jax.hessian(mean_loss)(states[-1]),
  )
  gains: list[tuple[Array, Array]] = []
  for t in reversed(range(len(layers))):
    f_x, f_u = jax.jacrev(lambda x, u, t=t: run(t, x, u), (0, 1))(
      states[t], flat[t][0]
    )
    q_uu = jnp.eye(f_u.shape[1]) / rate + f_u.T @ v_xx @ f_u
    q_ux = f_u.T @ v_xx @ f_x
    both = jnp.concatenate([(f_u.T @ v_x)[:, None], q_ux], axis=1)
    solved = -jax.scipy.linalg.solve(q_uu, both, assume_a='pos')
    gains.append((solved[:, 0], solved[:, 1:]))
    v_x = f_x.T @ v_x + q_ux.T @ solved[:, 0]
    v_xx = f_x.T @ v_xx @ f_x + q_ux.T @ solved[:, 1:]

  updates, state = [], states[0]
  for t, (k, gain) in enumerate(reversed(gains)):
    change = k + gain @ (state - states[t])
    control, unravel = flat[t]
    updates.append(unravel(change))
    state = run(t, state, control + change)
  return updates
