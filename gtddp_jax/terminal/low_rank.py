"""Terminal value functions of low rank in place of the exact Hessian.

The loss' Hessian is replaced by a few columns, ``sum_j s_j z_j z_j^T``. The
gradient is carried as a direction of its own, without curvature::

    Z = [phi_x, z_1 ... z_m]      d = (1, 0 ... 0)      S = diag(0, s_1 ... s_m)

``truncated`` takes the leading eigenvectors, ``sampled`` draws columns with
``E[z z^T] = phi_xx``, and ``subset`` has the curvature of a part of the batch.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from gtddp_jax import checks, errors, losses
from gtddp_jax.terminal import exact
from gtddp_jax.terminal import expansion as expansion_lib

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Truncated:
  """See ``truncated``."""

  rank: int
  uniform: ClassVar[bool] = True

  def __call__(
    self, loss: expansion_lib.Loss, outputs: Any, targets: Any
  ) -> expansion_lib.Expansion:
    """Expands a loss; see ``TerminalValue``."""
    flat = exact.FlatLoss(loss, outputs, targets)
    values, vectors = jnp.linalg.eigh(flat.hessian())  # ascending
    kept = min(self.rank, values.shape[-1])
    columns = jnp.moveaxis(vectors[..., -kept:], -1, 0)
    return _expansion(flat, columns, jnp.maximum(values[..., -kept:], 0))


@dataclasses.dataclass(frozen=True)
class Sampled:
  """See ``sampled``."""

  count: int
  rng: str = 'terminal'
  uniform: ClassVar[bool] = True

  def __call__(
    self, loss: expansion_lib.Loss, outputs: Any, targets: Any, key: Array
  ) -> expansion_lib.Expansion:
    """Expands a loss; see ``TerminalValue``."""
    flat = exact.FlatLoss(loss, outputs, targets)
    if losses.ignores_shift(loss) and len(flat.leaves) == 1:
      columns = _of_softmax(flat.leaves[0], targets, self.count, key)
    else:
      columns = _of_hessian(flat.hessian(), self.count, key)
    weights = jnp.full((len(flat.rows), self.count), 1 / self.count)
    return _expansion(flat, columns, weights.astype(flat.rows.dtype))


@dataclasses.dataclass(frozen=True)
class Subset:
  """See ``subset``."""

  expand: Any
  samples: int

  @property
  def rng(self) -> str | None:
    """The name of the key that ``expand`` draws with, if it draws."""
    return getattr(self.expand, 'rng', None)

  @property
  def uniform(self) -> bool:
    """Whether ``expand`` has the same ``d`` for all samples."""
    return exact.is_uniform(self.expand)

  def __call__(self, *args: Any) -> expansion_lib.Expansion:
    """Expands a loss; see ``TerminalValue``."""
    expansion: expansion_lib.Expansion = self.expand(*args)
    return expansion


def truncated(rank: int) -> Truncated:
  """The ``rank`` leading eigenvectors of each sample's Hessian.

  Args:
    rank: how many; the exact Gauss-Newton matrix from the number of outputs
      on (for a softmax, that less one).

  Returns:
    A terminal value function with ``rank + 1`` directions.

  Raises:
    OptionError: if the rank is not a positive integer.
  """
  return Truncated(checks.check_positive('truncated: rank', rank))


def sampled(count: int) -> Sampled:
  """Random directions whose mean outer product is each sample's Hessian.

  For a softmax ``z = p - e_y`` with ``y`` drawn from ``p`` (the sampled Fisher
  matrix), for other losses a root of the Hessian times random signs. Only what
  was drawn is damped: in 'coupled' the part of the gradient outside of it moves
  at the base's own rate, so use it at rates where the base is stable.

  Args:
    count: m, how many directions per sample.

  Returns:
    A terminal value function with ``count + 1`` directions; ``update`` then
    needs ``rngs={'terminal': key}``.

  Raises:
    OptionError: if the count is not a positive integer.
  """
  return Sampled(checks.check_positive('sampled: count', count))


def subset(terminal: str | Any, samples: int) -> Subset:
  """Curvature and feedback from the first ``samples`` samples of each batch.

  The gradient is that of the whole batch. Shuffle the data, so that the first
  samples are random ones; from the batch size on this changes nothing.

  Args:
    terminal: 'gradient', 'gauss_newton' or a ``TerminalValue``.
    samples: how many.

  Returns:
    A terminal value function.

  Raises:
    OptionError: for an unknown name or a number below one.
  """
  expand = exact.named(terminal)
  refuse_factory(expand)
  samples = checks.check_positive('subset: samples', samples)
  return Subset(expand, min(samples, getattr(expand, 'samples', samples)))


def refuse_factory(terminal: Any) -> None:
  """Raises ``OptionError`` for ``sampled`` where ``sampled(m)`` was meant."""
  if terminal in (sampled, truncated, subset):
    raise errors.OptionError(
      f'Invalid terminal: got the function {terminal.__name__}, expected what '
      f'it returns; call it, as in sampled(1), truncated(3) or '
      f"subset('gauss_newton', 32).",
      'terminal',
    )


def _expansion(
  flat: exact.FlatLoss, columns: Array, weights: Array
) -> expansion_lib.Expansion:
  """From columns ``z`` ``[m, B, n]`` and weights ``s`` ``[B, m]``."""
  eye = jnp.eye(weights.shape[1], dtype=weights.dtype)
  return expansion_lib.with_leading_gradient(
    flat.unflatten(flat.gradient()),
    flat.unflatten(columns),
    weights[:, :, None] * eye[None],
  )


def _of_softmax(logits: Array, targets: Array, count: int, key: Array) -> Array:
  """``p - e_y`` with ``y ~ p``, flat ``[count, B, n]``.

  Targets that are no class labels weigh it by the root of their sum.
  """
  shape = (count, *logits.shape[:-1])
  labels = jax.random.categorical(key, logits, shape=shape)
  drawn = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
  columns = jax.nn.softmax(logits)[None] - drawn
  if jnp.issubdtype(targets.dtype, jnp.floating):
    total = jnp.sum(targets, axis=-1, keepdims=True)
    root = jnp.sqrt(jnp.maximum(total, 0)).astype(columns.dtype)
    columns *= root[None]
  return columns.reshape(count, logits.shape[0], -1)


def _of_hessian(hessian: Array, count: int, key: Array) -> Array:
  """Roots of the Hessians times random signs, ``[count, B, n]``."""
  root = expansion_lib.square_root(hessian)
  shape = (count, *hessian.shape[:2])
  signs = jax.random.rademacher(key, shape, hessian.dtype)
  return jnp.einsum('bnm,kbm->kbn', root, signs)
