"""The bound that feedback has unless the user says another."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from two_layers import LOSS, PARAMS, X, Y, network

import gtddp_jax as gt

GRAPH = gt.trace(network, PARAMS, X)


def step(
  value: str, loss: Any = LOSS, rate: float = 0.3, **options: Any
) -> Any:
  tx = gt.gt_ddp(GRAPH, loss, gt.sgd(rate), value=value, **options)
  return jax.jit(lambda p: tx.update(None, tx.init(p), p, batch=(X, Y))[0])(
    PARAMS
  )


@pytest.mark.parametrize(
  'value, bound', [('frozen', 0.3), ('bellman', 0.3), ('coupled', None)]
)
def test_the_default_is_that_of_the_recursion(value: str, bound: Any) -> None:
  found = step(value)
  same = step(value, trust_region=bound)
  jax.tree.map(np.testing.assert_array_equal, found, same)
  other = step(value, trust_region=None if bound else 1e-3)
  apart = optax.tree.norm(optax.tree.sub(found, other))
  assert apart > 1e-3 * optax.tree.norm(found)


def test_another_word_is_refused() -> None:
  with pytest.raises(gt.errors.OptionError, match="'auto'") as caught:
    step('frozen', trust_region='none')
  assert caught.value.argument == 'trust_region'


@pytest.mark.parametrize('value', ['frozen', 'bellman', 'coupled'])
@pytest.mark.parametrize('scale', [1.0, 1e3, 1e6])
def test_no_step_is_far_longer_than_the_base_alone(
  value: str, scale: float
) -> None:
  """A loss may be a sum over many outputs."""

  def scaled(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return scale * LOSS(outputs, targets)

  found = optax.tree.norm(step(value, scaled))
  alone = optax.tree.norm(step(value, scaled, feedback=False))
  assert jnp.isfinite(found) and found < 3 * alone
