"""Degenerate data, half precision, NaN, and the transformations of JAX."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from kronecker_cases import draw, parameters, stepper
from oracle_layers import applied

import gtddp_jax as gt
from gtddp_jax.curvature.kronecker import block as kronecker

pytestmark = pytest.mark.once

F32 = jnp.float32
SHAPES = {
  'stem': (2, 2, 1, 3), 'main': (3, 3, 3, 2), 'side': (1, 1, 3, 2),
  'end': (18, 2),
}  # fmt: skip
PARAMS = jax.tree.map(lambda w: w.astype(F32), parameters(SHAPES))
X = draw(4, 3, 3, 1).astype(F32)
Y = draw(4, 2, seed=1).astype(F32)
STATISTICS = gt.Statistics(every=3, basis_every=4)
# Each option with each base, feedback and none, at four compilations.
SETUPS = [
  ('kfac', 'none', False),
  ('ekfac', 'schur', True),
  ('kfac', 'schur', True),
  ('ekfac', 'kronecker', False),
]


def network(params: Any, x: jax.Array) -> jax.Array:
  x = jax.nn.relu(applied(params['stem'], x))
  h = applied(params['main'], x) + applied(params['side'], x)
  return applied(params['end'], jax.nn.relu(h).reshape(len(x), -1))


@functools.cache
def compiled(
  kind: str, cooperation: str, feedback: bool, half: Any = None
) -> tuple[Any, Callable]:
  def function(params: Any, x: jax.Array) -> jax.Array:
    if half is None:
      return network(params, x)
    return network(*jax.tree.map(lambda v: v.astype(half), (params, x)))

  tx = gt.gt_ddp(
    gt.trace(function, PARAMS, X),
    gt.losses.squared_error,
    getattr(gt, kind)(0.01, statistics=STATISTICS),
    cooperation=cooperation,
    feedback=feedback,
    trust_region=None,
  )
  return tx, stepper(tx)


def assert_fine(updates: Any, state: Any, skipped: int = 0) -> None:
  assert state.skipped_steps <= skipped
  for leaf in jax.tree.leaves((updates, state.base)):
    assert np.all(np.isfinite(leaf))
  for leaf in jax.tree.leaves(updates):
    assert leaf.dtype == F32


DEAD = {**PARAMS, 'stem': {**PARAMS['stem'], 'b': jnp.full(3, -100.0, F32)}}
MUTE = {**PARAMS, 'main': {**PARAMS['main'], 'b': jnp.full(2, -100.0, F32)}}
DEGENERATE = {
  'the same sample': (PARAMS, jnp.broadcast_to(X[:1], X.shape)),
  'constant inputs': (PARAMS, jnp.ones_like(X)),
  'no inputs': (PARAMS, jnp.zeros_like(X)),
  'dead units': (DEAD, X),
  'no cotangents': (MUTE, X),
  'exploding inputs': (PARAMS, 1e6 * X),
  'vanishing inputs': (PARAMS, 1e-12 * X),
}


@pytest.mark.parametrize('setup', SETUPS, ids=str)
@pytest.mark.parametrize('name', DEGENERATE)
def test_degenerate_batches_give_finite_steps(name: str, setup: Any) -> None:
  """Alone, and in the middle of ordinary ones: an explosion in between two
  renewals may overflow, and is then skipped."""
  tx, step = compiled(*setup)
  params, x = DEGENERATE[name]
  for first in 0, 2:
    state = tx.init(params)
    for t in range(4):
      batch = (x if t >= first else X), Y
      updates, state = step(state, params, batch)
      skipped = 4 if name == 'exploding inputs' and first > 0 else 0
      assert_fine(updates, state, skipped)


def test_one_sample_gives_a_finite_step() -> None:
  tx, step = compiled(*SETUPS[1])
  updates, state = step(tx.init(PARAMS), PARAMS, (X[:1], Y[:1]))
  assert_fine(updates, state)
  assert max(float(jnp.max(jnp.abs(u))) for u in jax.tree.leaves(updates)) > 0


@pytest.mark.parametrize(
  ('setup', 'half'),
  [
    (SETUPS[0], jnp.bfloat16),
    (SETUPS[1], jnp.bfloat16),
    (SETUPS[1], jnp.float16),
  ],
)
def test_networks_in_half_precision(setup: Any, half: Any) -> None:
  """The first step is near the one in single precision."""
  tx, step = compiled(*setup, half)
  params, state = PARAMS, tx.init(PARAMS)
  one, plain = compiled(*setup)
  expected, _ = plain(one.init(PARAMS), PARAMS, (X, Y))
  for t in range(4):
    updates, state = step(state, params, (X, Y))
    assert_fine(updates, state)
    for leaf in jax.tree.leaves(state.base.blocks):
      assert leaf.dtype == F32
    if t == 0:
      off = optax.tree.norm(optax.tree.sub(updates, expected))
      assert off < 0.1 * optax.tree.norm(expected)
    params = optax.apply_updates(params, updates)


@pytest.mark.parametrize('when', [0, 1, 2, 3])
@pytest.mark.parametrize('setup', SETUPS, ids=str)
def test_a_batch_with_nan_is_skipped(setup: Any, when: int) -> None:
  """The state is as if it had never come, also where statistics are due."""
  tx, step = compiled(*setup)
  state = tx.init(PARAMS)
  for t in range(when):
    _, state = step(state, PARAMS, (X + t, Y))
  bad = X.at[1, 0, 0, 0].set(jnp.nan)
  updates, after = step(state, PARAMS, (bad, Y))
  assert after.skipped_steps == 1
  assert all(not np.any(u) for u in jax.tree.leaves(updates))
  jax.tree.map(np.testing.assert_array_equal, after.base, state.base)
  expected, _ = step(state, PARAMS, (X, Y))
  found, after = step(after, PARAMS, (X, Y))
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  assert after.skipped_steps == 1


@pytest.mark.parametrize('setup', SETUPS, ids=str)
def test_one_compilation_serves_all_steps(setup: Any) -> None:
  tx, step = compiled(*setup)
  state = tx.init(PARAMS)
  kinds = jax.tree.map(lambda v: (v.shape, v.dtype), state)
  step(state, PARAMS, (X, Y))
  before = step._cache_size()
  for _ in range(7):
    _, state = step(state, PARAMS, (X, Y))
    assert jax.tree.map(lambda v: (v.shape, v.dtype), state) == kinds
  assert step._cache_size() == before
  assert state.base.steps == 7


def test_players_that_share_all_share_a_basis() -> None:
  """Their blocks of B may differ by rounding, which turns a null space."""
  layout = kronecker.Layout(
    (6, 6), (3, 3), (0, 0), separate_bases=True, identical=True, ekfac=True
  )
  block = kronecker.init(layout, 4096, F32)
  h = draw(2, 6).astype(F32)
  noise = 1e-7 * draw(12, 12, seed=1).astype(F32)
  block = block._replace(
    a=jnp.tile(jnp.eye(3, dtype=F32), (2, 2)),
    b=jnp.tile(h.T @ h, (2, 2)) + noise + noise.T,
  )
  [found] = kronecker.renewed([layout], [block])
  jax.tree.map(np.testing.assert_array_equal, *found.frames)
  apart = layout._replace(identical=False)
  [found] = kronecker.renewed([apart], [block])
  u, v = (np.abs(frame.out.vectors) for frame in found.frames)
  assert np.max(np.abs(u - v)) > 0.1


@pytest.mark.parametrize('corrected', [True, False])
def test_players_that_share_all_need_no_damping(corrected: bool) -> None:
  """Damping that a float32 loses beside the curvature still counts."""
  layout = kronecker.Layout(
    (2, 2), (3, 3), (0, 0), separate_bases=True, identical=True, ekfac=corrected
  )
  block = kronecker.init(layout, 4096, F32)
  frames = tuple(
    f._replace(
      into=f.into._replace(values=jnp.full(3, 10.0, F32)),
      out=f.out._replace(values=jnp.full(2, 10.0, F32)),
      moment=jnp.full((2, 3), 100.0, F32) if corrected else None,
    )
    for f in block.frames
  )
  inverse = kronecker.inverse(layout, block._replace(frames=frames), 1e-12)
  row = draw(6).astype(F32)
  step = inverse.apply(jnp.concatenate([row, row])[None])[0]
  np.testing.assert_allclose(step, jnp.concatenate([row, row]) / 200, 1e-5)


def test_a_side_that_is_a_diagonal_carries_the_moment() -> None:
  """No matrix of that side is formed: its eigenvectors stay as they are."""
  layout = kronecker.Layout(
    (3,), (50_000,), (0,), separate_bases=False, identical=False, ekfac=True
  )
  block = kronecker.init(layout, 4096, F32)
  moment = jnp.abs(draw(3, 50_000)).astype(F32)
  (frame,) = block.frames
  b = draw(3, 3, seed=1).astype(F32)
  block = block._replace(b=b @ b.T, frames=(frame._replace(moment=moment),))
  [found] = kronecker.renewed([layout], [block])
  (new,) = found.frames
  expected = jnp.square(new.out.vectors.T @ frame.out.vectors) @ moment
  np.testing.assert_allclose(new.moment, expected, 1e-4, 1e-6)


# A small network, for what wraps a transformation.

SMALL = {'a': {'w': draw(3, 3)}, 'b': {'w': draw(3, 2, seed=1)}}
U, V = draw(5, 6, 3, seed=2), draw(5, 6, 2, seed=3)


def small(params: Any, x: jax.Array) -> jax.Array:
  return jnp.tanh(x @ params['a']['w']) @ params['b']['w']


GRAPH = gt.trace(small, SMALL, U[0])


def optimizer(rate: Any = 0.1, **more: Any) -> Any:
  base = gt.ekfac(rate, statistics=STATISTICS)
  return gt.gt_ddp(
    GRAPH, gt.losses.squared_error, base, **{'trust_region': None} | more
  )


@functools.cache
def trajectory() -> tuple[list[Any], list[Any]]:
  """Updates and states of five steps at fixed parameters."""
  tx = optimizer()
  step, states, found = stepper(tx), [tx.init(SMALL)], []
  for x, y in zip(U, V, strict=True):
    updates, state = step(states[-1], SMALL, (x, y))
    found.append(updates)
    states.append(state)
  return found, states


def assert_same(
  found: Any, expected: Any, scale: float = 1.0, tolerance: float = 1e-9
) -> None:
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, scale * b, tolerance, 1e-12),
    found,
    expected,
  )


def test_in_a_scan_with_a_condition() -> None:
  """The fourth of five batches is left out."""
  tx = optimizer()

  def body(state: Any, batch: Any) -> Any:
    x, y, taken = batch

    def take() -> Any:
      return tx.update(None, state, SMALL, batch=(x, y))

    def leave() -> Any:
      return jax.tree.map(jnp.zeros_like, SMALL), state

    updates, state = jax.lax.cond(taken, take, leave)
    return state, updates

  taken = jnp.arange(5) != 3
  state, found = jax.jit(lambda s: jax.lax.scan(body, s, (U, V, taken)))(
    tx.init(SMALL)
  )
  expected, _ = trajectory()
  for t in range(3):
    assert_same(jax.tree.map(lambda u, t=t: u[t], found), expected[t])
  assert all(not np.any(u[3]) for u in jax.tree.leaves(found))
  assert state.base.steps == 4


def test_in_a_chain() -> None:
  tx = optax.chain(optimizer(), optax.scale(0.5))
  step = stepper(tx)
  updates, state = step(tx.init(SMALL), SMALL, (U[0], V[0]))
  expected, states = trajectory()
  assert_same(updates, expected[0], 0.5)
  assert gt.metrics(state)['loss'] == gt.metrics(states[1])['loss']


def test_the_learning_rate_may_be_a_schedule_or_injected() -> None:
  """Also where Q_uu holds it."""

  def rate(count: Any) -> Any:
    return jnp.where(count < 1, 0.1, 0.02)

  injected = optax.inject_hyperparams(
    lambda learning_rate: optimizer(learning_rate, value='bellman')
  )(learning_rate=0.1)
  scheduled = optimizer(rate, value='bellman')
  plain = optimizer(0.1, value='bellman')
  state, steps = scheduled.init(SMALL), stepper(scheduled)
  other, also = injected.init(SMALL), stepper(injected)
  for t in range(2):
    batch = U[t], V[t]
    if t == 0:
      expected, _ = stepper(plain)(plain.init(SMALL), SMALL, batch)
    found, state = steps(state, SMALL, batch)
    other.hyperparams['learning_rate'] = jnp.asarray(rate(t))
    same, other = also(other, SMALL, batch)
    assert_same(same, found)
    if t == 0:
      assert_same(found, expected)


def test_accumulated_gradients_are_given_ones() -> None:
  tx = optimizer(feedback=False)

  def gradient(x: jax.Array, y: jax.Array) -> Any:
    return jax.grad(
      lambda p: jnp.mean(gt.losses.squared_error(small(p, x), y))
    )(SMALL)

  first, second = (gradient(U[t], V[t]) for t in range(2))
  many = optax.MultiSteps(tx, 2)
  step, state = stepper(many), many.init(SMALL)
  nothing, state = step(state, SMALL, (U[0], V[0]), grads=first)
  assert all(not np.any(u) for u in jax.tree.leaves(nothing))
  updates, state = step(state, SMALL, (U[1], V[1]), grads=second)
  mean = jax.tree.map(lambda a, b: (a + b) / 2, first, second)
  alone = stepper(tx)
  expected, _ = alone(tx.init(SMALL), SMALL, (U[1], V[1]), grads=mean)
  # The mean that optax keeps has the precision of float32.
  assert_same(updates, expected, tolerance=1e-5)
  own, _ = alone(tx.init(SMALL), SMALL, (U[1], V[1]), grads=second)
  assert_same(own, alone(tx.init(SMALL), SMALL, (U[1], V[1]))[0])
