"""What cannot work is refused by name, before anything is lost."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from gtddp_jax import errors

LOSS = gt.losses.softmax_cross_entropy
X = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)))
Y = jnp.arange(6) % 2
PARAMS = {'a': {'w': jnp.ones((3, 4)) / 3}, 'b': {'w': jnp.ones((4, 2)) / 4}}


def network(params: Any, x: jax.Array) -> jax.Array:
  return jnp.tanh(x @ params['a']['w']) @ params['b']['w']


GRAPH = gt.trace(network, PARAMS, X)


def step(terminal: Any = 'gradient', value: Any = 'frozen', **more: Any) -> Any:
  tx = gt.gt_ddp(GRAPH, LOSS, gt.sgd(0.1), terminal, value, trust_region=None)
  return tx.update(None, tx.init(PARAMS), PARAMS, batch=(X, Y), **more)


@pytest.mark.parametrize('memory', [0, -1, True, 1.5, '1GB', None])
@pytest.mark.parametrize('level', [gt.Bellman, gt.Coupled])
def test_memory_is_a_positive_integer(level: Any, memory: Any) -> None:
  with pytest.raises(errors.OptionError, match='memory'):
    level(memory=memory)


@pytest.mark.parametrize('value', [gt.Coupled, 'belman', 3])
def test_levels_that_are_none(value: Any) -> None:
  with pytest.raises(errors.OptionError, match=r'value.*Coupled\(memory\)'):
    step(value=value)


@pytest.mark.parametrize('terminal', [gt.sampled, gt.truncated, gt.subset])
def test_a_terminal_that_was_not_called(terminal: Any) -> None:
  with pytest.raises(errors.OptionError, match='call it'):
    step(terminal)
  with pytest.raises(errors.OptionError, match='call it'):
    gt.subset(terminal, 4)
  with pytest.raises(errors.OptionError, match=r'sampled\(m\)'):
    step('sampled')


def expansion(**changed: Any) -> Any:
  good = gt.Expansion(
    jnp.ones((1, 6, 2)), jnp.ones((6, 1)), jnp.ones((6, 1, 1))
  )
  return lambda loss, outputs, targets: good._replace(**changed)


@pytest.mark.parametrize(
  ('terminal', 'name'),
  [
    (lambda *_: None, 'NoneType'),
    (expansion(slope=jnp.ones(6)), 'slope'),
    (expansion(slope=jnp.ones((6, 0))), 'slope'),
    (expansion(curvature=jnp.ones((1, 1))), 'curvature'),
    (expansion(directions=jnp.ones((6, 2))), 'directions'),
    (expansion(directions={'a': jnp.ones((1, 6, 2))}), 'directions'),
  ],
)
def test_expansions_of_another_shape(terminal: Any, name: str) -> None:
  with pytest.raises(errors.LossError, match=name):
    step(terminal)
  step(expansion())


def test_keys_that_are_none() -> None:
  key = jax.random.key(0)
  with pytest.raises(errors.OptionError, match='rngs'):
    step(gt.sampled(1), rngs=key)

  def noisy(params: Any, x: jax.Array, rngs: Any) -> jax.Array:
    return network(params, x + jax.random.normal(rngs['noise'], x.shape))

  graph = gt.trace(noisy, PARAMS, X, rngs={'noise': key})
  tx = gt.gt_ddp(graph, LOSS, gt.sgd(0.1), trust_region=None)
  state = tx.init(PARAMS)
  old = jax.random.PRNGKey(0)
  with pytest.raises(errors.OptionError, match='noise'):
    tx.update(None, state, PARAMS, batch=(X, Y), rngs={'noise': old})


def test_a_subset_of_a_subset_is_the_smaller_one() -> None:
  nested = gt.subset(gt.subset('gauss_newton', 2), 4)
  got, expected = (step(t)[0] for t in (nested, gt.subset('gauss_newton', 2)))
  jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_owners_are_strings_keys_or_paths() -> None:
  by_key = gt.trace(network, PARAMS, X, owner=lambda path: path[0])
  assert [stage.name for stage in by_key.stages] == ['a', 'b']
  mixed = gt.trace(
    network,
    PARAMS,
    X,
    owner=lambda p: 'first' if p[0].key == 'a' else gt.module_of(p),
  )
  assert [stage.name for stage in mixed.stages] == ['first', 'b']
  for owner in ('a', None):
    with pytest.raises(errors.OptionError, match='owner'):
      gt.trace(network, PARAMS, X, owner=owner)  # type: ignore[arg-type]


class Normalised(nn.Module):
  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = nn.BatchNorm(use_running_average=False)(nn.Dense(8)(x))
    return nn.Dense(4)(jnp.tanh(x))


@pytest.mark.parametrize('seed', range(4))
def test_a_gradient_that_vanishes_is_no_mismatch(seed: int) -> None:
  """The bias before a batch normalisation has none but rounding."""
  x = 0.1 * jax.random.normal(jax.random.key(seed), (32, 6), jnp.float32)
  variables = Normalised().init(jax.random.key(seed), x)
  variables = jax.tree.map(lambda v: v.astype(jnp.float32), variables)
  stats = {'batch_stats': variables['batch_stats']}
  params = {'params': variables['params']}
  gt.trace(
    Normalised().apply, params, x, collections=stats, mutable=['batch_stats']
  )
  for mutable, match in ((True, 'parameters'), (['batch_stats'], None)):
    collections = stats if match else None
    with pytest.raises(errors.ParameterTreeError, match=match or 'batch_stats'):
      gt.trace(
        Normalised().apply,
        params if match else variables,
        x,
        collections=collections,
        mutable=mutable,
      )


@pytest.mark.once
@pytest.mark.parametrize('value', ['frozen', 'coupled'])
@pytest.mark.parametrize(
  'terminal', ['gradient', 'gauss_newton', gt.truncated(1), gt.sampled(1)]
)
def test_half_precision_outputs(terminal: Any, value: str) -> None:
  def half(params: Any, x: jax.Array) -> jax.Array:
    cast = jax.tree.map(lambda v: v.astype(jnp.bfloat16), (params, x))
    return network(*cast)

  params = jax.tree.map(lambda v: v.astype(jnp.float32), PARAMS)
  x = X.astype(jnp.float32)
  got = []
  for function in half, network:
    graph = gt.trace(function, params, x)
    tx = gt.gt_ddp(graph, LOSS, gt.sgd(0.1), terminal, value, trust_region=None)
    update, _ = jax.jit(tx.update)(
      None,
      tx.init(params),
      params,
      batch=(x, Y),
      rngs={'terminal': jax.random.key(0)},
    )
    got.append(update)
  assert optax.tree.norm(optax.tree.sub(*got)) < 0.1 * optax.tree.norm(got[1])
