"""Which values carry the batch, and where samples meet."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from two_layers import LOSS, PARAMS, RNG, X, Y, close, network, plain

import gtddp_jax as gt
from gtddp_jax import errors

INNER: Any = {
  **PARAMS,
  'block': {'w': jnp.asarray(RNG.normal(size=(4, 4))), 'scale': jnp.ones(4)},
}


def normalised(p: Any, x: jax.Array) -> jax.Array:
  """A layer and its batch normalisation are one module."""
  h = jnp.tanh(x @ p['first']['w']) @ p['block']['w']
  mean, var = h.mean(0, keepdims=True), h.var(0, keepdims=True)
  h = (h - mean) / jnp.sqrt(var + 1e-5) * p['block']['scale'][None]
  return jnp.tanh(h) @ p['last']['w']


def in_scan(p: Any, x: jax.Array) -> jax.Array:
  """The same, three times, in a loop."""

  def body(h: jax.Array, _: None) -> tuple[jax.Array, None]:
    h = h @ p['block']['w'] * p['block']['scale'][None]
    return jnp.tanh(h - h.mean(0, keepdims=True)), None

  h, _ = jax.lax.scan(body, jnp.tanh(x @ p['first']['w']), length=3)
  return h @ p['last']['w']


def descent(network: Any, params: Any, batch: Any, **options: Any) -> Any:
  """The step of SGD at rate 1 with feedback bounded to next to nothing."""
  graph = gt.trace(network, params, batch[0])
  tx = gt.gt_ddp(graph, LOSS, gt.sgd(1.0), trust_region=1e-9, **options)
  updates, _ = tx.update(None, tx.init(params), params, batch=batch)
  return updates


@pytest.mark.parametrize('network', [normalised, in_scan])
@pytest.mark.parametrize('value', ['bellman', 'coupled'])
def test_samples_that_a_layer_mixes_have_no_gradients_of_their_own(
  network: Any, value: str
) -> None:
  with pytest.raises(errors.OptionError, match=r"'block'.*value=\"frozen\""):
    descent(network, INNER, (X, Y), value=value)
  frozen = descent(network, INNER, (X, Y))
  close(frozen, plain(network, INNER, (X, Y)))


def test_a_normalisation_that_is_a_module_of_its_own_is_taken() -> None:
  owner = lambda path: jax.tree_util.keystr(path)  # noqa: E731
  graph = gt.trace(normalised, INNER, X, owner=owner)
  tx = gt.gt_ddp(graph, LOSS, gt.sgd(1e-6), value='coupled')
  updates, _ = tx.update(None, tx.init(INNER), INNER, batch=(X, Y))
  gradient = plain(normalised, INNER, (X, Y))
  scaled = jax.tree.map(lambda u: 1e6 * u, updates)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), scaled, gradient
  )


def reversed_(p: Any, x: jax.Array) -> jax.Array:
  h = jnp.tanh(x @ p['first']['w'])
  return (0.7 * h + 0.3 * h[::-1]) @ p['last']['w']


def rolled(p: Any, x: jax.Array) -> jax.Array:
  h = jnp.tanh(x @ p['first']['w'])
  return (h + jnp.roll(h, 1, axis=0)) @ p['last']['w']


def summed(p: Any, x: jax.Array) -> jax.Array:
  return jnp.cumsum(jnp.tanh(x @ p['first']['w']), axis=0) @ p['last']['w']


def chosen(p: Any, x: jax.Array) -> jax.Array:
  h = jnp.tanh(x @ p['first']['w'])
  return (h + h[jnp.argsort(h[:, 0])]) @ p['last']['w']


def chained(p: Any, x: jax.Array) -> jax.Array:
  """Sample after sample, with a state."""

  def body(last: jax.Array, h: jax.Array) -> tuple[jax.Array, jax.Array]:
    return h, h + 0.5 * last

  h = jnp.tanh(x @ p['first']['w'])
  return jax.lax.scan(body, jnp.zeros(4), h)[1] @ p['last']['w']


@pytest.mark.parametrize(
  'network', [reversed_, rolled, summed, chosen, chained]
)
def test_samples_that_change_places_are_coupled(network: Any) -> None:
  assert gt.trace(network, PARAMS, X).mixed
  got = descent(network, PARAMS, (X, Y), terminal='gauss_newton')
  close(got, plain(network, PARAMS, (X, Y)))


def test_axes_within_a_sample_couple_nothing() -> None:
  def network(p: Any, x: jax.Array) -> jax.Array:
    h = jnp.tanh(x @ p['first']['w'])
    h = jnp.cumsum(jnp.sort(h[:, ::-1], axis=1), axis=1)
    return jnp.concatenate([h[:, 2:], h[:, :2]], axis=1) @ p['last']['w']

  assert not gt.trace(network, PARAMS, X).mixed


def two(p: Any, pair: Any, join: Any, part: Any) -> jax.Array:
  """One encoder for two views of a sample."""
  left, right = part(jnp.tanh(join(pair) @ p['first']['w']))
  return (left * right) @ p['last']['w']


def apart(p: Any, pair: Any) -> jax.Array:
  return two(p, pair, jnp.concatenate, lambda h: jnp.split(h, 2))


def together(p: Any, pair: Any) -> jax.Array:
  return two(
    p,
    pair,
    lambda pair: jnp.stack(pair, axis=1).reshape(-1, 5),
    lambda h: [h.reshape(-1, 2, 4)[:, i] for i in range(2)],
  )


def by_time(p: Any, pair: Any) -> jax.Array:
  return two(
    p,
    pair,
    lambda pair: jnp.stack(pair).reshape(-1, 5),
    lambda h: h.reshape(2, -1, 4),
  )


@pytest.mark.parametrize('network', [apart, by_time])
def test_rows_of_a_sample_that_are_apart_are_taken(network: Any) -> None:
  batch = (X, X + 1), Y
  assert not gt.trace(network, PARAMS, batch[0]).mixed
  for value in 'frozen', 'bellman', 'coupled':
    steps = [
      gt.gt_ddp(
        gt.trace(f, PARAMS, batch[0]),
        LOSS,
        gt.sgd(0.3),
        value=value,
        trust_region=None,
      )
      for f in (network, together)
    ]
    first, second = (
      tx.update(None, tx.init(PARAMS), PARAMS, batch=batch)[0] for tx in steps
    )
    close(first, second)


def test_rows_of_a_sample_that_are_together_are_taken() -> None:
  batch = (X, X + 1), Y
  assert not gt.trace(together, PARAMS, batch[0]).mixed
  got = descent(together, PARAMS, batch, terminal='gauss_newton')
  close(got, plain(together, PARAMS, batch))


@pytest.mark.parametrize('error', [AssertionError, RuntimeError])
def test_a_network_for_one_batch_size_may_refuse_another(error: Any) -> None:
  def exact(p: Any, x: jax.Array) -> jax.Array:
    if len(x) != 6:
      raise error
    return network(p, x)

  close(descent(exact, PARAMS, (X, Y)), plain(exact, PARAMS, (X, Y)))


def halves(p: Any, pair: Any) -> jax.Array:
  """Joined together, parted as if they had been apart."""
  return two(
    p,
    pair,
    lambda pair: jnp.stack(pair, axis=1).reshape(-1, 5),
    lambda h: (h[: len(h) // 2], h[len(h) // 2 :]),
  )


def thirds(p: Any, pair: Any) -> jax.Array:
  return two(
    p,
    pair,
    lambda pair: jnp.stack(pair, axis=1).reshape(-1, 5),
    lambda h: jnp.split(h, 2),
  )


@pytest.mark.parametrize('network', [halves, thirds])
def test_parts_that_are_not_of_one_sample_are_coupled(network: Any) -> None:
  batch = (X, X + 1), Y
  assert gt.trace(network, PARAMS, batch[0]).mixed
  got = descent(network, PARAMS, batch, terminal='gauss_newton')
  close(got, plain(network, PARAMS, batch))


def test_outputs_are_as_many_as_inputs() -> None:
  def paired(p: Any, x: jax.Array) -> jax.Array:
    h = jnp.tanh(x @ p['first']['w'])
    return (h[::2] * h[1::2]) @ p['last']['w']

  with pytest.raises(errors.BatchAxisError, match=r'\[3, 3\].*batch, 6'):
    gt.trace(paired, PARAMS, X)


def contrastive(o: jax.Array, y: jax.Array) -> jax.Array:
  return LOSS(o @ o.T, jnp.arange(len(o))) + 0 * y


def weighted(o: jax.Array, y: jax.Array) -> jax.Array:
  weights = 1.0 + y
  return LOSS(o, y) * weights / weights.mean()


@pytest.mark.parametrize('loss', [contrastive, weighted])
def test_a_loss_that_couples_samples(loss: Any) -> None:
  """It has a gradient, but no second derivative of one sample's own."""
  graph = gt.trace(network, PARAMS, X)

  def step(terminal: str) -> Any:
    tx = gt.gt_ddp(graph, loss, gt.sgd(1.0), terminal, trust_region=1e-9)
    return tx.update(None, tx.init(PARAMS), PARAMS, batch=(X, Y))[0]

  with pytest.raises(errors.LossError, match='several samples'):
    step('gauss_newton')
  expected = jax.grad(lambda p: loss(network(p, X), Y).mean())(PARAMS)
  close(step('gradient'), jax.tree.map(jnp.negative, expected))
