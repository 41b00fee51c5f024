"""Parameters in the containers of others, whose step is that of plain dicts."""

from __future__ import annotations

import collections
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import freeze

import gtddp_jax as gt

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(6, 3)))
Y = jnp.arange(6) % 2
LOSS = gt.losses.softmax_cross_entropy


class Small(nnx.Module):
  """Two layers."""

  def __init__(self, rngs: nnx.Rngs):
    self.b = nnx.Linear(3, 4, rngs=rngs, param_dtype=jnp.float64)
    self.a = nnx.Linear(4, 2, rngs=rngs, param_dtype=jnp.float64)

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.a(nnx.tanh(self.b(x)))


MODEL = Small(nnx.Rngs(0))
GRAPHDEF, STATE = nnx.split(MODEL, nnx.Param)
PLAIN = nnx.to_pure_dict(STATE)
pure: Any = nnx.as_pure if hasattr(nnx, 'as_pure') else nnx.pure


def apply_fn(params: Any, x: jax.Array) -> jax.Array:
  h = jnp.tanh(x @ params['b']['kernel'] + params['b']['bias'][None])
  return h @ params['a']['kernel'] + params['a']['bias'][None]


def of_nnx(params: Any, x: jax.Array) -> jax.Array:
  out: jax.Array = nnx.merge(GRAPHDEF, params)(x)
  return out


def steps(tx: Any, params: Any, grads: Any = None) -> Any:
  """Two of them; what comes back has the containers that were given."""
  state = tx.init(params)
  for _ in range(2):
    updates, new = tx.update(grads, state, params, batch=(X, Y))
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    state = new
  return updates


def made(graph: gt.LayerGraph) -> Any:
  return gt.gt_ddp(
    graph, LOSS, gt.adam(0.1), value='bellman', trust_region=None
  )


EXPECTED = steps(made(gt.trace(apply_fn, PLAIN, X)), PLAIN)


def same(updates: Any) -> None:
  for layer in 'a', 'b':
    for leaf in 'kernel', 'bias':
      (got,) = jax.tree.leaves(updates[layer][leaf])  # of a variable, or itself
      np.testing.assert_allclose(got, EXPECTED[layer][leaf], rtol=1e-9)


CONTAINERS = {
  'frozen': freeze(PLAIN),
  'ordered': collections.OrderedDict(
    (k, collections.OrderedDict(PLAIN[k])) for k in ('b', 'a')
  ),
  'state': STATE,
  'pure state': pure(STATE),
}


@pytest.mark.parametrize('name', CONTAINERS)
def test_a_graph_takes_parameters_in_other_containers(name: str) -> None:
  params = CONTAINERS[name]
  graph = gt.trace(apply_fn, PLAIN, X)
  same(steps(made(graph), params))
  np.testing.assert_allclose(graph(params, X), apply_fn(PLAIN, X))
  grads = jax.grad(lambda p: LOSS(apply_fn(p, X), Y).mean())(PLAIN)
  tx = made(graph)
  same(steps(tx, params, grads))
  same(steps(tx, PLAIN, jax.tree.map(lambda v: v, grads)))


@pytest.mark.parametrize('base', [gt.sgd(0.1), gt.kfac(0.1), gt.soap(0.1)])
def test_other_bases_keep_to_paths_too(base: Any) -> None:
  tx = gt.gt_ddp(gt.trace(apply_fn, PLAIN, X), LOSS, base, trust_region=None)
  expected = steps(tx, PLAIN)
  got = steps(tx, CONTAINERS['ordered'])
  for layer in 'a', 'b':
    for leaf in 'kernel', 'bias':
      np.testing.assert_array_equal(got[layer][leaf], expected[layer][leaf])


def test_a_graph_of_a_state_takes_the_halves_of_a_module() -> None:
  graph = gt.trace(of_nnx, STATE, X)
  same(steps(made(graph), STATE))
  same(steps(made(graph), pure(STATE)))
  same(steps(made(graph), PLAIN))


@pytest.mark.parametrize('passed', [True, False])
def test_the_optimizer_of_nnx_steps(passed: bool) -> None:
  model = Small(nnx.Rngs(0))
  before = nnx.to_pure_dict(nnx.state(model, nnx.Param))
  graph = gt.trace(of_nnx if passed else apply_fn, STATE, X)
  opt = nnx.Optimizer(model, made(graph), wrt=nnx.Param)

  @nnx.jit
  def step(model: Any, opt: Any) -> None:
    grads = nnx.grad(lambda m: LOSS(m(X), Y).mean())(model)
    opt.update(model, grads, batch=(X, Y))

  step(model, opt)
  tx = made(gt.trace(apply_fn, PLAIN, X))
  expected, _ = tx.update(None, tx.init(PLAIN), PLAIN, batch=(X, Y))
  after = nnx.to_pure_dict(nnx.state(model, nnx.Param))
  moved = jax.tree.map(jnp.subtract, after, before)
  for got, wanted in zip(
    jax.tree.leaves(moved), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(got, wanted, rtol=1e-7)
  step(model, opt)
  assert int(opt.step[...] if hasattr(opt.step, '__getitem__') else 2) == 2


def test_paths_and_shapes_still_count() -> None:
  tx = made(gt.trace(apply_fn, PLAIN, X))
  other = {**PLAIN, 'A': PLAIN['a']}
  del other['a']
  with pytest.raises(gt.errors.ParameterTreeError) as info:
    tx.init(other)
  message = str(info.value)
  assert "'a/bias': expected float64[2], got nothing" in message
  assert 'masked' not in message  # which is for those who freeze
