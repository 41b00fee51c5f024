"""Terminal value functions: the loss expanded in a few output directions.

At the outputs ``c_T`` of sample ``i`` the value function is, with directions
``Z`` (one column per direction, R of them)::

    V_x = Z d        V_xx = Z S Z^T        d in R^R,  S in R^(R x R)

``gradient`` (the paper's): ``Z = phi_x``, ``d = S = 1``. ``gauss_newton``:
``Z`` an orthonormal basis of the outputs, ``d = Z^T phi_x`` and
``S = Z^T phi_xx Z``, which is exact for every twice-differentiable loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gtddp_jax import errors, losses

Array = jax.Array
Loss = Callable[[Any, Any], Array]

_MOST_DIRECTIONS = 1024


class Expansion(NamedTuple):
  """Second-order expansion of the per-sample losses.

  Attributes:
    directions: ``Z``, a pytree like the outputs with leaves ``[R, B, ...]``.
    slope: ``d``, ``[B, R]``.
    curvature: ``S``, ``[B, R, R]``, symmetric positive semi-definite.
  """

  directions: Any
  slope: Array
  curvature: Array


TerminalValue = Callable[[Loss, Any, Any], Expansion]


def per_sample(loss: Loss, outputs: Any, targets: Any) -> Array:
  """Evaluates a loss and checks that it has one value per sample, ``[B]``.

  Raises:
    LossError: if it has not.
  """
  batch = jax.tree.leaves(outputs)[0].shape[0]
  values = loss(outputs, targets)
  if jnp.shape(values) != (batch,):
    raise errors.LossError(
      f'The loss returned shape {jnp.shape(values)}: expected one value per '
      f'sample, ({batch},). Do not average over the batch in the loss.'
    )
  return values


def gradient(loss: Loss, outputs: Any, targets: Any) -> Expansion:
  """Rank one, ``V_xx = phi_x phi_x^T``: the paper's choice (Prop. 5, 6)."""
  phi_x = jax.grad(lambda o: per_sample(loss, o, targets).sum())(outputs)
  first = jax.tree.leaves(outputs)[0]
  wide = jnp.promote_types(first.dtype, jnp.float32)
  return Expansion(
    jax.tree.map(lambda g: g[None], phi_x),
    jnp.ones((first.shape[0], 1), wide),
    jnp.ones((first.shape[0], 1, 1), wide),
  )


def gauss_newton(loss: Loss, outputs: Any, targets: Any) -> Expansion:
  """The exact Hessian of the loss; R = output size (less 1 for a softmax).

  A loss that is not known to be convex has the negative part of its Hessian
  removed, so that ``V_xx`` stays positive semi-definite.

  Raises:
    LossError: if the outputs have too many numbers per sample.
  """
  per_sample(loss, outputs, targets)
  leaves, tree = jax.tree.flatten(outputs)
  batch = leaves[0].shape[0]
  sizes = [math.prod(leaf.shape[1:]) for leaf in leaves]
  if sum(sizes) > _MOST_DIRECTIONS:
    raise errors.LossError(
      f'terminal="gauss_newton" carries one direction per output: expected at '
      f'most {_MOST_DIRECTIONS} outputs per sample, got {sum(sizes)}. Use '
      f'terminal="gradient".'
    )

  def unflatten(rows: Array) -> Any:  # [..., B, n] -> leaves [..., B, ...]
    pieces = jnp.split(rows, np.cumsum(sizes)[:-1], axis=-1)
    return jax.tree.unflatten(
      tree,
      [
        p.reshape(*rows.shape[:-1], *leaf.shape[1:]).astype(leaf.dtype)
        for p, leaf in zip(pieces, leaves, strict=True)
      ],
    )

  def value(row: Array, target: Any) -> Array:
    return loss(unflatten(row[None]), jax.tree.map(lambda t: t[None], target))[
      0
    ]

  rows = jnp.concatenate([leaf.reshape(batch, -1) for leaf in leaves], axis=1)
  phi_x = jax.vmap(jax.grad(value))(rows, targets)
  phi_xx = jax.vmap(jax.hessian(value))(rows, targets)
  if not losses.is_convex(loss):
    phi_xx = _positive_part(phi_xx)
  basis = jnp.asarray(_basis(loss, leaves, sizes), rows.dtype)  # [n, R]
  directions = jnp.broadcast_to(
    basis.T[:, None, :], (basis.shape[1], batch, basis.shape[0])
  )
  return Expansion(
    unflatten(directions),
    phi_x @ basis,
    jnp.einsum('nr,bnm,ms->brs', basis, phi_xx, basis),
  )


def _basis(loss: Loss, leaves: list[Array], sizes: list[int]) -> np.ndarray:
  """Orthonormal output directions that the loss can see, ``[n, R]``."""
  n = sum(sizes)
  if len(leaves) != 1 or leaves[0].ndim != 2 or not losses.ignores_shift(loss):
    return np.eye(n)
  # Helmert's basis of the complement of the constant vector.
  rows = np.zeros((n - 1, n))
  for j in range(1, n):
    rows[j - 1, :j] = 1.0
    rows[j - 1, j] = -j
    rows[j - 1] /= math.sqrt(j * (j + 1))
  return rows.T


def _positive_part(matrices: Array) -> Array:
  values, vectors = jnp.linalg.eigh(matrices)
  values = jnp.maximum(values, 0)
  return jnp.einsum('bij,bj,bkj->bik', vectors, values, vectors)
