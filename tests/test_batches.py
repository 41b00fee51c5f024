"""Which values carry the batch, and where samples meet."""

from __future__ import annotations

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from gtddp_jax import errors

LOSS = gt.losses.softmax_cross_entropy
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(6, 5)))
Y = jnp.arange(6) % 3
PARAMS: Any = {
  'first': {'w': jnp.asarray(RNG.normal(size=(5, 4)))},
  'block': {'w': jnp.asarray(RNG.normal(size=(4, 4))), 'scale': jnp.ones(4)},
  'last': {'w': jnp.asarray(RNG.normal(size=(4, 3)))},
}
OUTER = {name: PARAMS[name] for name in ('first', 'last')}


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


def plain(network: Any, params: Any, batch: Any) -> Any:
  loss = lambda p: LOSS(network(p, batch[0]), batch[1]).mean()  # noqa: E731
  return jax.tree.map(jnp.negative, jax.grad(loss)(params))


def close(got: Any, expected: Any) -> None:
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, expected
  )


@pytest.mark.parametrize('network', [normalised, in_scan])
@pytest.mark.parametrize('value', ['bellman', 'coupled'])
def test_samples_that_a_layer_mixes_have_no_gradients_of_their_own(
  network: Any, value: str
) -> None:
  with pytest.raises(errors.OptionError, match=r"'block'.*value=\"frozen\""):
    descent(network, PARAMS, (X, Y), value=value)
  frozen = descent(network, PARAMS, (X, Y))
  close(frozen, plain(network, PARAMS, (X, Y)))


def test_a_normalisation_that_is_a_module_of_its_own_is_taken() -> None:
  owner = lambda path: jax.tree_util.keystr(path)  # noqa: E731
  graph = gt.trace(normalised, PARAMS, X, owner=owner)
  tx = gt.gt_ddp(graph, LOSS, gt.sgd(1e-6), value='coupled')
  updates, _ = tx.update(None, tx.init(PARAMS), PARAMS, batch=(X, Y))
  gradient = plain(normalised, PARAMS, (X, Y))
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
  assert gt.trace(network, OUTER, X).mixed
  got = descent(network, OUTER, (X, Y), terminal='gauss_newton')
  close(got, plain(network, OUTER, (X, Y)))


def test_axes_within_a_sample_couple_nothing() -> None:
  def network(p: Any, x: jax.Array) -> jax.Array:
    h = jnp.tanh(x @ p['first']['w'])
    h = jnp.cumsum(jnp.sort(h[:, ::-1], axis=1), axis=1)
    return jnp.concatenate([h[:, 2:], h[:, :2]], axis=1) @ p['last']['w']

  assert not gt.trace(network, OUTER, X).mixed


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
def test_rows_of_a_sample_that_are_apart_are_refused(network: Any) -> None:
  with pytest.raises(
    errors.BatchAxisError, match=r'\[12, 5\].*6 samples.*2 ro'
  ):
    gt.trace(network, OUTER, (X, X + 1))


def test_rows_of_a_sample_that_are_together_are_taken() -> None:
  batch = (X, X + 1), Y
  assert not gt.trace(together, OUTER, batch[0]).mixed
  got = descent(together, OUTER, batch, terminal='gauss_newton')
  close(got, plain(together, OUTER, batch))


@pytest.mark.parametrize('error', [AssertionError, RuntimeError])
def test_a_network_for_one_batch_size_may_refuse_another(error: Any) -> None:
  def network(p: Any, x: jax.Array) -> jax.Array:
    if len(x) != 6:
      raise error
    return jnp.tanh(x @ p['first']['w']) @ p['last']['w']

  close(descent(network, OUTER, (X, Y)), plain(network, OUTER, (X, Y)))


def test_what_is_no_number_is_not_taken_for_verified() -> None:
  def unit(p: Any, x: jax.Array) -> jax.Array:
    x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    return jnp.tanh(x @ p['first']['w']) @ p['last']['w']

  with pytest.raises(errors.TraceMismatchError, match='no finite number'):
    gt.trace(unit, OUTER, jnp.zeros((4, 5)))

  calls: list[None] = []

  def impure(p: Any, x: jax.Array) -> jax.Array:
    calls.append(None)  # the graph is made of the first calls
    bad = jnp.nan if len(calls) < 3 else 1.0
    return (jnp.tanh(x @ p['first']['w']) * bad) @ p['last']['w']

  with pytest.raises(errors.TraceMismatchError, match='differs by nan'):
    gt.trace(impure, OUTER, X)


