"""A network of two layers, its batch and its plain step, for tests of edges."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gtddp_jax as gt

LOSS = gt.losses.softmax_cross_entropy
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(6, 5)))
Y = jnp.arange(6) % 3
PARAMS: Any = {
  'first': {'w': jnp.asarray(RNG.normal(size=(5, 4)))},
  'last': {'w': jnp.asarray(RNG.normal(size=(4, 3)))},
}


def network(p: Any, x: jax.Array) -> jax.Array:
  return jnp.tanh(x @ p['first']['w']) @ p['last']['w']


def plain(network: Any, params: Any, batch: Any) -> Any:
  loss = lambda p: LOSS(network(p, batch[0]), batch[1]).mean()  # noqa: E731
  return jax.tree.map(jnp.negative, jax.grad(loss)(params))


def close(got: Any, expected: Any) -> None:
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, expected
  )
