"""The loss expanded in a few output directions, ``(Z, d, S)``.

At the outputs ``c_T`` of sample ``i`` the value function is, with directions
``Z`` (one column per direction, R of them)::

    V_x = Z d        V_xx = Z S Z^T        d in R^R,  S in R^(R x R)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from gtddp_jax import errors
from gtddp_jax import graph as graph_lib

Array = jax.Array

Loss = Callable[[Any, Any], Array]


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
  ``targets``. Three attributes are optional:

  - ``rng``: a name; the function is also given the key of
    ``update(..., rngs={name: key})``.
  - ``samples``: a number n; the function is given the first n samples of a
    batch only.
  - ``uniform``: True if ``d`` is the same for all samples. Where samples are
    coupled, all others get a direction more, see ``with_gradient``.
  """

  def __call__(self, *args: Any, **kwargs: Any) -> Expansion:
    """Returns the value function at the outputs."""


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

  return with_leading_gradient(jax.tree.map(gradient, z), z, curvature)


def with_leading_gradient(
  gradient: Any, directions: Any, curvature: Array
) -> Expansion:
  """``Z = [V_x, Z]``, ``d = (1, 0 ... 0)`` and ``S = diag(0, S)``."""
  widened = jnp.pad(curvature, ((0, 0), (1, 0), (1, 0)))
  return Expansion(
    jax.tree.map(
      lambda g, z: jnp.concatenate([g[None], z]), gradient, directions
    ),
    jnp.zeros_like(widened[..., 0]).at[:, 0].set(1),
    widened,
  )


def sample_losses(loss: Loss, outputs: Any, targets: Any) -> Array:
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


def of_pairs(loss: Loss, outputs: Any) -> Loss:
  """A loss as a function of real numbers, pairs of them where it is complex.

  Args:
    loss: of the outputs as the network returns them.
    outputs: their shapes.

  Returns:
    The loss itself if no output is complex.
  """
  if not any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(outputs)):
    return loss

  def on_pairs(pairs: Any, targets: Any) -> Array:
    complete = jax.tree.map(
      lambda x, s: graph_lib.as_dtype(x, s.dtype), pairs, outputs
    )
    return loss(complete, targets)

  return on_pairs


def square_root(matrices: Array) -> Array:
  """``L`` with ``S = L L^T`` for positive semi-definite ``[B, R, R]``."""
  if matrices.shape[-1] == 1:
    return jnp.sqrt(jnp.maximum(matrices, 0))
  values, vectors = jnp.linalg.eigh(matrices)
  return vectors * jnp.sqrt(jnp.maximum(values, 0))[:, None, :]