def test_masked_outputs_may_be_infinite() -> None:
  def masked(p: Any, x: jax.Array) -> jax.Array:
    o = jnp.tanh(x @ p['first']['w']) @ p['last']['w']
    return jnp.where(jnp.arange(3) == 2, -jnp.inf, o)

  gt.trace(masked, OUTER, X)


def test_an_integer_output_is_refused_by_name() -> None:
  def network(p: Any, x: jax.Array) -> dict[str, jax.Array]:
    o = jnp.tanh(x @ p['first']['w']) @ p['last']['w']
    return {'logits': o, 'label': o.argmax(axis=1)}

  graph = gt.trace(network, OUTER, X)
  with pytest.raises(errors.OptionError, match=r"'label' is int.*leaves it"):
    gt.gt_ddp(graph, lambda o, y: LOSS(o['logits'], y), gt.sgd(0.1))


def test_a_collection_may_read_a_control_that_nothing_else_reads() -> None:
  def network(v: Any, x: jax.Array, mutable: Any = False) -> Any:
    del mutable
    h = jnp.tanh(x @ v['first']['w']) @ v['last']['w']
    mean = 0.9 * v['mean']['w'] + 0.1 * v['first']['w']
    return h, {'mean': {'w': mean + 0 * h.sum()}}

  start = {'mean': {'w': jnp.zeros((5, 4))}}
  graph = gt.trace(network, OUTER, X, collections=start, mutable=['mean'])
  tx = gt.gt_ddp(graph, LOSS, gt.sgd(0.1))
  _, state = tx.update(None, tx.init(OUTER), OUTER, batch=(X, Y))
  found = gt.collections(state)['mean']['w']
  np.testing.assert_allclose(found, 0.1 * OUTER['first']['w'], rtol=1e-6)


def test_a_changed_collection_is_like_the_one_given() -> None:
  def network(v: Any, x: jax.Array, mutable: Any = False) -> Any:
    del mutable
    h = jnp.tanh(x @ v['first']['w']) @ v['last']['w']
    return h, {'mean': {'w': h.mean(0), 'more': h.mean(0)}}

  with pytest.raises(errors.ParameterTreeError, match=r"'mean'.*'more'"):
    gt.trace(
      network, OUTER, X, collections={'mean': {'w': X[0, :3]}}, mutable=['mean']
    )


def test_a_state_may_be_donated_and_the_graph_used_again() -> None:
  def network(v: Any, x: jax.Array, mutable: Any = False) -> Any:
    del mutable
    h = jnp.tanh(x @ v['first']['w']) @ v['last']['w']
    return h, {'mean': {'w': v['mean']['w'] + h.mean(0)}}

  start = {'mean': {'w': jnp.zeros(3)}}
  graph = gt.trace(network, OUTER, X, collections=start, mutable=['mean'])
  tx = gt.gt_ddp(graph, LOSS, gt.sgd(0.1))
  step = jax.jit(
    lambda s: tx.update(None, s, OUTER, batch=(X, Y)), donate_argnums=0
  )
  step(tx.init(OUTER))
  step(tx.init(OUTER))
  assert graph(OUTER, X).shape == (6, 3)


@pytest.mark.parametrize('value', ['frozen', 'bellman', 'coupled'])
def test_the_first_equation_may_read_several_owners(value: str) -> None:
  """The stages before the last of them have no state after them."""
  low: Any = {
    **OUTER,
    'down': {'w': jnp.full((5, 2), 0.1)},
    'up': {'w': jnp.full((2, 4), 0.2)},
  }

  def network(p: Any, x: jax.Array) -> jax.Array:
    kernel = p['first']['w'] + p['down']['w'] @ p['up']['w']
    return jnp.tanh(x @ kernel) @ p['last']['w']

  graph = gt.trace(network, low, X)
  tx = gt.gt_ddp(graph, LOSS, gt.sgd(1e-6), value=value)
  updates, _ = tx.update(None, tx.init(low), low, batch=(X, Y))
  scaled = jax.tree.map(lambda u: 1e6 * u, updates)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3),
    scaled,
    plain(network, low, (X, Y)),
  )


