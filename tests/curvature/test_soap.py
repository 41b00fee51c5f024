"""SOAP: alone, and its `Q_uu^-1` in the recursions, against dense matrices."""

from __future__ import annotations

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import oracle_soap
import pytest
from agreement import assert_agree, compiled, loss_of, oracle_step
from networks import BATCH, Draw, Problem, affine, by_squares, layer, wb
from oracle import Stage

import gtddp_jax as gt
from gtddp_jax.curvature import protocol
from gtddp_jax.gradients import packing

pytestmark = pytest.mark.once

RATE, PERIOD, EPS = 0.02, 3, 1e-2
SHAPES = {'b': (3,), 'w': (3, 3)}
NOBODY = protocol.StepContext((), None, None, {})


def draw(seed: int, shapes: Any = SHAPES) -> Any:
  rng = np.random.default_rng(seed)
  return {k: jnp.asarray(rng.normal(size=s)) for k, s in shapes.items()}


def square_network() -> Problem:
  """Square kernels: their factors have full rank, so their basis is unique."""
  r = Draw(3)
  params = {'l1': r.dense(3, 3), 'l2': r.dense(3, 3), 'l3': r.dense(3, 3)}

  def apply_fn(p: Any, x: Any) -> jax.Array:
    return affine(p['l3'], layer(p['l2'], layer(p['l1'], x)))

  chain = (
    Stage(wb('l1'), lambda x, u: layer(u, x)),
    Stage(wb('l2'), lambda h, u: layer(u, h)),
    Stage(wb('l3'), lambda h, u: affine(u, h)),
  )
  return by_squares(apply_fn, params, r(BATCH, 3), chain)


def flat(tree: Any) -> np.ndarray:
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def test_steps_are_those_of_dense_matrices() -> None:
  tx = gt.soap(RATE, 0.8, 0.9, 1e-3, eigenbasis_period=PERIOD)
  base = oracle_soap.soap(RATE, 0.8, 0.9, 1e-3, PERIOD)
  params, memory = draw(0), oracle_soap.start([*SHAPES.values()])
  state = tx.init(params)
  for seed in range(1, 4 * PERIOD):
    gradient = draw(seed)
    updates, state = tx.update(gradient, state, params)
    M, memory = base.curvature(memory, flat(gradient))
    direction, memory = base.direction(memory, flat(gradient))
    expected = -RATE * np.linalg.solve(M, direction)
    np.testing.assert_allclose(flat(updates), expected, rtol=1e-8, atol=1e-13)
    assert np.any(expected) == (seed > 1)


def test_without_a_basis_it_is_adam() -> None:
  shapes = {'matrix': (4, 3), 'row': (1, 5), 'scalar': ()}
  ours = gt.soap(RATE, 0.8, 0.9, max_dim=2)
  theirs = optax.adam(RATE, 0.8, 0.9)
  params = draw(0, shapes)
  first, state = ours.update(draw(9, shapes), ours.init(params), params)
  assert not np.any(flat(first))
  expected_state = theirs.init(params)
  for seed in range(1, 6):
    gradient = draw(seed, shapes)
    got, state = ours.update(gradient, state, params)
    expected, expected_state = theirs.update(gradient, expected_state, params)
    np.testing.assert_allclose(flat(got), flat(expected), rtol=1e-12)


