"""KFAC and EKFAC of layers that decide alone, against dense matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import kronecker_games as games
import numpy as np
import oracle_kronecker as ok
import pytest
from kronecker_cases import (
  LOSSES,
  RATE,
  Case,
  assert_close,
  compare,
  cross_entropy,
  draw,
  graph_of,
  matrices,
  mlp,
  parameters,
  squared,
  stepper,
)
from oracle_recursion import Decision

import gtddp_jax as gt
from gtddp_jax import terminal as terminal_lib

BATCH = 6
NOW = {'every': 1, 'basis_every': 1, 'source': 'curvature'}


def first_step(
  case: Case,
  base: Any,
  terminal: Any = 'gauss_newton',
  loss: Any = None,
  **more: Any,
) -> tuple[dict[str, Any], Any]:
  tx = gt.gt_ddp(
    case.trace(), loss or LOSSES[case.phi], base, terminal, feedback=False
  )
  batch = case.inputs, case.targets
  updates, state = stepper(tx)(tx.init(case.params), case.params, batch, **more)
  return matrices(updates), state


# "KFAC from scratch": where KFAC is the Gauss-Newton block.


def linear(T: int, bias: bool = True, positions: str = 'expand') -> Case:
  """A deep linear network whose factors all have full rank."""
  x = draw(BATCH, T, 3) if T > 1 else draw(BATCH, 3)
  averaged = positions == 'reduce'
  y = draw(BATCH, 3, seed=1) if averaged else draw(*x.shape, seed=1)

  def end(h: jax.Array) -> jax.Array:
    return jnp.mean(h, axis=1) if averaged else h

  return mlp(lambda h: h, (3, 3, 3, 3), x, y, bias=bias, end=end)


@pytest.mark.parametrize(
  ('T', 'bias', 'positions', 'weight'),
  [(1, True, 'expand', 4), (5, False, 'expand', 1), (5, True, 'reduce', 4)],
)
def test_on_deep_linear_networks_it_solves_the_gauss_newton_block(
  T: int, bias: bool, positions: str, weight: int
) -> None:
  """Whether losses are averaged or summed: that is their weight."""
  case = linear(T, bias, positions)
  loss = None
  if weight > 1:
    loss = lambda o, t: weight * gt.losses.squared_error(o, t)  # noqa: E731
  statistics = gt.Statistics(**NOW, positions=positions)
  base = gt.kfac(1.0, 1e-30, statistics=statistics)
  updates, _ = first_step(case, base, loss=loss)
  expected = {
    name: -ok.unvec(
      np.linalg.solve(data.gauss_newton, ok.vec(data.Q_u)), data.Q_u.shape
    )
    for name, data in case.data().items()
  }
  assert_close(updates, expected, 1e-8)


@pytest.mark.parametrize('phi', LOSSES)
@pytest.mark.parametrize('act', [jnp.tanh, jax.nn.sigmoid, jax.nn.relu])
def test_of_one_sample_it_is_the_gauss_newton_block(
  act: Callable, phi: Callable
) -> None:
  y = draw(1, 3, seed=1) if phi is squared else jnp.asarray([2])
  case = mlp(act, (3, 4, 3), draw(1, 3), y, phi)
  statistics = gt.Statistics(**NOW)
  updates, state = first_step(case, gt.kfac(1.0, 0.1, statistics=statistics))
  expected = {}
  for block, (name, data) in zip(
    state.base.blocks, case.data().items(), strict=True
  ):
    A, B = np.asarray(block.a), np.asarray(block.b)
    np.testing.assert_allclose(np.kron(A, B), data.gauss_newton, atol=1e-12)
    expected[name] = -ok.kfac_solve(A, B, 0.1, data.Q_u)
  assert_close(updates, expected, 1e-10)


@pytest.mark.parametrize('phi', LOSSES)
def test_sampled_factors_are_exact_in_expectation(phi: Callable) -> None:
  """The mean of 300 draws of 20 columns for each of 2 samples."""
  y = draw(2, 3, seed=1) if phi is squared else jnp.asarray([0, 2])
  case = mlp(jnp.tanh, (2, 3, 3), draw(2, 2), y, phi)
  base = gt.kfac(1.0, statistics=gt.Statistics(**NOW))
  tx = gt.gt_ddp(
    case.trace(), LOSSES[phi], base, gt.sampled(20), feedback=False
  )
  start = tx.init(case.params)

  def factors(key: jax.Array) -> list[jax.Array]:
    _, state = tx.update(
      None,
      start,
      case.params,
      batch=(case.inputs, case.targets),
      rngs={'terminal': key},
    )
    return [block.b for block in state.base.blocks]

  keys = jax.random.split(jax.random.key(0), 300)
  drawn = jax.jit(lambda keys: jax.lax.map(factors, keys))(keys)
  for found, data in zip(drawn, case.data().values(), strict=True):
    exact = ok.factors(data.x, data.curvature)[1]
    found = np.asarray(found)
    off = np.linalg.norm(np.mean(found, axis=0) - exact)
    assert off < 0.03 * np.linalg.norm(exact)
    spread = np.linalg.norm(found - exact[None], axis=(1, 2))
    assert np.min(spread) > 0.003 * np.linalg.norm(exact)


# Schedules, layers of all kinds, and the recursions.


def dense() -> Case:
  labels = jnp.arange(BATCH) % 3
  return mlp(jnp.tanh, (3, 4, 3), draw(BATCH, 3), labels, cross_entropy)


def tokens() -> Case:
  """Dense layers at three positions a sample, averaged in the end."""
  return mlp(
    jnp.tanh,
    (2, 3, 2),
    draw(BATCH, 3, 2),
    draw(BATCH, 2, seed=1),
    end=lambda h: jnp.mean(h, axis=1),
  )


def images() -> Case:
  """Strides, padding and dilation, in two dimensions and in one."""

  def plane(x: jax.Array, layer: Callable) -> jax.Array:
    h = layer('plane', x, (2, 1), ((1, 0), (2, 1)), (1, 2))
    return jnp.tanh(h).reshape(len(x), -1, 2)

  chain = (
    Decision(('plane',), plane),
    Decision(
      ('line',),
      lambda x, layer: jnp.tanh(layer('line', x, (3,), 'VALID')).reshape(
        len(x), -1
      ),
    ),
    Decision(('end',), lambda x, layer: layer('end', x)),
  )
  shapes = {'plane': (2, 2, 1, 2), 'line': (2, 2, 2), 'end': (6, 2)}
  params = parameters(shapes, ['line'])
  return Case(chain, params, draw(BATCH, 4, 3, 1), draw(BATCH, 2, seed=1))


@pytest.mark.once
@pytest.mark.parametrize('kind', ['kfac', 'ekfac'])
@pytest.mark.parametrize(
  ('build', 'options'),
  [
    (dense, {'source': 'curvature', 'terminal': 'gauss_newton'}),
    (tokens, {'positions': 'reduce'}),
    (images, {'momentum': 0.7}),
  ],
)
def test_steps_of_a_schedule(
  build: Callable, options: dict[str, Any], kind: str
) -> None:
  """Averages every 3 steps, bases every 4, at 1 and 2, EKFAC's s always."""
  compare(build, kind, steps=8, damping=1e-2, feedback=False, **options)


