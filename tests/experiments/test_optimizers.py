"""Every optimizer comes through one door, and a baseline is its base."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from configs import default
from experiments import optimizers

PLAIN = {
  'sgd': optax.sgd(0.1),
  'rmsprop': optax.rmsprop(0.1),
  'adam': optax.adam(0.1),
  'adamw': optax.adamw(0.1),
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
  tx = optimizers.build(section, graph, gt.losses.softmax_cross_entropy)
  update = jax.jit(lambda p, b: tx.update(None, tx.init(p), p, batch=b))
  updates, state = update(params, batch)
  assert all(np.isfinite(value) for value in gt.metrics(state).values())
  return updates


def test_every_base_is_compared_here() -> None:
  assert set(PLAIN) == set(optimizers.BASES)


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


@pytest.mark.parametrize('terminal', optimizers.TERMINALS)
@pytest.mark.parametrize('value', optimizers.VALUES)
@pytest.mark.parametrize('cooperation', optimizers.COOPERATIONS)
def test_every_word_of_the_config_is_known(
  problem: Any, terminal: str, value: str, cooperation: str
) -> None:
  updates_of(
    problem,
    name='gt_ddp',
    terminal=terminal,
    value=value,
    cooperation=cooperation,
    trust_region=1.0,
  )


def test_titles() -> None:
  section = default.get_config().optimizer
  section.name, section.base.name = 'gt_ddp', 'rmsprop'
  assert optimizers.title(section) == 'GT-DDP RMSprop'
  section.name = 'sgd'
  assert optimizers.title(section) == 'SGD'
