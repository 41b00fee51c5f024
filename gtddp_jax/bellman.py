"""The Bellman recursion of the paper, block-diagonal over the batch.

``Q_uu`` is taken from the base optimizer. Backward over the stages::

    Q_u = l_u + combine(d)            k = -Q_uu^-1 Q_u
    d  <- d + S (g . k)               N = g . Q_uu^-1 g
    S  <- S - S N S / B  =  L (I - L^T N L / B)_+ L^T,    S = L L^T

``(.)_+`` keeps the factor positive semi-definite: nothing else would, since
``Q_uu`` need not dominate the Gauss-Newton term.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from gtddp_jax import values as values_lib

Array = jax.Array


def bellman(problem: values_lib.Problem) -> values_lib.Sweep:
  """Sweeps backward; the weights of stage ``t`` use the value after it."""
  slope, curvature = problem.terminal
  root = values_lib.square_root(curvature)
  values = [problem.terminal]
  observed: dict[int, Array] = {}
  smallest, clipped = jnp.ones(()), jnp.zeros(())
  # The first stage ends the sweep: nobody upstream reads its value function.
  for t in range(len(problem.controls) - 1, 0, -1):
    operator, control = problem.sensitivities[t], problem.controls[t]
    operator.keep()
    q_u = values_lib.open_gain(problem, operator, control, slope)
    observed.update(zip(control, q_u, strict=True))
    k = problem.base.step(control, observed.__getitem__, observed.__getitem__)
    gram = operator.gram(
      functools.partial(problem.base.solve, control, q=observed.__getitem__)
    )
    move = values[-1].answer(operator.directional(k))
    moved, shortened = values_lib.shorten(
      slope + move - problem.terminal.slope, problem.radius
    )
    slope = problem.terminal.slope + moved
    clipped += shortened
    root, least = _contract(root, gram / gram.shape[0])
    curvature = jnp.einsum('bri,bsi->brs', root, root)
    smallest = jnp.minimum(smallest, least)
    values.append(values_lib.Value(slope, curvature))
  checked = slope.shape[0] * (len(values) - 1)
  return values_lib.Sweep(values[::-1], observed, smallest, clipped, checked)


def _contract(root: Array, gram: Array) -> tuple[Array, Array]:
  """``L (I - L^T N L / B)_+^(1/2)`` and the least eigenvalue of the factor."""
  inner = jnp.einsum('bri,brs,bsj->bij', root, gram, root)
  if root.shape[-1] == 1:
    factor = 1 - inner
    return root * jnp.sqrt(jnp.maximum(factor, 0)), jnp.min(factor)
  values, vectors = jnp.linalg.eigh(inner)
  factor = 1 - values
  scaled = (root @ vectors) * jnp.sqrt(jnp.maximum(factor, 0))[:, None, :]
  return scaled, jnp.min(factor)