@pytest.mark.parametrize(
  ('build', 'kind', 'largest'),
  [(images, 'ekfac', 3), (dense, 'kfac', 3), (dense, 'ekfac', 1)],
)
def test_large_sides_keep_their_diagonal(
  build: Callable, kind: str, largest: int
) -> None:
  compare(build, kind, feedback=False, largest=largest)


@pytest.mark.parametrize(
  ('build', 'kind', 'value'),
  [
    (dense, 'ekfac', 'frozen'),
    (dense, 'ekfac', 'bellman'),
    (dense, 'ekfac', 'coupled'),
    (tokens, 'kfac', 'coupled'),
    (images, 'kfac', 'bellman'),
  ],
)
def test_with_feedback_it_is_the_dense_recursion(
  build: Callable, kind: str, value: str
) -> None:
  compare(build, kind, value=value, momentum=0.5, damping=0.5)


@pytest.mark.parametrize('value', [gt.Bellman(memory=1), gt.Coupled(memory=1)])
def test_with_little_memory_it_is_the_same(value: Any) -> None:
  compare(images, 'ekfac', value=value, damping=0.5, steps=1)


def zero(loss: Any, outputs: Any, targets: Any) -> gt.Expansion:
  """A terminal without curvature, so that every Q_ux is zero."""
  exact = terminal_lib.gradient(loss, outputs, targets)
  return exact._replace(curvature=jnp.zeros_like(exact.curvature))


