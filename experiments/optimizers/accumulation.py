"""Gradient accumulation: one update from the gradients of several batches.

``optax.MultiSteps`` averages gradients and passes them to ``gt_ddp`` as the
open-loop gradients of all batches; feedback, which belongs to samples, is that
of the last batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import gtddp_jax as gt

Loss = Callable[[jax.Array, jax.Array], jax.Array]


class AccumulatedState(NamedTuple):
  """State of ``accumulated``."""

  steps: optax.MultiStepsState  # that of ``optax.MultiSteps``.
  loss: jax.Array  # mean over the last batch, float32


def accumulated(
  tx: optax.GradientTransformationExtraArgs,
  graph: gt.LayerGraph,
  loss: Loss,
  batches: int,
) -> optax.GradientTransformationExtraArgs:
  """Returns an optimizer that changes parameters every so many batches.

  Args:
    tx: of ``gt.gt_ddp``; what is returned is used as it is, once per batch.
    graph: the traced network.
    loss: ``(outputs, targets) -> [B]``.
    batches: how many make one update.
  """
  steps = optax.MultiSteps(tx, batches)

  def init(params: Any) -> AccumulatedState:
    return AccumulatedState(steps.init(params), jnp.float32(0))

  def update(
    updates: Any,
    state: AccumulatedState,
    params: Any = None,
    *,
    batch: tuple[Any, Any],
    **extra_args: Any,
  ) -> tuple[Any, AccumulatedState]:
    del updates  # None, as everywhere here

    def mean_loss(params: Any) -> jax.Array:
      return loss(graph(params, batch[0]), batch[1]).mean()

    value, gradients = jax.value_and_grad(mean_loss)(params)
    found, inner = steps.update(
      gradients, state.steps, params, batch=batch, **extra_args
    )
    # The sum starts anew: times zero, as there, what is not finite would stay.
    begun = inner.mini_step == 0
    sums = jax.tree.map(
      lambda g: jnp.where(begun, jnp.zeros_like(g), g), inner.acc_grads
    )
    return found, AccumulatedState(
      inner._replace(acc_grads=sums), value.astype(jnp.float32)
    )

  return optax.GradientTransformationExtraArgs(init, update)


def metrics(state: Any) -> dict[str, jax.Array]:
  """Returns ``gt.metrics``, with the loss of the last batch.

  ``updated`` says whether the parameters were updated with it, so that the
  others, but for the loss, are of this batch.
  """
  found = gt.metrics(state)
  found['updated'] = jnp.bool(True)
  if isinstance(state, AccumulatedState):
    found['loss'] = state.loss
    found['updated'] = state.steps.mini_step == 0
  return found
