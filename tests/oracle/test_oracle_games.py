"""The oracle of games against statements that need no library."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import oracle_kronecker as ok
import pytest
from kronecker_cases import draw
from oracle_games import Game
from oracle_kronecker import Simulator, vec

pytestmark = pytest.mark.once

Array = np.ndarray


def assert_close(
  actual: Array, expected: Array, tolerance: float = 1e-12
) -> None:
  scale = max(1.0, np.max(np.abs(expected)))
  np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


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
  options = {'damping': 0.05, 'every': 1, 'basis_every': 4}
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
    for turn, t in enumerate((0, 3)):  # Step 3 keeps the basis.
      # The rows turn from one direction to another between the two steps.
      scale = np.where(np.arange(3) == turn, 10.0, 0.1)
      x = np.asarray(draw(9, 1, 3, seed=turn)) * scale
      h = np.asarray(draw(9, 1, 1, 2, seed=9 + turn))
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


def test_joint_samples_and_their_blocks_differ() -> None:
  """EKFAC's s on the joint layer: of the whole G_i, or of blockdiag(G_i)."""
  xs, hs, Gs = apart()
  steps = [
    Game('kronecker', [(2, 3), (2, 2)], 'ekfac', whole).step(0, xs, hs, Gs)
    for whole in (True, False)
  ]
  assert np.max(np.abs(steps[0][0] - steps[1][0])) > 1e-2
