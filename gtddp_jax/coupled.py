"""The exact recursion over the batch, with the Gauss-Newton term in ``Q_uu``.

With ``G`` the ``(B R) x |u|`` matrix of per-sample gradients, ``d`` one vector
and ``S`` one matrix over all samples and directions, and ``Q_uu = M / eta +
G^T S G / B`` (Levenberg-Marquardt with damping ``M / eta``)::

    N = G (M / eta)^-1 G^T            A = I + S N / B
    d <- A^-1 (d + S G k_0)           S <- A^-1 S = L (I + L^T N L / B)^-1 L^T
    du = -(M / eta)^-1 (l_u + G^T (d + S e) / B)          with the new d and S

where ``S = L L^T`` and ``k_0 = -(M / eta)^-1 l_u``. It equals batch-augmented
dynamic programming without its ``(B n)^2`` matrices. The matrix that is
factorised has no eigenvalue below one, so its Cholesky factor always exists.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from gtddp_jax import values as values_lib

Array = jax.Array


def coupled(problem: values_lib.Problem) -> values_lib.Sweep:
  """Sweeps backward; the weights of stage ``t`` use the value before it."""
  batch, rank = problem.terminal.slope.shape
  size = batch * rank
  slope = problem.terminal.slope.reshape(size)
  root = _block_diagonal(values_lib.square_root(problem.terminal.curvature))
  values: list[values_lib.Value] = []
  observed: dict[int, Array] = {}
  smallest = jnp.ones(())
  for operator, control in zip(
    reversed(problem.sensitivities), reversed(problem.controls), strict=True
  ):
    operator.keep()
    weights = slope.reshape(batch, rank)
    q_u = values_lib.open_gain(problem, operator, control, weights)
    observed.update(zip(control, q_u, strict=True))
    solve = functools.partial(
      problem.base.solve, control, q=observed.__getitem__
    )
    if problem.given is not None:
      # What the given gradients hold beyond the batch's own is l_u.
      own = operator.combine(weights)
      k_0 = solve(tuple(map(jnp.subtract, own, q_u)))
      change = operator.directional(k_0).reshape(size)
      slope += root @ (root.T @ change)
    kernel = operator.kernel(solve).reshape(size, size)
    inner = jnp.eye(size, dtype=root.dtype) + root.T @ kernel @ root / batch
    factor = jnp.linalg.cholesky(inner)
    root = jax.scipy.linalg.solve_triangular(factor, root.T, lower=True).T
    slope -= root @ (root.T @ (kernel @ slope)) / batch
    values.append(
      values_lib.Value(
        slope.reshape(batch, rank),
        (root @ root.T).reshape(batch, rank, batch, rank),
      )
    )
    smallest = jnp.minimum(smallest, 1 / jnp.max(jnp.sum(abs(inner), axis=1)))
  return values_lib.Sweep(
    values[::-1], observed, smallest, jnp.zeros(()), checked=0
  )


def _block_diagonal(blocks: Array) -> Array:
  """One ``[B R, B R]`` matrix from ``[B, R, R]`` blocks."""
  batch, rank, _ = blocks.shape
  eye = jnp.eye(batch, dtype=blocks.dtype)
  return jnp.einsum('bc,brs->brcs', eye, blocks).reshape(
    batch * rank, batch * rank
  )