def test_the_inverse_is_the_step_along_what_was_observed() -> None:
  """Of kernels that are not square, filters, vectors and numbers."""
  shapes = {'filter': (2, 2, 3, 4), 'tall': (5, 2), 'v': (3,), 'x': ()}
  tx = gt.soap(RATE, 0.0, 0.9, EPS, eigenbasis_period=2)
  params = draw(0, shapes)
  state = tx.init(params)
  for seed in range(1, 6):
    q = draw(seed, shapes)
    curvature = tx.bind(None, [], 'none').begin(state, params, NOBODY)
    control, leaves = tuple(range(4)), tuple(jax.tree.leaves(q))
    curvature.observe(control, jnp.zeros(()), leaves)
    pack = packing.EndToEnd(leaves)
    inverse = curvature.inverse(control)
    moved = pack.unpack(inverse.apply(pack.pack(leaves), pack))
    step = curvature.step(control, dict(enumerate(leaves)))
    updates, state = tx.update(q, state, params)
    np.testing.assert_allclose(-flat(moved), flat(updates), atol=1e-13)
    np.testing.assert_allclose(flat(step), flat(updates), atol=1e-13)
    new = curvature.finish(dict(enumerate(leaves)))
    np.testing.assert_allclose(flat(new), flat(state), atol=1e-12)
    # As an operator it is symmetric, and has no negative eigenvalue.
    dense = inverse.apply(jnp.eye(pack.pack(leaves).size), pack)
    np.testing.assert_allclose(dense, dense.T, atol=1e-12)
    assert np.min(np.linalg.eigvalsh(dense)) > -1e-12


def test_the_bases_follow_the_factors() -> None:
  """One step of a power iteration a period keeps up with a slow change."""
  rng = np.random.default_rng(0)
  tx = gt.soap(RATE, b2=0.99, eigenbasis_period=5)
  params = {'w': jnp.zeros((6, 4))}
  state, step = tx.init(params), jax.jit(tx.update)
  turned = np.linalg.qr(rng.normal(size=(6, 6)))[0] * 0.3 ** np.arange(6)
  for _ in range(100):
    gradient = turned @ rng.normal(size=(6, 4))
    _, state = step({'w': jnp.asarray(gradient)}, state)
  for side in state.left['w'], state.right['w']:
    np.testing.assert_allclose(
      side.basis.T @ side.basis, np.eye(len(side.basis)), atol=1e-10
    )
    inner = side.basis.T @ side.factor @ side.basis
    off = inner - jnp.diag(jnp.diag(inner))
    assert jnp.max(jnp.abs(off)) < 0.2 * jnp.max(inner)


def test_without_feedback_it_is_soap() -> None:
  problem = square_network()
  graph = gt.trace(problem.apply_fn, problem.params, problem.inputs)
  base = gt.soap(RATE)
  tx = gt.gt_ddp(graph, loss_of(problem), base, feedback=False)

  def gradient(p: Any) -> Any:
    outputs = lambda p: problem.apply_fn(p, problem.inputs)  # noqa: E731
    loss = loss_of(problem)
    return jax.grad(lambda p: loss(outputs(p), problem.targets).mean())(p)

  params, state, alone = problem.params, tx.init(problem.params), None
  alone = base.init(params)
  for _ in range(3):
    updates, state = compiled(problem, tx)(params, state)
    expected, alone = base.update(gradient(params), alone, params)
    np.testing.assert_allclose(flat(updates), flat(expected), atol=1e-12)
    params = optax.apply_updates(params, updates)


@pytest.mark.parametrize('terminal', ['gradient', 'gauss_newton'])
@pytest.mark.parametrize('value', ['frozen', 'bellman', 'coupled'])
def test_the_recursion_is_that_of_dense_matrices(
  value: str, terminal: str
) -> None:
  problem = square_network()
  graph = gt.trace(problem.apply_fn, problem.params, problem.inputs)
  tx = gt.gt_ddp(
    graph,
    loss_of(problem),
    gt.soap(RATE, 0.8, 0.9, EPS, eigenbasis_period=PERIOD),
    terminal=terminal,
    value=value,
    trust_region=None,
  )
  base = oracle_soap.soap(RATE, 0.8, 0.9, EPS, PERIOD)
  params, state = problem.params, tx.init(problem.params)
  memory: Any = [oracle_soap.start([(3,), (3, 3)])] * 3
  step = compiled(problem, tx)
  for _ in range(PERIOD + 3):
    updates, state = step(params, state)
    solution, _ = oracle_step(
      problem, params, base, memory, terminal=terminal, value=value
    )
    assert_agree(updates, solution.updates, 1e-8)
    memory = solution.memory
    params = optax.apply_updates(params, updates)
  assert np.any(flat(updates))


