"""Per-sample losses ``(outputs, targets) -> (B,)``."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gtddp_jax import errors


def softmax_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Cross-entropy of a softmax, ``-sum_c y_c log p_c``, in nats.

  Args:
    logits: ``[B, ..., C]``; inner axes (tokens, pixels) are summed over.
    targets: integers ``[B, ...]``, or probabilities ``[B, ..., C]``.

  Returns:
    ``[B]``.

  Raises:
    LossError: if the targets have another shape.
  """
  if jnp.issubdtype(targets.dtype, jnp.integer):
    _check('softmax_cross_entropy', logits.shape[:-1], targets)
    values = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
  else:
    _check('softmax_cross_entropy', logits.shape, targets)
    values = optax.softmax_cross_entropy(logits, targets)
  return values.reshape(values.shape[0], -1).sum(axis=1)


def squared_error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
  """Half the squared distance, ``|predictions - targets|^2 / 2``.

  Args:
    predictions: ``[B, ...]``.
    targets: ``[B, ...]``, the same shape.

  Returns:
    ``[B]``.

  Raises:
    LossError: if the targets have another shape.
  """
  _check('squared_error', predictions.shape, targets)
  values = 0.5 * jnp.square(predictions - targets)
  return values.reshape(values.shape[0], -1).sum(axis=1)


def _check(loss: str, shape: tuple[int, ...], targets: jax.Array) -> None:
  if targets.shape != shape:
    raise errors.LossError(
      f'{loss}: expected targets of shape {list(shape)}, got '
      f'{targets.dtype}{list(targets.shape)}. Reshape the targets or the '
      f'outputs (class labels are integers).'
    )


_SOFTMAX = (
  softmax_cross_entropy,
  optax.softmax_cross_entropy,
  optax.softmax_cross_entropy_with_integer_labels,
)


def is_convex(loss: Any) -> bool:
  """Whether the loss is known to be convex in the outputs."""
  return loss in (*_SOFTMAX, squared_error)


def ignores_shift(loss: Any) -> bool:
  """Whether adding a constant to all outputs of a sample changes nothing."""
  return loss in _SOFTMAX
