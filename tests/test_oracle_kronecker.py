"""The Kronecker oracle against statements that need no library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle_kronecker as ok
import pytest
from oracle_kronecker import Game, LayerData, Simulator, unvec, vec

Array = np.ndarray


def squared(output: jax.Array, target: jax.Array) -> jax.Array:
  return 0.5 * jnp.sum((output - target) ** 2)


def cross_entropy(output: jax.Array, target: jax.Array) -> jax.Array:
  return jax.scipy.special.logsumexp(output) - output[target]


def draw(*shape: int, seed: int = 0) -> jax.Array:
  return jnp.asarray(0.7 * np.random.default_rng(seed).standard_normal(shape))


def parameters(*shapes: tuple[int, ...], bias: bool = True) -> Any:
  return {
    f'l{i}': {'w': draw(*shape, seed=10 + i)}
    | ({'b': draw(shape[-1], seed=20 + i)} if bias else {})
    for i, shape in enumerate(shapes)
  }


def chain_of(act: Callable, count: int) -> Callable:
  def net(layer: Callable, x: jax.Array) -> jax.Array:
    for i in range(count - 1):
      x = act(layer(f'l{i}', x))
    return layer(f'l{count - 1}', x)

  return net


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-12) -> None:
  scale = max(1.0, np.max(np.abs(expected)))
  np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def assert_kfac_is_gauss_newton(
  data: dict[str, LayerData], positions: str
) -> None:
  for layer in data.values():
    A, B = ok.factors(layer.x, layer.curvature, positions)
    assert np.max(np.abs(layer.gauss_newton)) > 1e-6
    assert_close(ok.kfac_matrix(A, B), layer.gauss_newton)


# "KFAC from scratch": where KFAC is the Gauss-Newton block.


@pytest.mark.parametrize(('T', 'bias'), [(1, True), (5, True), (5, False)])
def test_expand_is_exact_on_deep_linear_networks(T: int, bias: bool) -> None:
  params = parameters((3, 4), (4, 2), (2, 3), bias=bias)
  x = draw(3, T, 3) if T > 1 else draw(3, 3)
  targets = draw(*x.shape, seed=1)
  net = chain_of(lambda x: x, 3)
  data = ok.layer_data(net, params, x, targets, squared)
  assert_kfac_is_gauss_newton(data, 'expand')


@pytest.mark.parametrize('T', [1, 5])
def test_reduce_is_exact_where_outputs_are_averaged(T: int) -> None:
  params = parameters((3, 4), (4, 2), (2, 3))
  chain = chain_of(lambda x: x, 3)

  def net(layer: Callable, x: jax.Array) -> jax.Array:
    return jnp.mean(chain(layer, x), axis=1)

  data = ok.layer_data(net, params, draw(3, T, 3), draw(3, 3, seed=1), squared)
  assert_kfac_is_gauss_newton(data, 'reduce')
  if T > 1:
    with pytest.raises(AssertionError):
      assert_kfac_is_gauss_newton(data, 'expand')


def test_reduce_is_exact_on_a_convolution_averaged_over_the_image() -> None:
  params = parameters((2, 3, 2, 3), (3, 2))

  def net(layer: Callable, x: jax.Array) -> jax.Array:
    h = layer('l0', x, (2, 1), ((1, 0), (2, 1)))
    return layer('l1', jnp.mean(h, axis=(1, 2)))

  data = ok.layer_data(
    net, params, draw(3, 4, 3, 2), draw(3, 2, seed=1), squared
  )
  assert_kfac_is_gauss_newton(data, 'reduce')


@pytest.mark.parametrize('loss', [squared, cross_entropy])
@pytest.mark.parametrize('act', [jnp.tanh, jax.nn.sigmoid, jax.nn.relu])
def test_one_sample_is_exact_on_mlps(act: Callable, loss: Callable) -> None:
  params = parameters((3, 4), (4, 4), (4, 3))
  targets = draw(1, 3, seed=1) if loss is squared else jnp.asarray([2])
  net = chain_of(act, 3)
  data = ok.layer_data(net, params, draw(1, 3), targets, loss)
  for positions in 'expand', 'reduce':
    assert_kfac_is_gauss_newton(data, positions)


def test_more_samples_are_not_exact_on_mlps() -> None:
  params = parameters((3, 4), (4, 3))
  net = chain_of(jnp.tanh, 2)
  data = ok.layer_data(net, params, draw(3, 3), draw(3, 3, seed=1), squared)
  with pytest.raises(AssertionError):
    assert_kfac_is_gauss_newton(data, 'expand')


# Rows, cotangents and gradients.


@pytest.mark.parametrize(
  ('padding', 'strides', 'taps', 'dilation'),
  [
    ('SAME', (1, 1), (3, 3), (1, 1)),
    ('SAME', (3, 2), (2, 3), (2, 1)),
    ('SAME', (2, 2), (1, 1), (1, 1)),
    ('VALID', (2, 2), (3, 3), (1, 1)),
    ('VALID', (1, 1), (2, 3), (2, 1)),
    (((0, 2), (1, 0)), (3, 2), (3, 3), (1, 1)),
    (((0, 2), (1, 0)), (1, 1), (2, 3), (2, 1)),
    (((0, 2), (1, 0)), (2, 2), (1, 1), (2, 1)),
  ],
)
def test_rows_times_the_matrix_are_the_convolution(
  padding: Any,
  strides: tuple[int, int],
  taps: tuple[int, int],
  dilation: tuple[int, int],
) -> None:
  x, w, b = draw(2, 5, 6, 2), draw(*taps, 2, 3, seed=1), draw(3, seed=2)
  rows = ok.rows('conv', x, w.shape, strides, padding, True, dilation)
  expected = jax.lax.conv_general_dilated(
    x,
    w,
    strides,
    padding,
    rhs_dilation=dilation,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  expected = (expected + b[None, None, None]).reshape(2, -1, 3)
  assert_close(rows @ ok.matrix_of({'w': w, 'b': b}).T, expected)


@pytest.mark.parametrize('stride', [1, 2])
def test_rows_of_a_sequence(stride: int) -> None:
  x, w = draw(2, 5, 2), draw(3, 2, 4, seed=1)
  rows = ok.rows('conv', x, w.shape, (stride,), bias=False)
  expected = jax.lax.conv_general_dilated(
    x, w, (stride,), 'SAME', dimension_numbers=('NWC', 'WIO', 'NWC')
  )
  assert_close(rows @ ok.matrix_of({'w': w}).T, expected)


def projection(layer: Callable, x: jax.Array) -> jax.Array:
  """Two players of different kernel and stride that meet in one add."""
  x = jnp.tanh(layer('stem', x))
  h = layer('main', x, (2, 2), ((1, 0), (1, 1)))
  h = jnp.tanh(h + layer('side', x, (2, 2)))
  return layer('end', h.reshape(len(h), -1))


def projection_data(loss: Callable = squared, B: int = 3) -> Any:
  shapes = {'stem': (2, 2, 1, 2), 'main': (3, 3, 2, 3), 'side': (1, 1, 2, 3)}
  shapes['end'] = (12, 3)
  params = {
    name: {'w': draw(*shape, seed=i), 'b': draw(shape[-1], seed=i + 10)}
    for i, (name, shape) in enumerate(shapes.items())
  }
  x = draw(B, 4, 4, 1, seed=30)
  y = draw(B, 3, seed=31) if loss is squared else jnp.arange(B) % 3
  return params, x, y, ok.layer_data(projection, params, x, y, loss)


@pytest.mark.parametrize('loss', [squared, cross_entropy])
def test_gradients_are_those_of_jax(loss: Callable) -> None:
  params, x, y, data = projection_data(loss)

  def mean_loss(params: Any) -> jax.Array:
    def layer(
      name: str, x: jax.Array, strides: Any = (1, 1), padding: Any = 'SAME'
    ) -> jax.Array:
      w, b = params[name]['w'], params[name]['b']
      if w.ndim == 2:
        h = x @ w
      else:
        dims = ('NHWC', 'HWIO', 'NHWC')
        h = jax.lax.conv_general_dilated(
          x, w, strides, padding, dimension_numbers=dims
        )
      return h + jnp.broadcast_to(b, h.shape)

    return jnp.mean(jax.vmap(loss)(projection(layer, x), y))

  gradient = jax.grad(mean_loss)(params)
  for name, layer in data.items():
    G_i = ok.sample_gradients(layer.x, layer.slope)
    assert_close(np.mean(G_i[:, 0], axis=0), layer.Q_u)
    assert_close(ok.matrix_of(gradient[name]), layer.Q_u)
    columns = ok.sample_gradients(layer.x, layer.curvature)
    dense = sum(
      np.outer(vec(G), vec(G)) for sample in columns for G in sample
    ) / len(columns)
    assert_close(dense, layer.gauss_newton)


def test_players_that_meet_in_one_add_have_the_same_cotangents() -> None:
  data = projection_data()[-1]
  np.testing.assert_array_equal(data['main'].slope, data['side'].slope)
  np.testing.assert_array_equal(data['main'].curvature, data['side'].curvature)


# KFAC and EKFAC.


@pytest.mark.parametrize('columns', ['slope', 'curvature'])
@pytest.mark.parametrize('name', ['main', 'end'])
def test_ekfac_is_the_best_diagonal_in_the_basis(
  columns: str, name: str
) -> None:
  layer = projection_data(cross_entropy)[-1][name]
  h = getattr(layer, columns)
  A, B = ok.factors(layer.x, h)
  (lambda_A, U_A), (lambda_B, U_B) = np.linalg.eigh(A), np.linalg.eigh(B)
  G_i = ok.sample_gradients(layer.x, h)
  dense = np.einsum(
    'irk,irl->kl',
    *[np.stack([[vec(G) for G in sample] for sample in G_i])] * 2,
  ) / len(G_i)
  s = ok.ekfac_scale(U_A, U_B, G_i)
  U = np.kron(U_A, U_B)
  assert_close(vec(s), np.diag(U.T @ dense @ U))
  factored = np.zeros_like(s)
  for G in G_i.reshape(-1, *s.shape):
    factored += (U_B.T @ G @ U_A) ** 2 / len(G_i)
  assert_close(s, factored)
  if layer.x.shape[1] == 1:
    turned = (layer.x[:, 0] @ U_A) ** 2
    product = np.einsum('irc,ia->ca', (h[:, :, 0] @ U_B) ** 2, turned)
    assert_close(s, product / len(turned))
  kfac, ekfac = ok.kfac_matrix(A, B), ok.ekfac_matrix(U_A, U_B, s, 0.0)
  off = np.linalg.norm(kfac - dense), np.linalg.norm(ekfac - dense)
  assert off[1] < off[0]
  assert_close(kfac, ok.ekfac_matrix(U_A, U_B, np.outer(lambda_B, lambda_A), 0))


def test_solves_in_matrix_form() -> None:
  layer = projection_data()[-1]['main']
  A, B = ok.factors(layer.x, layer.slope)
  A_d, B_d = ok.damped(A, B, 0.01)
  pi = (A_d - A)[0, 0] / 0.1
  assert_close(pi**2, (np.trace(A) / len(A)) / (np.trace(B) / len(B)))
  assert_close((B_d - B)[0, 0] * pi, 0.1)
  G = layer.Q_u
  expected = np.linalg.inv(B_d) @ G @ np.linalg.inv(A_d)
  assert_close(ok.kfac_solve(A, B, 0.01, G), expected, 1e-11)
  U_A, U_B = np.linalg.eigh(A)[1], np.linalg.eigh(B)[1]
  s = ok.ekfac_scale(U_A, U_B, ok.sample_gradients(layer.x, layer.slope))
  expected = U_B @ ((U_B.T @ G @ U_A) / (s + 0.01)) @ U_A.T
  assert_close(ok.ekfac_solve(U_A, U_B, s, 0.01, G), expected, 1e-11)


def test_damping_where_a_factor_vanishes() -> None:
  A, B = ok.damped(np.zeros((2, 2)), np.eye(3), 0.04)
  assert_close(A, 0.2 * np.eye(2))
  assert_close(B, 1.2 * np.eye(3))


def test_norm_constraint() -> None:
  G = np.full((2, 3), 2.0)
  assert ok.norm_scale(1e3, 0.5, [(G, G)]) == 1
  scale = ok.norm_scale(0.1, 0.5, [(G, 3 * G), (G, G)])
  assert_close((scale * 0.5) ** 2 * np.sum(4 * G * G), 0.1)


def batches(count: int, a: int, c: int, R: int = 1, T: int = 2) -> list[Any]:
  return [
    [
      np.asarray(draw(9, T, a, seed=3 * t)),
      np.asarray(draw(9, R, T, c, seed=3 * t + 1)),
      np.asarray(draw(c, a, seed=3 * t + 2)),
    ]
    for t in range(count)
  ]


def test_schedule_written_out() -> None:
  steps = batches(5, 3, 2, R=2)
  simulator = Simulator('ekfac', 0.1, decay=0.6, every=2, basis_every=3)
  found = [simulator.step(t, *step) for t, step in enumerate(steps)]
  (A_0, B_0), (A_2, B_2), (A_4, B_4) = (
    ok.factors(*steps[t][:2]) for t in (0, 2, 4)
  )
  A_02, B_02 = (A_0 + A_2) / 2, (B_0 + B_2) / 2
  assert_close(simulator.A, 0.6 * A_02 + 0.4 * A_4)
  assert_close(simulator.B, 0.6 * B_02 + 0.4 * B_4)
  first, second = (
    (np.linalg.eigh(A)[1], np.linalg.eigh(B)[1])
    for A, B in ((A_0, B_0), (A_02, B_02))
  )
  s = np.zeros((2, 3))
  weights = 0, 1 / 2, 0.6, 0.6, 0.6
  for t, (x, h, G) in enumerate(steps):
    U_A, U_B = first if t < 3 else second
    if t == 3:
      turned_A, turned_B = first[0].T @ U_A, U_B.T @ first[1]
      s = turned_B**2 @ s @ turned_A**2
    new = ok.ekfac_scale(U_A, U_B, ok.sample_gradients(x, h))
    s = weights[t] * s + (1 - weights[t]) * new
    expected = U_B @ ((U_B.T @ G @ U_A) / (s + 0.1)) @ U_A.T
    assert_close(found[t], expected, 1e-11)


@pytest.mark.parametrize('fresh', [False, True])
def test_kfac_solves_with_the_factors_it_says(fresh: bool) -> None:
  steps = batches(3, 3, 2)
  simulator = Simulator('kfac', 0.1, every=1, basis_every=2, fresh=fresh)
  found = [simulator.step(t, *step) for t, step in enumerate(steps)]
  new = [ok.factors(*step[:2]) for step in steps]
  for t, used in enumerate((0, 1, 2) if fresh else (0, 0, 2)):
    A, B = (
      np.mean(part, axis=0) for part in zip(*new[: used + 1], strict=True)
    )
    assert_close(found[t], ok.kfac_solve(A, B, 0.1, steps[t][2]), 1e-11)


@pytest.mark.parametrize('kind', ['kfac', 'ekfac'])
def test_a_large_side_keeps_its_diagonal(kind: str) -> None:
  [(x, h, G)] = batches(1, 4, 2)
  found = Simulator(kind, 0.1, largest=3).step(0, x, h, G)
  squares = np.mean(x**2, axis=(0, 1))
  B = ok.factors(x, h)[1]
  if kind == 'kfac':
    expected = ok.kfac_solve(np.diag(squares), B, 0.1, G)
  else:
    U_B = np.linalg.eigh(B)[1]
    s = ok.ekfac_scale(np.eye(4), U_B, ok.sample_gradients(x, h))
    expected = ok.ekfac_solve(np.eye(4), U_B, s, 0.1, G)
  assert_close(found, expected, 1e-11)


def test_a_basis_may_be_given() -> None:
  simulator, other = Simulator('ekfac'), Simulator('ekfac')
  [(x, h, G)] = batches(1, 4, 2)
  expected = simulator.step(0, x, h, G)
  basis = simulator.U_A[:, ::-1], -simulator.U_B
  assert_close(other.step(0, x, h, G, basis), expected, 1e-10)
  with pytest.raises(AssertionError, match='eigenbasis'):
    other.step(0, x, h, G, (np.eye(4), simulator.U_B))


# Cooperation.


def joint(
  widths: Sequence[tuple[int, int]], seed: int = 0
) -> tuple[Array, Array, list[Array]]:
  """Joint factors of full rank, and gradients c_p x a_p."""
  a, c = (sum(side) for side in zip(*widths, strict=True))
  X, H = draw(3 * a, a, seed=seed), draw(3 * c, c, seed=seed + 1)
  Gs = [
    np.asarray(draw(c_p, a_p, seed=seed + 2 + p))
    for p, (a_p, c_p) in enumerate(widths)
  ]
  return np.asarray(X.T @ X), np.asarray(H.T @ H), Gs


@pytest.mark.parametrize('damping', [1e-3, 0.5])
def test_theorem_3_has_two_forms(damping: float) -> None:
  A, B, Gs = joint(((3, 2), (4, 3)))
  expected = ok.theorem_3(A, B, damping, Gs)
  A_d, B_d = ok.damped(A, B, damping)
  blocks = np.linalg.inv(B_d) @ ok.block_diagonal(Gs) @ np.linalg.inv(A_d)
  for found, step in zip(
    ok.kronecker(A, B, damping, Gs), expected, strict=True
  ):
    assert_close(found, step, 1e-10)
  assert_close(blocks[:2, :3], expected[0], 1e-10)
  assert_close(blocks[2:, 3:], expected[1], 1e-10)


def kfac_system(A: Array, B: Array, damping: float, Gs: list[Array]) -> Array:
  shapes = [G.shape for G in Gs]
  A_pq = ok.split(A, *[[a for _, a in shapes]] * 2)
  B_pq = ok.split(B, *[[c for c, _ in shapes]] * 2)
  m = range(len(Gs))
  own = [ok.kfac_matrix(A_pq[p][p], B_pq[p][p], damping) for p in m]
  roots = [np.eye(G.size) for G in Gs]
  return ok.schur_matrix(A, B, shapes, own, roots)


def test_schur_eliminates_with_a_minus_and_is_not_theorem_3() -> None:
  A, B, Gs = joint(((3, 2), (4, 3)))
  Q = kfac_system(A, B, 0.1, Gs)
  n = Gs[0].size
  Q_uu, Q_uv, Q_vu, Q_vv = Q[:n, :n], Q[:n, n:], Q[n:, :n], Q[n:, n:]
  rest = Q_uu - Q_uv @ np.linalg.solve(Q_vv, Q_vu)
  right = vec(Gs[0]) - Q_uv @ np.linalg.solve(Q_vv, vec(Gs[1]))
  steps = ok.schur_solve(Q, Gs)
  assert_close(vec(steps[0]), np.linalg.solve(rest, right), 1e-11)
  acted = B[:2, 2:] @ Gs[1] @ A[3:, :3]
  assert_close(Q_uv @ vec(Gs[1]), vec(acted))
  other = ok.kronecker(A, B, 0.1, Gs)[0]
  assert np.linalg.norm(other - steps[0]) > 0.1 * np.linalg.norm(steps[0])


@pytest.mark.parametrize('damping', [1e-3, 0.3])
def test_corollary_7(damping: float) -> None:
  A, B, [G] = joint(((3, 2),))
  (lambda_A, U_A), (lambda_B, U_B) = np.linalg.eigh(A), np.linalg.eigh(B)
  value = np.outer(lambda_B, lambda_A)
  own = ok.ekfac_matrix(U_A, U_B, value, damping)
  Q = ok.schur_matrix(
    np.tile(A, (2, 2)),
    np.tile(B, (2, 2)),
    [G.shape] * 2,
    [own] * 2,
    [np.eye(6)] * 2,
  )
  off = Q[:6, 6:]
  found = np.linalg.eigvalsh(own - off @ np.linalg.solve(own, off))
  expected = np.sort(vec(ok.corollary_7(value, damping)))
  assert_close(found, expected, 1e-10)
  equal = ok.ekfac_solve(U_A, U_B, 2 * value, damping, G)
  for step in ok.schur_solve(Q, [G, G]):
    assert_close(step, equal, 1e-9)


SHARED = np.asarray(draw(9, 2, 3)), np.asarray(draw(9, 1, 2, 2, seed=1))


@pytest.mark.parametrize('players', [2, 3])
def test_players_that_share_all_are_diagonal_in_one_basis(players: int) -> None:
  x, h = SHARED
  Gs = [np.asarray(draw(2, 3, seed=5 + p)) for p in range(players)]
  game = Game('schur', [(2, 3)] * players, 'ekfac', damping=0.05)
  found = game.step(0, [x] * players, [h] * players, Gs)
  player = game.players[0]
  inside = np.stack([player.U_B.T @ G @ player.U_A for G in Gs])
  s = player.s
  expected = (inside - np.sum(inside, 0) * s / (players * s + 0.05)) / 0.05
  for step, part in zip(found, expected, strict=True):
    assert_close(step, player.U_B @ part @ player.U_A.T, 1e-9)


@pytest.mark.parametrize('kind', ['kfac', 'ekfac'])
@pytest.mark.parametrize('players', [2, 3])
def test_steps_of_a_game_descend_and_are_not_those_of_one_player(
  kind: str, players: int
) -> None:
  """Different widths, positions aligned, several steps of one schedule."""
  widths = [(3, 2), (4, 2), (2, 2)][:players]
  shapes = [(c, a) for a, c in widths]
  options = {'damping': 0.05, 'every': 1, 'basis_every': 2}
  games = {
    name: Game(name, shapes, kind, **options)
    for name in ('none', 'kronecker', 'schur')
  }
  alone = [Simulator(kind, **options) for _ in widths]
  for t in range(4):
    h = np.asarray(draw(9, 1, 2, 2, seed=t))
    xs = [np.asarray(draw(9, 2, a, seed=50 + a + t)) for a, _ in widths]
    Gs = [np.mean(ok.sample_gradients(x, h)[:, 0], axis=0) for x in xs]
    steps = {
      name: game.step(t, xs, [h] * players, Gs) for name, game in games.items()
    }
    for p, simulator in enumerate(alone):
      expected = simulator.step(t, xs[p], h, Gs[p])
      assert_close(steps['none'][p], expected, 1e-10)
    for name in steps:
      # A step is a descent direction of the players together.
      along = sum(
        np.sum(G * step) for G, step in zip(Gs, steps[name], strict=True)
      )
      assert along > 0
    for other in 'kronecker', 'schur':
      assert np.max(np.abs(steps[other][0] - steps['none'][0])) > 1e-2


# Where a statement of the specification does not hold.


def apart() -> tuple[list[Array], list[Array], list[Array]]:
  """Two players with A_uv = 0: no sample has rows of both."""
  half = (np.arange(24) % 2)[:, None, None]
  h = np.asarray(draw(24, 1, 1, 2))
  xs = [
    np.asarray(draw(24, 1, 3, seed=1)) * half,
    np.asarray(draw(24, 1, 2, seed=2)) * (1 - half),
  ]
  Gs = [np.mean(ok.sample_gradients(x, h)[:, 0], axis=0) for x in xs]
  return xs, [h, h], Gs


@pytest.mark.parametrize('kind', ['kfac', 'ekfac'])
def test_uncorrelated_rows_part_the_players_of_schur_alone(kind: str) -> None:
  """With A_uv = 0 'schur' is the players alone. 'kronecker' is not: the
  cotangents are the same, so B~_uu is far smaller than B_uu."""
  xs, hs, Gs = apart()
  A, B = ok.factors(np.concatenate(xs, 2), np.concatenate(hs, 3))
  assert np.all(A[:3, 3:] == 0)
  assert_close(B[:2, 2:], B[:2, :2])
  steps = {
    name: Game(name, [(2, 3), (2, 2)], kind, damping=1e-4).step(0, xs, hs, Gs)
    for name in ('none', 'schur', 'kronecker')
  }
  for p in range(2):
    assert_close(steps['schur'][p], steps['none'][p], 1e-10)
  ratio = np.linalg.norm(steps['kronecker'][0])
  ratio /= np.linalg.norm(steps['none'][0])
  assert ratio > 3


def test_kronecker_of_players_that_share_all_is_not_corollary_7() -> None:
  """Half of Theorem 3's step is G / gamma: the differences of the players'
  rows and cotangents vanish, so that their eigenvalues are 0."""
  x, h = SHARED
  G = np.mean(ok.sample_gradients(x, h)[:, 0], axis=0)
  damping = 1e-6
  shapes = [(2, 3), (2, 3)]
  game = Game('kronecker', shapes, 'ekfac', damping=damping)
  found = game.step(0, [x, x], [h, h], [G, G])
  assert_close(found[0] * damping, G / 2, 1e-3)
  game = Game('schur', shapes, 'ekfac', damping=damping)
  step = game.step(0, [x, x], [h, h], [G, G])[0]
  assert np.linalg.norm(step) < 1e-3 * np.linalg.norm(found[0])


def test_schur_needs_blocks_as_old_as_the_basis() -> None:
  """Blocks of newer factors between players whose eigenvalues are older: the
  joint system is not positive any more."""
  smallest = {}
  for fresh in False, True:
    game = Game(
      'schur', [(2, 3)] * 2, 'ekfac', damping=1e-3, every=1, fresh=fresh
    )
    for t in range(2):
      # The rows turn from one direction to another between the two steps.
      scale = np.where(np.arange(3) == t, 10.0, 0.1)
      x = np.asarray(draw(9, 1, 3, seed=t)) * scale
      h = np.asarray(draw(9, 1, 1, 2, seed=9 + t))
      game.step(t, [x, x], [h, h], [np.ones((2, 3))] * 2)
    A, B = game.joint.used()
    Q = ok.schur_matrix(
      A,
      B,
      game.shapes,
      [player.matrix() for player in game.players],
      [player.root(game.eps) for player in game.players],
    )
    smallest[fresh] = np.linalg.eigvalsh(Q)[0]
  assert smallest[False] > 0 > smallest[True]


def test_ekfac_is_not_unique_where_an_eigenvalue_is_repeated() -> None:
  """Rank-deficient factors: the null space has no basis of its own, and later
  samples do reach into it. Compare with the library's basis handed over."""
  steps = batches(2, 6, 2, T=1)
  for step in steps:
    step[0], step[1] = step[0][:3], step[1][:3]
  own = Simulator('ekfac')
  own.step(0, *steps[0])
  turned = own.U_A.copy()
  turned[:, :2] = turned[:, :2] @ np.asarray([[0.6, -0.8], [0.8, 0.6]])
  other = Simulator('ekfac')
  other.step(0, *steps[0], (turned, own.U_B))
  found = [simulator.step(1, *steps[1]) for simulator in (own, other)]
  assert np.max(np.abs(found[0] - found[1])) > 1e-2


def test_joint_samples_and_their_blocks_differ() -> None:
  """EKFAC's s on the joint layer: of the whole G_i, or of blockdiag(G_i)."""
  xs, hs, Gs = apart()
  steps = [
    Game('kronecker', [(2, 3), (2, 2)], 'ekfac', whole).step(0, xs, hs, Gs)
    for whole in (True, False)
  ]
  assert np.max(np.abs(steps[0][0] - steps[1][0])) > 1e-2


def test_unvec_undoes_vec() -> None:
  G = np.arange(6.0).reshape(2, 3)
  np.testing.assert_array_equal(vec(G), [0, 3, 1, 4, 2, 5])
  np.testing.assert_array_equal(unvec(vec(G), G.shape), G)
