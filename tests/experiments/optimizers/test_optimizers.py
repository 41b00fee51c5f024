"""Every optimizer is made by one function, and a baseline is its base."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from configs import default
from experiments.optimizers import registry

PLAIN = {
  'sgd': optax.sgd(0.1),
  'rmsprop': optax.rmsprop(0.1),
  'adam': optax.adam(0.1),
  'adamw': optax.adamw(0.1),
  'lion': optax.lion(0.1, weight_decay=1e-4),
  'muon': optax.contrib.muon(0.1, weight_decay=1e-4, adam_weight_decay=1e-4),
}


@pytest.fixture(scope='module')
def problem() -> tuple[gt.LayerGraph, Any, Any]:
  keys = jax.random.split(jax.random.key(0), 3)
  params = {
    'a': {'w': jax.random.normal(keys[0], (3, 4))},
    'b': {'w': jax.random.normal(keys[1], (4, 2))},
  }
  inputs = jax.random.normal(keys[2], (5, 3))
  batch = (inputs, jnp.array([0, 1, 0, 1, 1], jnp.int32))

  def apply(p: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ p['a']['w']) @ p['b']['w']

  return gt.trace(apply, params, inputs), params, batch


def updates_of(problem: Any, **changes: Any) -> Any:
  graph, params, batch = problem
  section = default.get_config().optimizer
  section.base.learning_rate = 0.1
  section.update(changes)
  tx = registry.build(section, graph, gt.losses.softmax_cross_entropy)
  update = jax.jit(lambda p, b: tx.update(None, tx.init(p), p, batch=b))
  updates, state = update(params, batch)
  assert all(np.isfinite(value) for value in gt.metrics(state).values())
  return updates


def test_every_base_is_compared_here() -> None:
  assert {*PLAIN, 'kfac', 'ekfac'} == set(registry.BASES)


@pytest.mark.parametrize('name', ['kfac', 'ekfac'])
def test_a_kronecker_base_has_the_numbers_of_its_section(
  problem: Any, name: str
) -> None:
  graph, params, batch = problem
  section = {'damping': 0.3, 'source': 'curvature', 'diagonal': 'none'}
  got = updates_of(
    problem, name='gt_ddp', feedback=False, terminal='gauss_newton',
    base={'name': name, **section},
  )  # fmt: skip
  base = getattr(gt, name)(
    0.1, 0.3, statistics=gt.Statistics(source='curvature')
  )
  loss = gt.losses.softmax_cross_entropy
  tx = gt.gt_ddp(graph, loss, base, 'gauss_newton', feedback=False)
  expected, _ = tx.update(None, tx.init(params), params, batch=batch)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    got,
    expected,
  )


@pytest.mark.parametrize('name', sorted(PLAIN))
def test_a_baseline_takes_the_steps_of_optax(problem: Any, name: str) -> None:
  graph, params, (inputs, targets) = problem

  def loss(p: Any) -> jax.Array:
    logits = graph(p, inputs)
    return gt.losses.softmax_cross_entropy(logits, targets).mean()

  tx = PLAIN[name]
  expected, _ = tx.update(jax.grad(loss)(params), tx.init(params), params)
  got = updates_of(problem, name=name)
  jax.tree.map(np.testing.assert_allclose, got, expected)


@pytest.mark.parametrize('base', sorted(PLAIN))
def test_the_form_differs_from_its_base(problem: Any, base: str) -> None:
  form = updates_of(problem, name='gt_ddp', base={'name': base})
  alone = updates_of(problem, name=base)
  # The first layer has no layer upstream to answer.
  np.testing.assert_allclose(form['a']['w'], alone['a']['w'], rtol=1e-6)
  if base == 'sgd':  # others: their first steps only know the sign
    assert not np.allclose(form['b']['w'], alone['b']['w'])


@pytest.mark.once
@pytest.mark.parametrize('terminal', ('gradient', 'gauss_newton'))
@pytest.mark.parametrize('value', ('frozen', 'bellman', 'coupled'))
@pytest.mark.parametrize('cooperation', ('none', 'kronecker', 'schur'))
def test_every_word_of_the_config_is_known(
  problem: Any, terminal: str, value: str, cooperation: str
) -> None:
  graph, params, (inputs, targets) = problem
  assert not graph.games

  def apply(p: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ p['a']['w'] + x @ p['c']['w']) @ p['b']['w']

  params = {**params, 'c': {'w': jnp.ones_like(params['a']['w'])}}
  players = gt.trace(apply, params, inputs), params, (inputs, targets)
  updates_of(
    players,
    name='gt_ddp',
    terminal=terminal,
    value=value,
    cooperation=cooperation,
    base={'name': 'adam' if cooperation == 'none' else 'ekfac'},
    trust_region=1.0,
  )


def test_titles() -> None:
  section = default.get_config().optimizer
  section.name, section.base.name = 'gt_ddp', 'rmsprop'
  assert registry.title(section) == 'GT-DDP RMSprop'
  section.update(feedback=False, cooperation='schur')
  section.base.name = 'ekfac'
  assert registry.title(section) == 'GT-EKFAC'
  section.name = 'sgd'
  assert registry.title(section) == 'SGD'


def test_the_advice_fits_the_optimizer() -> None:
  section = default.get_config().optimizer
  rate = 'lower config.optimizer.base.learning_rate'
  assert registry.advice(section) == rate
  section.name = 'ekfac'
  section.base.norm_constraint = 0.1
  assert registry.advice(section) == (
    f'{rate}, raise config.optimizer.base.damping or lower '
    f'config.optimizer.base.norm_constraint'
  )
  section.update(name='gt_ddp', value='bellman', trust_region=0.3)
  assert registry.advice(section) == (
    f'{rate} or lower config.optimizer.trust_region'
  )
  section.base.name = 'kfac'  # its values take no norm_constraint
  assert registry.advice(section) == (
    f'{rate}, lower config.optimizer.trust_region or raise '
    f'config.optimizer.base.damping'
  )
  section.feedback = False
  assert 'trust_region' not in registry.advice(section)
  assert 'damping' in registry.advice(section)


def test_muon_takes_a_kernel_of_a_convolution_as_a_matrix() -> None:
  section = default.get_config().optimizer.base
  section.update(learning_rate=1.0, weight_decay=0.0)
  tx = registry.BASES['muon'].build(section)
  params = {'kernel': jax.random.normal(jax.random.key(0), (3, 3, 2, 8))}
  steps, _ = jax.jit(tx.update)(params, tx.init(params), params)
  assert steps['kernel'].shape == (3, 3, 2, 8)
  # Nearly orthogonal, which a step of Adam is not.
  values = jnp.linalg.svd(steps['kernel'].reshape(18, 8), compute_uv=False)
  assert values.min() > 0.6 and values.max() < 1.3