def test_given_gradients_may_be_wider_than_the_parameters() -> None:
  half = jax.tree.map(lambda v: v.astype(jnp.bfloat16), OUTER)
  grads = jax.tree.map(lambda v: jnp.ones_like(v, jnp.float32), OUTER)

  def network(p: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ p['first']['w']) @ p['last']['w']

  x = X.astype(jnp.bfloat16)
  for base in (gt.sgd(0.1), gt.adam(0.1)):
    tx = gt.gt_ddp(gt.trace(network, half, x), LOSS, base)
    updates, _ = tx.update(grads, tx.init(half), half, batch=(x, Y))
    assert np.isfinite(optax.tree.norm(updates))


def test_integers_enter_an_analysis() -> None:
  params = {
    'a': jnp.asarray(RNG.normal(size=(3, 3, 1, 2))),
    'b': jnp.asarray(RNG.normal(size=(3, 3, 2, 3))),
    'c': jnp.asarray(RNG.normal(size=(48, 3))),
  }

  def network(p: Any, x: jax.Array) -> jax.Array:
    h = x.astype(p['a'].dtype) / 255
    for name in ('a', 'b'):
      h = jax.lax.conv_general_dilated(
        h, p[name], (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
      )
    return h.reshape(len(x), -1) @ p['c']

  images = jnp.asarray(RNG.integers(0, 256, (6, 4, 4, 1)), jnp.uint8)
  graph = gt.trace(network, params, images)
  found = gt.analysis.stages(graph, LOSS, params, (images, Y), base=gt.sgd(0.1))
  assert found[1].eigenvectors is not None and found[1].images is None


@pytest.mark.parametrize('base', [gt.adam(0.1), gt.ekfac(0.1)])
def test_a_base_can_be_copied(base: Any) -> None:
  graph = gt.trace(together, OUTER, (X, X + 1))
  steps = []
  for one in (base, copy.deepcopy(base)):
    tx = gt.gt_ddp(
      graph, LOSS, one, value='bellman', trust_region=np.float32(0.3)
    )
    batch = (X, X + 1), Y
    steps.append(tx.update(None, tx.init(OUTER), OUTER, batch=batch)[0])
  close(*steps)


def test_errors_name_the_argument() -> None:
  graph = gt.trace(reversed_, OUTER, X)
  for options in (
    {'value': 'belman'},
    {'terminal': gt.sampled},
    {'cooperation': 'shur'},
    {'trust_region': True},
  ):
    with pytest.raises(errors.OptionError) as caught:
      gt.gt_ddp(graph, LOSS, gt.sgd(0.1), **options)
    assert caught.value.argument == next(iter(options))


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
  assert gt.trace(network, OUTER, batch[0]).mixed
  got = descent(network, OUTER, batch, terminal='gauss_newton')
  close(got, plain(network, OUTER, batch))


def test_outputs_are_as_many_as_inputs() -> None:
  def network(p: Any, x: jax.Array) -> jax.Array:
    h = jnp.tanh(x @ p['first']['w'])
    return (h[::2] * h[1::2]) @ p['last']['w']

  with pytest.raises(errors.BatchAxisError, match=r'\[3, 3\].*batch, 6'):
    gt.trace(network, OUTER, X)


def contrastive(o: jax.Array, y: jax.Array) -> jax.Array:
  return LOSS(o @ o.T, jnp.arange(len(o))) + 0 * y


def weighted(o: jax.Array, y: jax.Array) -> jax.Array:
  weights = 1.0 + y
  return LOSS(o, y) * weights / weights.mean()


@pytest.mark.parametrize('loss', [contrastive, weighted])
def test_a_loss_that_couples_samples(loss: Any) -> None:
  """It has a gradient, but no second derivative of one sample's own."""

  def network(p: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ p['first']['w']) @ p['last']['w']

  graph = gt.trace(network, OUTER, X)

  def step(terminal: str) -> Any:
    tx = gt.gt_ddp(graph, loss, gt.sgd(1.0), terminal, trust_region=1e-9)
    return tx.update(None, tx.init(OUTER), OUTER, batch=(X, Y))[0]

  with pytest.raises(errors.LossError, match='several samples'):
    step('gauss_newton')
  expected = jax.grad(lambda p: loss(network(p, X), Y).mean())(OUTER)
  close(step('gradient'), jax.tree.map(jnp.negative, expected))
