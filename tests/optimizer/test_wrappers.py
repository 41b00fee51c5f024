"""Wrappers around `gt_ddp` and bases of others: each works, or says why not."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct

import gtddp_jax as gt
from gtddp_jax import errors

RNG = np.random.default_rng(0)
LOSS = gt.losses.softmax_cross_entropy
X = jnp.asarray(RNG.normal(size=(6, 3)))
Y = jnp.arange(6) % 2
PARAMS: Any = {
  'a': {'w': jnp.asarray(RNG.normal(size=(3, 4)))},
  'b': {'w': jnp.asarray(RNG.normal(size=(4, 2)))},
}


def network(params: Any, x: jax.Array) -> jax.Array:
  return jnp.tanh(x @ params['a']['w']) @ params['b']['w']


def mean_loss(params: Any) -> jax.Array:
  return LOSS(network(params, X), Y).mean()


GRAPH = gt.trace(network, PARAMS, X)
GRADS = jax.grad(mean_loss)(PARAMS)


def made(base: Any, **options: Any) -> Any:
  return gt.gt_ddp(GRAPH, LOSS, base, **{'trust_region': None} | options)


def step(tx: Any, grads: Any = None, params: Any = PARAMS, **more: Any) -> Any:
  return tx.update(grads, tx.init(params), params, batch=(X, Y), **more)[0]


def refused(error: Any, *parts: str) -> Any:
  return pytest.raises(error, match='.*'.join(parts))


def test_steps_are_accumulated_from_passed_gradients() -> None:
  tx = optax.MultiSteps(made(gt.sgd(0.1)), 2)
  state = tx.init(PARAMS)
  for _ in range(2):
    updates, state = tx.update(GRADS, state, PARAMS, batch=(X, Y))
  assert optax.tree.norm(updates) > 0


@pytest.mark.parametrize('grads', [None, GRADS])
@pytest.mark.parametrize(
  'freeze',
  [
    lambda tx: optax.masked(tx, {'a': True, 'b': False}),
    lambda tx: optax.masked(tx, {'a': {'w': True}, 'b': {'w': False}}),
    lambda tx: optax.multi_transform(
      {'train': tx, 'freeze': optax.set_to_zero()},
      {'a': 'train', 'b': 'freeze'},
    ),
  ],
)
def test_a_wrapper_that_hides_parameters_is_refused(
  freeze: Any, grads: Any
) -> None:
  with refused(
    errors.ParameterTreeError, "'b", 'MaskedNode', 'needs all', 'set_to_zero'
  ):
    step(freeze(made(gt.sgd(0.1))), grads)


def test_a_base_that_freezes_does_what_the_message_says() -> None:
  frozen = optax.masked(optax.set_to_zero(), {'a': False, 'b': True})
  updates = step(made(optax.chain(gt.sgd(0.1), frozen)))
  assert updates['a']['w'].any() and not updates['b']['w'].any()


def test_hyperparameters_are_injected_around_gt_ddp() -> None:
  with refused(errors.OptionError, 'explicit Q_uu', 'inject_hyperparams'):
    made(optax.inject_hyperparams(gt.adam)(1e-3), value='bellman')
  injected = optax.inject_hyperparams(
    lambda lr: made(gt.adam(lr), value='bellman')
  )(lr=1e-3)
  expected = step(made(gt.adam(1e-3), value='bellman'))
  for got, wanted in zip(
    jax.tree.leaves(step(injected)), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(got, wanted, rtol=1e-9)


@pytest.mark.parametrize('feedback', [True, False])
def test_a_line_search_says_what_it_lacks(feedback: bool) -> None:
  tx = made(optax.lbfgs(), feedback=feedback)
  with refused(errors.OptionError, 'value_fn', r'got \[\]', 'linesearch=None'):
    step(tx)
  updates = step(tx, value=mean_loss(PARAMS), grad=GRADS, value_fn=mean_loss)
  assert mean_loss(optax.apply_updates(PARAMS, updates)) < mean_loss(PARAMS)
  assert optax.tree.norm(step(made(optax.lbfgs(0.1, linesearch=None)))) > 0


@pytest.mark.parametrize('feedback', [True, False])
@pytest.mark.parametrize('width', [3, 4])
def test_a_base_of_per_sample_gradients_is_refused(
  width: int, feedback: bool
) -> None:
  private = optax.contrib.differentially_private_aggregate(
    1.0, 1.0, key=jax.random.key(0)
  )
  params = {'a': {'w': jnp.ones((3, width))}, 'b': {'w': jnp.ones((width, 2))}}
  tx = gt.gt_ddp(
    gt.trace(network, params, X),
    LOSS,
    private,
    feedback=feedback,
    trust_region=None,
  )
  with refused(errors.OptionError, 'private', 'mean gradient'):
    step(tx, params=params)


@struct.dataclass
class Module:
  """As those of Equinox: what is no array is a leaf too."""

  w: Any
  activation: Any

  def __call__(self, x: jax.Array) -> jax.Array:
    out: jax.Array = (self.activation or jnp.tanh)(x @ self.w)
    return out


def test_leaves_that_are_no_arrays_are_refused_by_path() -> None:
  whole = Module(jnp.ones((3, 2)), jnp.tanh)
  with refused(errors.ParameterTreeError, "'activation'", 'array', 'partition'):
    gt.trace(lambda m, x: m(x), whole, X)
  arrays = Module(whole.w, None)
  tx = gt.gt_ddp(
    gt.trace(lambda m, x: m(x), arrays, X),
    LOSS,
    gt.adam(0.1),
    trust_region=None,
  )
  assert step(tx, params=arrays).w.shape == (3, 2)
  with refused(errors.ParameterTreeError, "'activation': expected None"):
    step(tx, params=whole)


@pytest.mark.parametrize(
  ('attempt', 'meant'),
  [
    (lambda: made(gt.sgd(0.1), value='belman'), 'bellman'),
    (lambda: made(gt.sgd(0.1), terminal='gaussnewton'), 'gauss_newton'),
    (lambda: made(gt.kfac(0.1), cooperation='kroneker'), 'kronecker'),
    (lambda: GRAPH.in_order('merged'), 'merge'),
    (lambda: gt.trace(network, PARAMS, X, verfy=False), 'verify'),
    (lambda: gt.trace(network, PARAMS, X, mutables=[]), 'mutable'),
    (
      lambda: made(gt.sgd(0.1)).update(
        None, made(gt.sgd(0.1)).init(PARAMS), PARAMS, batches=(X, Y)
      ),
      'batch',
    ),
    (
      lambda: step(
        made(gt.sgd(0.1), terminal=gt.sampled(1)),
        rngs={'terminals': jax.random.key(0)},
      ),
      'terminals',
    ),
    (lambda: GRAPH({'a': {'W': X}, 'b': PARAMS['b']}, X), 'a/W'),
  ],
)
def test_a_near_name_is_suggested(attempt: Any, meant: str) -> None:
  with refused(errors.GtddpError, f"Did you mean '?{meant}"):
    attempt()


def test_a_graph_is_hashed_by_identity() -> None:
  np.testing.assert_allclose(
    jax.jit(GRAPH)(PARAMS, X), network(PARAMS, X), rtol=1e-12
  )

  def run(graph: Any, params: Any) -> Any:
    return graph(params, X)

  static = jax.jit(run, static_argnums=0)
  np.testing.assert_allclose(static(GRAPH, PARAMS), network(PARAMS, X))
  bound = jax.jit(lambda f, p: f(p, X).outputs, static_argnums=0)
  np.testing.assert_allclose(bound(GRAPH.run, PARAMS), network(PARAMS, X))
  assert gt.trace(network, PARAMS, X) != GRAPH
