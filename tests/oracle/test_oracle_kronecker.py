"""The Kronecker oracle against statements that need no library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle_kronecker as ok
import pytest
from kronecker_cases import cross_entropy, draw, squared
from oracle_kronecker import LayerData, Simulator, unvec, vec

pytestmark = pytest.mark.once

Array = np.ndarray


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


def test_when_it_renews() -> None:
  found = [t for t in range(31) if ok.due(t, 10)]
  assert found == [0, 1, 2, 4, 8, 10, 20, 30]
  assert [t for t in range(9) if ok.due(t, 4)] == [0, 1, 2, 4, 8]
  assert all(ok.due(t, 1) for t in range(9))


def test_schedule_written_out() -> None:
  steps = batches(6, 3, 2, R=2)
  simulator = Simulator('ekfac', 0.1, decay=0.7, every=3, basis_every=5)
  found = [simulator.step(t, *step) for t, step in enumerate(steps)]
  news = [ok.factors(*steps[t][:2]) for t in (0, 1, 2, 3)]
  # After steps 0, 1, 2 and 3; step 4 renews the basis alone.
  running = [
    [np.mean(part[: n + 1], axis=0) for part in zip(*news, strict=True)]
    for n in range(3)
  ]
  running.append(
    [0.7 * a + 0.3 * b for a, b in zip(running[2], news[3], strict=True)]
  )
  assert_close(simulator.A, running[3][0])
  assert_close(simulator.B, running[3][1])
  bases = [[np.linalg.eigh(F)[1] for F in pair] for pair in running]
  now = [bases[n] for n in (0, 1, 2, 2, 3, 3)]
  s = np.zeros((2, 3))
  weights = 0, 1 / 2, 2 / 3, 0.7, 0.7, 0.7
  for t, (x, h, G) in enumerate(steps):
    U_A, U_B = now[t]
    if t in (1, 2, 4):
      old = now[t - 1]
      turned_A, turned_B = old[0].T @ U_A, U_B.T @ old[1]
      s = turned_B**2 @ s @ turned_A**2
    new = ok.ekfac_scale(U_A, U_B, ok.sample_gradients(x, h))
    s = weights[t] * s + (1 - weights[t]) * new
    expected = U_B @ ((U_B.T @ G @ U_A) / (s + 0.1)) @ U_A.T
    assert_close(found[t], expected, 1e-11)


@pytest.mark.parametrize('fresh', [False, True])
def test_kfac_solves_with_the_factors_it_says(fresh: bool) -> None:
  steps = batches(5, 3, 2)
  simulator = Simulator('kfac', 0.1, every=1, basis_every=4, fresh=fresh)
  found = [simulator.step(t, *step) for t, step in enumerate(steps)]
  new = [ok.factors(*step[:2]) for step in steps]
  for t, used in enumerate((0, 1, 2, 3, 4) if fresh else (0, 1, 2, 2, 4)):
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


def test_ekfac_is_not_unique_where_an_eigenvalue_is_repeated() -> None:
  """Rank-deficient factors: the null space has no basis of its own, and later
  samples do reach into it. Compare with the library's basis handed over."""
  steps = batches(4, 6, 2, T=1)
  for step in steps:
    step[0], step[1] = step[0][:3], step[1][:3]
  del steps[1:3]  # Step 3 is the first that keeps the basis.
  own = Simulator('ekfac')
  own.step(0, *steps[0])
  turned = own.U_A.copy()
  turned[:, :2] = turned[:, :2] @ np.asarray([[0.6, -0.8], [0.8, 0.6]])
  other = Simulator('ekfac')
  other.step(0, *steps[0], (turned, own.U_B))
  found = [simulator.step(3, *steps[1]) for simulator in (own, other)]
  assert np.max(np.abs(found[0] - found[1])) > 1e-2


def test_unvec_undoes_vec() -> None:
  G = np.arange(6.0).reshape(2, 3)
  np.testing.assert_array_equal(vec(G), [0, 3, 1, 4, 2, 5])
  np.testing.assert_array_equal(unvec(vec(G), G.shape), G)
