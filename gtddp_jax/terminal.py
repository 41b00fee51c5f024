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
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from gtddp_jax import batches, errors, jaxprs, losses
from gtddp_jax import graph as graph_lib

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


class TerminalValue(Protocol):
  """What ``gt_ddp(terminal=...)`` takes: expands a loss at the outputs.

  A function of ``loss``, ``outputs`` (a pytree, leaves ``[B, ...]``) and
  ``targets``. One that has an attribute ``rng`` (a name) is also given the key
  ``update(..., rngs={name: key})``. One that has an attribute ``samples`` is
  asked about the first so many samples of a batch only. One whose ``d`` is the
  same for all samples may say so by an attribute ``uniform``; to others a
  direction is added where samples are coupled, see ``with_gradient``.
  """

  def __call__(self, *args: Any, **kwargs: Any) -> Expansion:
    """Returns the value function at the outputs."""


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
    )
  return known[terminal]


def is_uniform(expand: Any) -> bool:
  """Whether a terminal value function has the same ``d`` for all samples."""
  return expand is gradient or getattr(expand, 'uniform', False)


def check(expansion: Any, outputs: Any) -> Expansion:
  """An expansion as a terminal value function has to return it.

  Raises:
    LossError: if a part of it has another structure or shape.
  """
  if not isinstance(expansion, Expansion):
    raise errors.LossError(
      f'The terminal returned a {type(expansion).__name__}: expected '
      f'Expansion(directions, slope, curvature).'
    )
  leaves, tree = jax.tree.flatten(outputs)
  z: list[Array] = jax.tree.leaves(expansion.directions)
  batch, shape = leaves[0].shape[0], jnp.shape(expansion.slope)
  rank = shape[-1] if shape else 0
  found: list[tuple[str, Any, Any]] = [
    ('slope', shape, (batch, max(rank, 1))),
    ('curvature', jnp.shape(expansion.curvature), (batch, rank, rank)),
    ('directions', jax.tree.structure(expansion.directions), tree),
    *(
      ('directions', jnp.shape(got), (rank, *leaf.shape))
      for got, leaf in zip(z, leaves, strict=False)
    ),
  ]
  for name, got, expected in found:
    if got != expected:
      raise errors.LossError(
        f'The terminal returned {name} of shape {got}: expected {expected}, '
        f'with B = {batch} samples and R directions: slope [B, R], curvature '
        f'[B, R, R], directions like the outputs with R in front.'
      )
  return expansion


def with_gradient(expansion: Expansion) -> Expansion:
  """The same value function with its gradient as a direction of its own.

  Where samples are coupled, a direction of one sample reaches the states of
  others, and directions that are summed over samples can no longer be weighed
  one sample at a time: ``sum_r d_i^r P^{i,r}`` is the gradient only if ``d`` is
  the same for all. So the gradient comes first, with ``d = (1, 0 ... 0)``::

      Z <- [Z d, Z]      S <- diag(0, S)
  """
  z, slope, curvature = expansion

  def gradient(leaf: Array) -> Array:
    weights = slope.T.reshape(*leaf.shape[:2], *(1,) * (leaf.ndim - 2))
    return jnp.sum(weights * leaf, axis=0).astype(leaf.dtype)

  return led_by(jax.tree.map(gradient, z), z, curvature)


def led_by(gradient: Any, directions: Any, curvature: Array) -> Expansion:
  """``Z = [V_x, Z]``, ``d = (1, 0 ... 0)`` and ``S = diag(0, S)``."""
  widened = jnp.pad(curvature, ((0, 0), (1, 0), (1, 0)))
  return Expansion(
    jax.tree.map(
      lambda g, z: jnp.concatenate([g[None], z]), gradient, directions
    ),
    jnp.zeros_like(widened[..., 0]).at[:, 0].set(1),
    widened,
  )


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
  flat = Flat(loss, outputs, targets)
  basis = jnp.asarray(_basis(loss, flat), flat.rows.dtype)  # [n, R]
  directions = jnp.broadcast_to(
    basis.T[:, None, :], (basis.shape[1], *flat.rows.shape)
  )
  return Expansion(
    flat.unflatten(directions),
    flat.gradient() @ basis,
    jnp.einsum('nr,bnm,ms->brs', basis, flat.hessian(), basis),
  )


class Flat:
  """Outputs as one row ``[B, n]`` per sample, and the loss' derivatives there.

  Attributes:
    rows: the outputs.
    leaves: the outputs as they came.
  """

  def __init__(self, loss: Loss, outputs: Any, targets: Any):
    """Checks that the loss gives each sample a value of its own."""
    per_sample(loss, outputs, targets)
    _check_own(loss, outputs, targets)
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


def _check_own(loss: Loss, outputs: Any, targets: Any) -> None:
  """Raises ``LossError`` where a sample's loss is made from several samples.

  Its second derivatives are taken one sample at a time.
  """
  size = jax.tree.leaves(outputs)[0].shape[0]
  given = jax.tree.map(graph_lib.shape_of, (outputs, targets))
  twice = batches.at_twice(lambda pair: jaxprs.capture(loss, *pair), given)
  if twice is None:
    return
  program = jaxprs.capture(loss, *given)
  try:
    mixing = batches.analyse(program, twice, size).mixing
  except errors.BatchAxisError:  # rows apart are no matter of a loss
    return
  if mixing:
    raise errors.LossError(
      'The loss computes a value from several samples (a mean over the batch, '
      'say): expected each of its numbers from one sample alone, as a terminal '
      'other than "gradient" takes its second derivative sample by sample. '
      'Compute weights outside, and hand them in with the targets, or use '
      'terminal="gradient".'
    )


def _basis(loss: Loss, flat: Flat) -> np.ndarray:
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


def square_root(matrices: Array) -> Array:
  """``L`` with ``S = L L^T`` for positive semi-definite ``[B, R, R]``."""
  if matrices.shape[-1] == 1:
    return jnp.sqrt(jnp.maximum(matrices, 0))
  values, vectors = jnp.linalg.eigh(matrices)
  return vectors * jnp.sqrt(jnp.maximum(values, 0))[:, None, :]
