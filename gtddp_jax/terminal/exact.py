"""Terminal value functions: the loss expanded in a few output directions.

At the outputs ``c_T`` of sample ``i`` the value function is, with directions
``Z`` (one column per direction, R of them)::

    V_x = Z d        V_xx = Z S Z^T        d in R^R,  S in R^(R x R)

``gradient`` (the paper's): ``Z = phi_x``, ``d = S = 1``. ``gauss_newton``:
``Z`` an orthonormal basis of the outputs, ``d = Z^T phi_x`` and
``S = Z^T phi_xx Z``, which is exact for every twice-differentiable loss.
Cheaper ones, that stand in for it with fewer directions, are in ``low_rank``.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gtddp_jax import checks, errors, losses
from gtddp_jax import graph as graph_lib
from gtddp_jax.terminal import expansion as expansion_lib

Array = jax.Array
_MOST_DIRECTIONS = 1024


def named(terminal: Any) -> Any:
  """The terminal value function of a name; anything else as it is.

  Raises:
    OptionError: for an unknown name.
  """
  if not isinstance(terminal, str):
    return terminal
  known = {'gradient': gradient, 'gauss_newton': gauss_newton}
  if terminal not in known:
    raise errors.OptionError(
      f'Invalid terminal: got {terminal!r}, expected one of '
      f'{", ".join(map(repr, known))}, sampled(m), truncated(r), '
      f'subset(terminal, n) or a TerminalValue.'
      f'{checks.nearest(terminal, known)}'
    )
  return known[terminal]


def is_uniform(expand: Any) -> bool:
  """Whether a terminal value function has the same ``d`` for all samples."""
  return expand is gradient or getattr(expand, 'uniform', False)


def gradient(
  loss: expansion_lib.Loss, outputs: Any, targets: Any
) -> expansion_lib.Expansion:
  """Rank one, ``V_xx = phi_x phi_x^T``: the paper's choice (Prop. 5, 6)."""
  phi_x = jax.grad(
    lambda o: expansion_lib.sample_losses(loss, o, targets).sum()
  )(outputs)
  first = jax.tree.leaves(outputs)[0]
  wide = jnp.promote_types(first.dtype, jnp.float32)
  return expansion_lib.Expansion(
    jax.tree.map(lambda g: g[None], phi_x),
    jnp.ones((first.shape[0], 1), wide),
    jnp.ones((first.shape[0], 1, 1), wide),
  )


def gauss_newton(
  loss: expansion_lib.Loss, outputs: Any, targets: Any
) -> expansion_lib.Expansion:
  """The exact Hessian of the loss; R = output size (less 1 for a softmax).

  A loss that is not known to be convex has the negative part of its Hessian
  removed, so that ``V_xx`` stays positive semi-definite.

  Raises:
    LossError: if the outputs have too many numbers per sample.
  """
  flat = FlatLoss(loss, outputs, targets)
  basis = jnp.asarray(_basis(loss, flat), flat.rows.dtype)  # [n, R]
  directions = jnp.broadcast_to(
    basis.T[:, None, :], (basis.shape[1], *flat.rows.shape)
  )
  return expansion_lib.Expansion(
    flat.unflatten(directions),
    flat.gradient() @ basis,
    jnp.einsum('nr,bnm,ms->brs', basis, flat.hessian(), basis),
  )


class FlatLoss:
  """Outputs as one row ``[B, n]`` per sample, and the loss' derivatives there.

  Attributes:
    rows: the outputs.
    leaves: the outputs as they came.
  """

  def __init__(self, loss: expansion_lib.Loss, outputs: Any, targets: Any):
    """Checks that the loss gives each sample a value of its own."""
    expansion_lib.sample_losses(loss, outputs, targets)
    expansion_lib.check_own(
      loss,
      jax.tree.map(graph_lib.shape_of, (outputs, targets)),
      jax.tree.leaves(outputs)[0].shape[0],
      'a terminal other than "gradient" takes the second derivative sample by '
      'sample; else use terminal="gradient"',
    )
    self._loss, self._targets = loss, targets
    self.leaves, self._tree = jax.tree.flatten(outputs)
    batch = self.leaves[0].shape[0]
    self._ends = np.cumsum([leaf[0].size for leaf in self.leaves])
    rows = jnp.concatenate(
      [leaf.reshape(batch, -1) for leaf in self.leaves], axis=1
    )
    # Half precision is too coarse for a Hessian, and unknown to LAPACK.
    self.rows = rows.astype(jnp.promote_types(rows.dtype, jnp.float32))

  def unflatten(self, rows: Array, *, cast: bool = True) -> Any:
    """``[..., B, n]`` as outputs with leaves ``[..., B, ...]``.

    ``cast`` gives them the dtypes of the outputs.
    """
    pieces = jnp.split(rows, self._ends[:-1], axis=-1)
    return jax.tree.unflatten(
      self._tree,
      [
        p.reshape(*rows.shape[:-1], *leaf.shape[1:]).astype(
          leaf.dtype if cast else p.dtype
        )
        for p, leaf in zip(pieces, self.leaves, strict=True)
      ],
    )

  def gradient(self) -> Array:
    """``phi_x``, ``[B, n]``."""
    return jax.vmap(jax.grad(self._value))(self.rows, self._targets)

  def hessian(self) -> Array:
    """``phi_xx``, ``[B, n, n]``, its negative part removed.

    Raises:
      LossError: if there are too many outputs per sample.
    """
    size = self.rows.shape[1]
    if size > _MOST_DIRECTIONS:
      raise errors.LossError(
        f"The loss' Hessian was asked for: expected at most "
        f'{_MOST_DIRECTIONS} outputs per sample, got {size}. Use '
        f'terminal="gradient", or sampled(m) with a softmax.'
      )
    phi_xx = jax.vmap(jax.hessian(self._value))(self.rows, self._targets)
    return phi_xx if losses.is_convex(self._loss) else _positive_part(phi_xx)

  def _value(self, row: Array, target: Any) -> Array:
    outputs = self.unflatten(row[None], cast=False)
    return self._loss(outputs, jax.tree.map(lambda t: t[None], target))[0]


def _basis(loss: expansion_lib.Loss, flat: FlatLoss) -> np.ndarray:
  """Orthonormal output directions that the loss can see, ``[n, R]``."""
  n = flat.rows.shape[1]
  single = len(flat.leaves) == 1 and flat.leaves[0].ndim == 2
  if not single or not losses.ignores_shift(loss):
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
