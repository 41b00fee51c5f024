"""Outputs that are the same for all samples, and parameters without influence.

What is written in two ways must give one step: an output that the network
returns once, and the same as a row of each sample.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from gtddp_jax import augmented

pytestmark = pytest.mark.once

RNG = np.random.default_rng(0)
VALUES = ('frozen', 'bellman', 'coupled')
TERMINALS = ('gradient', 'gauss_newton')


def matrix(*shape: int) -> jax.Array:
  return jnp.asarray(0.4 * RNG.normal(size=shape))


PARAMS = {'a': matrix(3, 4), 'log_std': matrix(2), 'mean': matrix(4, 2)}
X, Y = matrix(5, 3), matrix(5)


def hidden(p: Any, x: jax.Array) -> jax.Array:
  return jnp.tanh(x @ p['a'])


def nll(o: Any, y: jax.Array) -> jax.Array:
  """Of a Gaussian whose log_std may be one for all samples."""
  log_std = o[1].reshape(-1, 2)
  z = (y[:, None] - o[0]) / jnp.exp(log_std)
  return (z**2 / 2 + log_std).sum(-1)


def penalised(o: Any, y: jax.Array) -> jax.Array:
  """`o[1]` is a number, or one for each sample."""
  return (o[0] ** 2).sum(-1) * jnp.cosh(0.3 * o[1]) + o[1] + 0 * y


def rows(value: jax.Array, x: jax.Array) -> jax.Array:
  """A row for each sample, made of its inputs too."""
  return value[None] + 0 * x[:, :1] if value.ndim else value + 0 * x[:, 0]


def gaussian(p: Any, x: jax.Array) -> Any:
  return hidden(p, x) @ p['mean'], p['log_std']


def scaled(p: Any, x: jax.Array) -> Any:
  return hidden(p, x) @ p['mean'], 2 * jnp.tanh(p['log_std'])


def decayed(p: Any, x: jax.Array) -> Any:
  out = hidden(p, x) @ p['mean'] * jnp.exp(p['log_std'])[None]
  return out, jnp.sum(p['a'] ** 2) + jnp.sum(p['log_std'])


def fixed(p: Any, x: jax.Array) -> Any:
  return hidden(p, x) @ p['mean'] * jnp.exp(p['log_std'])[None], 0.5


COMMON = {
  'parameter': (gaussian, nll),
  'function': (scaled, nll),
  'penalty': (decayed, penalised),
  'constant': (fixed, penalised),
}


def step(
  f: Any, loss: Any, base: Any = None, params: Any = None, **options: Any
) -> Any:
  params = PARAMS if params is None else params
  base = gt.sgd(0.1) if base is None else base
  options = {'trust_region': None} | options
  tx = gt.gt_ddp(gt.trace(f, params, X), loss, base, **options)
  update = jax.jit(lambda p, s: tx.update(None, s, p, batch=(X, Y)))
  steps, state = update(params, tx.init(params))
  return jax.tree.map(jnp.add, steps, update(params, state)[0])


def apart(a: Any, b: Any) -> float:
  difference = jax.tree.map(jnp.subtract, a, b)
  return float(optax.tree.norm(difference) / optax.tree.norm(b))


@pytest.mark.parametrize('terminal', TERMINALS)
@pytest.mark.parametrize('value', VALUES)
@pytest.mark.parametrize('name', COMMON)
def test_what_is_returned_once_steps_as_a_row_of_each_sample(
  name: str, value: str, terminal: str
) -> None:
  f, loss = COMMON[name]

  def each(p: Any, x: jax.Array) -> Any:
    out, once = f(p, x)
    return out, rows(jnp.asarray(once), x)

  options = {'value': value, 'terminal': terminal}
  assert apart(step(f, loss, **options), step(each, loss, **options)) < 1e-9


def test_a_parameter_that_is_an_output_is_a_control() -> None:
  graph = gt.trace(gaussian, PARAMS, X)
  assert [stage.name for stage in graph.stages] == ['a', 'mean', 'log_std']
  assert 'the same for all samples: 1' in graph.summary()
  mean, log_std = graph(PARAMS, X)
  assert mean.shape == (5, 2) and log_std.shape == (2,)
  assert graph(PARAMS, X[:2])[1].shape == (2,)  # as many as samples
  assert gt.verify_step(
    gt.gt_ddp(graph, nll, gt.adam(0.1), value='coupled'), PARAMS, (X, Y)
  ).ok


def test_a_row_for_each_sample_made_of_parameters_alone() -> None:
  def spread(p: Any, x: jax.Array) -> Any:
    mean, log_std = gaussian(p, x)
    return mean, jnp.broadcast_to(log_std[None], mean.shape)

  graph = gt.trace(spread, PARAMS, X)
  assert 'same for all' not in graph.summary()
  assert apart(step(spread, nll), step(gaussian, nll)) < 1e-9


def test_a_mean_over_the_batch_beside_outputs_couples_samples() -> None:
  def balanced(p: Any, x: jax.Array) -> Any:
    out = hidden(p, x) @ p['mean'] * jnp.exp(p['log_std'])[None]
    return out, jnp.mean(out**2)

  assert gt.trace(balanced, PARAMS, X).mixed
  gradient = jax.grad(lambda p: penalised(balanced(p, X), Y).mean())(PARAMS)
  got = step(balanced, penalised, trust_region=1e-9)
  assert apart(got, jax.tree.map(lambda g: -0.2 * g, gradient)) < 1e-8


def test_the_whole_batch_as_one_state_reads_common_outputs() -> None:
  graph = gt.trace(gaussian, {**PARAMS, 'unread': matrix(2)}, X)
  params = {**PARAMS, 'unread': matrix(2)}
  found = augmented.solve(graph, nll, params, (X, Y), gt.sgd(0.1))
  assert not found.updates['unread'].any()
  assert found.updates['log_std'].any()


@pytest.mark.parametrize('name', ['parameter', 'constant'])
def test_shard_map_with_its_checks_takes_the_same_step(name: str) -> None:
  f, loss = COMMON[name]
  params = {**PARAMS, 'unread': matrix(2)}
  tx = gt.gt_ddp(
    gt.trace(f, params, X),
    loss,
    gt.adam(0.1),
    value='bellman',
    trust_region=None,
  )

  def update(p: Any, x: jax.Array, y: jax.Array) -> Any:
    updates, _ = tx.update(None, tx.init(p), p, batch=(x, y))
    return jax.lax.pmean(updates, 'd')

  mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ('d',))
  whole, split = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec('d')
  mapped = jax.shard_map(
    update, mesh=mesh, in_specs=(whole, split, split), out_specs=whole
  )
  alone, _ = tx.update(None, tx.init(params), params, batch=(X, Y))
  assert apart(jax.jit(mapped)(params, X, Y), alone) < 1e-9


def test_what_is_refused_beside_common_outputs() -> None:
  def refused(f: Any, shape: str) -> None:
    with pytest.raises(gt.errors.BatchAxisError, match=shape):
      gt.trace(f, PARAMS, X)

  refused(lambda p, x: (gaussian(p, x), hidden(p, x).T), r'\[4, 5\]')
  refused(lambda p, x: hidden(p, x).mean(axis=0), r'\[4\]')
  refused(lambda p, x: p['log_std'], r'\[2\]')
  tx = gt.gt_ddp(
    gt.trace(gaussian, PARAMS, X), nll, gt.sgd(0.1), trust_region=None
  )
  with pytest.raises(gt.errors.LossError, match=r"output '1' is the same"):
    tx.update(None, tx.init(PARAMS), PARAMS, batch=(X, {'y': Y, 'n': 3.0}))
  mean = gt.gt_ddp(
    gt.trace(gaussian, PARAMS, X),
    lambda o, y: nll(o, y - y.mean()),
    gt.sgd(0.1),
    trust_region=None,
  )
  with pytest.raises(gt.errors.LossError, match='several samples'):
    mean.update(None, mean.init(PARAMS), PARAMS, batch=(X, Y))


UNREAD = {**PARAMS, 'pooler': matrix(3, 3)}
BASES = {
  'sgd': gt.sgd(0.1, momentum=0.9),
  'adam': gt.adam(0.1),
  'soap': gt.soap(0.1, eps=1e-3),
  'kfac': gt.kfac(0.1, diagonal=gt.sgd(0.1)),
  'ekfac': gt.ekfac(0.1, diagonal=gt.adam(0.1)),
  'adamw': optax.adamw(0.1),
  'clipped': optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1)),
}


def read(p: Any, x: jax.Array) -> jax.Array:
  return hidden(p, x) @ p['mean'] * jnp.exp(p['log_std'])[None]


def squares(o: jax.Array, y: jax.Array) -> jax.Array:
  return ((o - y[:, None]) ** 2).sum(-1)


@pytest.mark.parametrize('value', VALUES)
@pytest.mark.parametrize('name', BASES)
def test_an_unread_parameter_steps_along_a_zero_gradient(
  name: str, value: str
) -> None:
  base = BASES[name]
  if value != 'frozen' and name in ('adamw', 'clipped'):
    return  # they have no Q_uu
  got = step(read, squares, base, UNREAD, value=value)
  pooler = got.pop('pooler')
  # Where Shampoo's factors have no rank their eigenvectors may be any.
  most = 1e-4 if name == 'soap' else 1e-9
  assert apart(got, step(read, squares, base, value=value)) < most
  decay = -2 * 0.1 * 1e-4 * UNREAD['pooler']
  expected = decay if name == 'adamw' else jnp.zeros((3, 3))
  np.testing.assert_allclose(pooler, expected, atol=1e-12)


def test_passed_gradients_reach_unread_parameters() -> None:
  graph = gt.trace(read, UNREAD, X)
  given = jax.tree.map(jnp.ones_like, UNREAD)
  for base, expected in (
    (gt.sgd(0.1), -0.1),
    (gt.kfac(0.1, 0.5, diagonal=gt.sgd(0.3)), -0.3),
  ):
    tx = gt.gt_ddp(graph, squares, base, trust_region=None)
    steps, _ = tx.update(given, tx.init(UNREAD), UNREAD, batch=(X, Y))
    np.testing.assert_allclose(steps['pooler'], expected)


def test_a_kronecker_base_needs_no_diagonal_for_unread_parameters() -> None:
  params = {'w': matrix(3, 2), 'pooler': matrix(2)}
  graph = gt.trace(lambda p, x: x @ p['w'], params, X)
  given = jax.tree.map(jnp.ones_like, params)
  for rate in 0.1, lambda count: 0.1 + 0 * count:
    tx = gt.gt_ddp(graph, squares, gt.ekfac(rate, 0.5), trust_region=None)
    steps, _ = tx.update(given, tx.init(params), params, batch=(X, Y))
    np.testing.assert_allclose(steps['pooler'], -0.1 / 0.5)  # Q_uu = damping


def test_unread_parameters_are_told_or_refused() -> None:
  graph = gt.trace(read, UNREAD, X)
  assert graph.unread == (3,)
  assert 'zero gradient: pooler' in graph.summary()
  assert gt.verify_step(
    gt.gt_ddp(graph, squares, gt.adam(0.1), value='bellman', trust_region=None),
    UNREAD,
    (X, Y),
  ).ok
  with pytest.raises(gt.errors.UnownedParameterError, match="'pooler'"):
    gt.trace(read, UNREAD, X, strict=True)
  with pytest.raises(gt.errors.UnownedParameterError, match='No parameter'):
    gt.trace(lambda p, x: (2 * x, 3.0), UNREAD, X)
