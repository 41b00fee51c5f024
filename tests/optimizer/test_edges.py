"""Edges: numbers that are none, integers, other dtypes, copies, causes."""

from __future__ import annotations

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from two_layers import LOSS, PARAMS, RNG, X, Y, close, network, plain

import gtddp_jax as gt
from gtddp_jax import errors


def test_what_is_no_number_is_not_taken_for_verified() -> None:
  def unit(p: Any, x: jax.Array) -> jax.Array:
    return network(p, x / jnp.linalg.norm(x, axis=1, keepdims=True))

  with pytest.raises(errors.TraceMismatchError, match='no finite number'):
    gt.trace(unit, PARAMS, jnp.zeros((4, 5)))

  calls: list[None] = []

  def impure(p: Any, x: jax.Array) -> jax.Array:
    calls.append(None)  # the graph is made of the first call
    bad = jnp.nan if len(calls) < 2 else 1.0
    return (jnp.tanh(x @ p['first']['w']) * bad) @ p['last']['w']

  with pytest.raises(errors.TraceMismatchError, match='differs by nan'):
    gt.trace(impure, PARAMS, X)


def test_masked_outputs_may_be_infinite() -> None:
  def masked(p: Any, x: jax.Array) -> jax.Array:
    return jnp.where(jnp.arange(3) == 2, -jnp.inf, network(p, x))

  gt.trace(masked, PARAMS, X)


def test_an_integer_output_is_refused_by_name() -> None:
  def labelled(p: Any, x: jax.Array) -> dict[str, jax.Array]:
    o = network(p, x)
    return {'logits': o, 'label': o.argmax(axis=1)}

  graph = gt.trace(labelled, PARAMS, X)
  with pytest.raises(errors.OptionError, match=r"'label' is int.*leaves it"):
    gt.gt_ddp(
      graph, lambda o, y: LOSS(o['logits'], y), gt.sgd(0.1), trust_region=None
    )


@pytest.mark.parametrize('value', ['frozen', 'bellman', 'coupled'])
def test_the_first_equation_may_read_several_owners(value: str) -> None:
  """The stages before the last of them have no state after them."""
  low: Any = {
    **PARAMS,
    'down': {'w': jnp.full((5, 2), 0.1)},
    'up': {'w': jnp.full((2, 4), 0.2)},
  }

  def adapted(p: Any, x: jax.Array) -> jax.Array:
    kernel = p['first']['w'] + p['down']['w'] @ p['up']['w']
    return network({**p, 'first': {'w': kernel}}, x)

  graph = gt.trace(adapted, low, X)
  tx = gt.gt_ddp(graph, LOSS, gt.sgd(1e-6), value=value, trust_region=None)
  updates, _ = tx.update(None, tx.init(low), low, batch=(X, Y))
  scaled = jax.tree.map(lambda u: 1e6 * u, updates)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3),
    scaled,
    plain(adapted, low, (X, Y)),
  )


def test_given_gradients_may_be_wider_than_the_parameters() -> None:
  half = jax.tree.map(lambda v: v.astype(jnp.bfloat16), PARAMS)
  grads = jax.tree.map(lambda v: jnp.ones_like(v, jnp.float32), PARAMS)

  x = X.astype(jnp.bfloat16)
  for base in (gt.sgd(0.1), gt.adam(0.1)):
    tx = gt.gt_ddp(gt.trace(network, half, x), LOSS, base, trust_region=None)
    updates, _ = tx.update(grads, tx.init(half), half, batch=(x, Y))
    assert np.isfinite(optax.tree.norm(updates))


def test_integers_enter_an_analysis() -> None:
  params = {
    'a': jnp.asarray(RNG.normal(size=(3, 3, 1, 2))),
    'b': jnp.asarray(RNG.normal(size=(3, 3, 2, 3))),
    'c': jnp.asarray(RNG.normal(size=(48, 3))),
  }

  def convolved(p: Any, x: jax.Array) -> jax.Array:
    h = x.astype(p['a'].dtype) / 255
    for name in ('a', 'b'):
      h = jax.lax.conv_general_dilated(
        h, p[name], (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
      )
    return h.reshape(len(x), -1) @ p['c']

  images = jnp.asarray(RNG.integers(0, 256, (6, 4, 4, 1)), jnp.uint8)
  graph = gt.trace(convolved, params, images)
  found = gt.analysis.stages(graph, LOSS, params, (images, Y), base=gt.sgd(0.1))
  assert found[1].eigenvectors is not None and found[1].images is None


@pytest.mark.parametrize('base', [gt.adam(0.1), gt.ekfac(0.1)])
def test_a_base_can_be_copied(base: Any) -> None:
  graph = gt.trace(network, PARAMS, X)
  steps = []
  for one in (base, copy.deepcopy(base)):
    tx = gt.gt_ddp(
      graph, LOSS, one, value='bellman', trust_region=np.float32(0.3)
    )
    steps.append(tx.update(None, tx.init(PARAMS), PARAMS, batch=(X, Y))[0])
  close(*steps)


def test_errors_name_the_argument() -> None:
  graph = gt.trace(network, PARAMS, X)
  for options in (
    {'value': 'belman'},
    {'terminal': gt.sampled},
    {'cooperation': 'shur'},
    {'trust_region': True},
  ):
    with pytest.raises(errors.OptionError) as caught:
      gt.gt_ddp(graph, LOSS, gt.sgd(0.1), **options)
    assert caught.value.argument == next(iter(options))