@pytest.mark.parametrize('value', ['frozen', 'bellman', 'coupled'])
def test_it_learns(value: str) -> None:
  """With kernels that are not square, in single precision."""
  rng = np.random.default_rng(0)
  x, y = (
    jnp.asarray(rng.normal(size=s), jnp.float32) for s in [(16, 5), (16, 2)]
  )
  shapes = {'first': (5, 8), 'last': (8, 2)}
  params = jax.tree.map(lambda u: u.astype(jnp.float32) / 3, draw(1, shapes))

  def network(p: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ p['first']) @ p['last']

  graph = gt.trace(network, params, x)
  loss = gt.losses.squared_error
  base = gt.soap(RATE, eps=1e-3)
  tx = gt.gt_ddp(graph, loss, base, value=value, trust_region=0.3)
  step = jax.jit(lambda p, s: tx.update(None, s, p, batch=(x, y)))
  now, state = params, tx.init(params)
  for _ in range(60):
    updates, state = step(now, state)
    now = optax.apply_updates(now, updates)
  before, after = (loss(network(p, x), y).mean() for p in (params, now))
  assert after < 0.5 * before
  assert gt.metrics(state)['skipped_steps'] == 0


def test_it_is_an_optax_transformation() -> None:
  params = jax.tree.map(lambda u: u.astype(jnp.bfloat16), draw(0))
  schedule = optax.piecewise_constant_schedule(0.1, {2: 0.0})
  tx = copy.deepcopy(gt.soap(schedule))
  state = tx.init(params)
  updates, new = jax.jit(tx.update)(params, state)
  jax.tree.map(lambda a, b: a.dtype == b.dtype or 1 / 0, state, new)
  assert jax.tree.structure(state) == jax.tree.structure(new)
  assert updates['w'].dtype == jnp.bfloat16
  updates, new = tx.update(params, new)
  assert np.any(flat(updates))
  updates, new = tx.update(params, new)
  assert not np.any(flat(updates))
  chained = optax.chain(optax.clip(1.0), tx)
  chained.update(params, chained.init(params), params)
  doubled = optax.tree.map_params(tx, lambda v: 2 * v, new)
  np.testing.assert_array_equal(doubled.mu['w'], 2 * new.mu['w'])


@pytest.mark.parametrize(
  ('options', 'argument'),
  [
    ({'b1': 1.0}, 'b1'),
    ({'b2': -0.1}, 'b2'),
    ({'eigenbasis_period': 0}, 'eigenbasis_period'),
    ({'max_dim': 1.5}, 'max_dim'),
  ],
)
def test_what_has_no_meaning_is_refused(options: Any, argument: str) -> None:
  with pytest.raises(gt.errors.OptionError, match=f'soap: {argument}') as found:
    gt.soap(0.1, **options)
  assert found.value.argument == argument


def test_the_oracle_without_a_basis_is_its_adam() -> None:
  """A vector alone: what is dense and what is a diagonal agree."""
  dense, diagonal = oracle_soap.soap(RATE), oracle.adam(RATE, 0.95, 0.95)
  memory, other = oracle_soap.start([(4,)]), oracle.Memory()
  _, memory = dense.curvature(memory, np.ones(4))
  _, memory = dense.direction(memory, np.ones(4))
  for seed in range(3):
    q = np.random.default_rng(seed).normal(size=4)
    M, memory = dense.curvature(memory, q)
    expected, other = diagonal.curvature(other, q)
    np.testing.assert_allclose(M, np.diag(expected), rtol=1e-12)
    got, memory = dense.direction(memory, q)
    step, other = diagonal.direction(other, q)
    np.testing.assert_allclose(got, step, rtol=1e-12)