@pytest.mark.parametrize(
  ('build', 'value', 'cooperation'),
  [
    (dense, 'frozen', 'none'),
    (dense, 'coupled', 'none'),
    (games.dense, 'bellman', 'kronecker'),
  ],
)
def test_without_curvature_at_the_outputs_it_is_ekfac(
  build: Callable, value: str, cooperation: str
) -> None:
  """Proposition 4."""
  case, graph = graph_of(build)
  base = gt.ekfac(RATE, statistics=gt.Statistics(every=1))
  batch, found = (case.inputs, case.targets), []
  for terminal, feedback in (zero, True), ('gradient', False):
    tx = gt.gt_ddp(
      graph,
      LOSSES[case.phi],
      base,
      terminal,
      value,
      cooperation,
      feedback,
      trust_region=None,
    )
    updates, _ = stepper(tx)(tx.init(case.params), case.params, batch)
    found.append(matrices(updates))
  assert_close(*found, 1e-12)


# Options.


def test_the_norm_constraint_shortens_all_steps_alike() -> None:
  case = dense()
  batch = case.inputs, case.targets
  found = {}
  for bound in None, 1e-4, 1e4:
    base = gt.ekfac(RATE, norm_constraint=bound)
    tx = gt.gt_ddp(case.trace(), LOSSES[case.phi], base, feedback=False)
    updates, _ = stepper(tx)(tx.init(case.params), case.params, batch)
    found[bound] = matrices(updates)
  pairs = [
    (data.Q_u, -found[None][name] / RATE) for name, data in case.data().items()
  ]
  scale = ok.norm_scale(1e-4, RATE, pairs)
  assert 0 < scale < 0.5
  assert_close(found[1e4], found[None], 1e-12)
  shorter = {name: scale * step for name, step in found[None].items()}
  assert_close(found[1e-4], shorter, 1e-10)


def normed(params: Any, x: jax.Array) -> jax.Array:
  """An embedding, a dense layer with a scale of its own, and a tied matrix."""
  h = jnp.take(params['table'], x, axis=0)
  h = jnp.tanh(h @ params['dense']['w']) * params['scale'][None]
  return jnp.tanh(h @ params['tied']) @ params['tied'] @ params['end']['w']


NORMED = {
  'table': draw(4, 3),
  'dense': {'w': draw(3, 3, seed=1)},
  'scale': draw(3, seed=2),
  'tied': draw(3, 3, seed=3),
  'end': {'w': draw(3, 2, seed=4)},
}


@pytest.mark.parametrize('value', ['frozen', 'bellman'])
def test_other_controls_take_the_named_diagonal(value: str) -> None:
  """Without feedback they step as they would alone, the rest as before."""
  x, y = jnp.arange(BATCH) % 4, draw(BATCH, 2, seed=9)
  graph = gt.trace(normed, NORMED, x)
  loss = gt.losses.squared_error
  found = {}
  for name, base in {
    'both': gt.ekfac(RATE, diagonal=gt.adam(1e-2)),
    'adam': gt.adam(1e-2),
    'other': gt.ekfac(RATE, diagonal=gt.sgd(1.0)),
  }.items():
    tx = gt.gt_ddp(graph, loss, base, value=value, feedback=False)
    step, params = stepper(tx), NORMED
    state = tx.init(params)
    for _ in range(2):
      updates, state = step(state, NORMED, (x, y))
    found[name] = updates
  for name in NORMED:
    ruled = name in ('table', 'dense', 'end')
    same, different = ('other', 'adam') if ruled else ('adam', 'other')
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12),
      found['both'][name],
      found[same][name],
    )
    apart = jax.tree.map(
      lambda a, b: jnp.max(jnp.abs(a - b)),
      found['both'][name],
      found[different][name],
    )
    assert max(jax.tree.leaves(apart)) > 1e-6


@pytest.mark.parametrize('value', ['bellman', 'coupled'])
def test_where_all_take_the_diagonal_it_is_the_diagonal_base(
  value: str,
) -> None:
  params = {'a': draw(2, seed=1), 'b': draw(2, seed=2)}
  x, y = draw(BATCH, 2), draw(BATCH, 2, seed=9)

  def scaled(params: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x * params['a'][None]) * params['b'][None]

  graph, found = gt.trace(scaled, params, x), []
  for base in gt.kfac(1.0, diagonal=gt.adam(1e-2)), gt.adam(1e-2):
    tx = gt.gt_ddp(
      graph, gt.losses.squared_error, base, value=value, trust_region=None
    )
    found.append(stepper(tx)(tx.init(params), params, (x, y))[0])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-12), *found)
