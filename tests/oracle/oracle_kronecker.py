"""Kronecker curvature with dense matrices: what the library must equal.

Plain loops, `np.kron` and `np.linalg.solve` in float64; nothing is shared with
the library. A layer's parameters are one matrix `W`, c x a, its last column the
bias. `vec` stacks columns, so that `(A kron B) vec(G) = vec(B G A')`.

  symbol    meaning                                   name below
  --------  ----------------------------------------  -------------------
  x         input rows (dense, or im2col), then a 1   rows, [B, T, a]
  h         cotangents at the layer's output, per     h, [B, R, T, c]
            sample and column, not divided by B
  G_i       sum over positions of h x', c x a         sample_gradients
  A, B      Kronecker factors                         factors
  M         KFAC, damped: (A + ..) kron (B + ..)      kfac_matrix
            EKFAC: U diag(s + gamma) U'               ekfac_matrix
            with U = U_A kron U_B
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from oracle_layers import LayerData, layer_data, matrix_of, rows, unvec, vec

Array = np.ndarray
Pair = tuple[Array, Array]
__all__ = [
  'LayerData',
  'Simulator',
  'block_diagonal',
  'carried_over',
  'corollary_7',
  'damped',
  'due',
  'ekfac_matrix',
  'ekfac_scale',
  'ekfac_solve',
  'factors',
  'kfac_matrix',
  'kfac_solve',
  'kronecker',
  'layer_data',
  'matrix_of',
  'norm_scale',
  'rows',
  'sample_gradients',
  'schur_matrix',
  'schur_solve',
  'theorem_3',
  'unvec',
  'vec',
]


# Statistics of one layer.


def sample_gradients(x: Array, h: Array) -> Array:
  """G_i of each sample and column, [B, R, c, a]."""
  return np.stack(
    [
      [
        sum(np.outer(h[i, r, t], x[i, t]) for t in range(x.shape[1]))
        for r in range(h.shape[1])
      ]
      for i in range(len(x))
    ]
  )


def factors(x: Array, h: Array, positions: str = 'expand') -> Pair:
  """A and B of one batch."""
  samples, T, a = x.shape
  R, c = h.shape[1], h.shape[3]
  A, B = np.zeros((a, a)), np.zeros((c, c))
  for i in range(samples):
    if positions == 'expand':
      for t in range(T):
        A += np.outer(x[i, t], x[i, t]) / (samples * T)
        for r in range(R):
          B += np.outer(h[i, r, t], h[i, r, t]) / samples
    else:
      assert positions == 'reduce'
      x_bar = sum(x[i, t] for t in range(T)) / T
      A += np.outer(x_bar, x_bar) / samples
      for r in range(R):
        h_bar = sum(h[i, r, t] for t in range(T))
        B += np.outer(h_bar, h_bar) / samples
  return A, B


# Curvature of one layer, as a matrix on vec(W).


def damped(A: Array, B: Array, damping: float) -> Pair:
  """Factored Tikhonov damping with the trace norm."""
  norm_A, norm_B = np.trace(A) / len(A), np.trace(B) / len(B)
  pi = np.sqrt(norm_A / norm_B) if norm_A > 0 and norm_B > 0 else 1.0
  root = np.sqrt(damping)
  return A + pi * root * np.eye(len(A)), B + root / pi * np.eye(len(B))


def kfac_matrix(A: Array, B: Array, damping: float = 0.0) -> Array:
  return np.kron(*damped(A, B, damping))


def kfac_solve(A: Array, B: Array, damping: float, G: Array) -> Array:
  return unvec(np.linalg.solve(kfac_matrix(A, B, damping), vec(G)), G.shape)


def ekfac_scale(U_A: Array, U_B: Array, G_i: Array) -> Array:
  """s, c x a: mean over samples, sum over columns, of ((U_A kron U_B)' g)^2."""
  s = np.zeros(len(U_A) * len(U_B))
  for sample in G_i:
    for G in sample:
      s += (np.kron(U_A, U_B).T @ vec(G)) ** 2 / len(G_i)
  return unvec(s, (len(U_B), len(U_A)))


def ekfac_matrix(U_A: Array, U_B: Array, s: Array, damping: float) -> Array:
  U = np.kron(U_A, U_B)
  return U @ np.diag(vec(s) + damping) @ U.T


def ekfac_solve(
  U_A: Array, U_B: Array, s: Array, damping: float, G: Array
) -> Array:
  M = ekfac_matrix(U_A, U_B, s, damping)
  return unvec(np.linalg.solve(M, vec(G)), G.shape)


def carried_over(s: Array, old: Pair, new: Pair) -> Array:
  """The diagonal of the old curvature in the new basis."""
  dense = ekfac_matrix(*old, s, 0.0)
  U = np.kron(*new)
  return unvec(np.diag(U.T @ dense @ U), s.shape)


def norm_scale(
  constraint: float, rate: float, pairs: Sequence[tuple[Array, Array]]
) -> float:
  """What scales all steps, from `(Q_u, M^-1 Q_u)` of each layer."""
  square = rate**2 * sum(np.sum(Q * step) for Q, step in pairs)
  return min(1.0, np.sqrt(constraint / square)) if square > 0 else 1.0


def due(t: int, every: int) -> bool:
  """Whether step t renews: every so many steps, and at 1, 2, 4, ... before."""
  early = [1]
  while early[-1] < every:
    early.append(2 * early[-1])
  return t % every == 0 or (t < every and t in early)


class Simulator:
  """One layer's running statistics; `kind` is 'kfac' or 'ekfac'.

  With `fresh` false, KFAC solves with the factors as they were when the basis
  was last renewed, with `fresh` true as they are now. `mask`, c x a, multiplies
  the per-sample gradients that s is estimated from.
  """

  def __init__(
    self,
    kind: str,
    damping: float = 1e-3,
    decay: float = 0.95,
    every: int = 10,
    basis_every: int = 50,
    positions: str = 'expand',
    largest: int = 4096,
    fresh: bool = False,
    mask: Array | float = 1.0,
  ):
    assert kind in ('kfac', 'ekfac')
    self.kind, self.damping, self.decay = kind, damping, decay
    self.every, self.basis_every = every, basis_every
    self.positions, self.largest = positions, largest
    self.fresh, self.mask = fresh, mask
    self.init()

  def init(self) -> None:
    self.renewals = 0
    self.A = self.B = self.U_A = self.U_B = self.s = np.zeros(())

  def observe(
    self, t: int, x: Array, h: Array, basis: Pair | None = None
  ) -> None:
    """Takes in step t's rows and cotangents. A basis that is given replaces
    this class's own, which is not unique where an eigenvalue is repeated."""
    if due(t, self.every):
      beta = min(self.decay, self.renewals / (self.renewals + 1))
      A, B = (self._kept(F) for F in factors(x, h, self.positions))
      self.A = beta * self.A + (1 - beta) * A
      self.B = beta * self.B + (1 - beta) * B
      self.renewals += 1
    if due(t, self.basis_every):
      old = self.U_A, self.U_B
      given = basis or (None, None)
      self.lambda_A, self.U_A = self._decomposed(self.A, given[0])
      self.lambda_B, self.U_B = self._decomposed(self.B, given[1])
      self.fixed = self.A, self.B
      if t > 0 and self.kind == 'ekfac':
        self.s = carried_over(self.s, old, (self.U_A, self.U_B))
    if self.kind == 'ekfac':
      beta = min(self.decay, t / (t + 1))
      G_i = sample_gradients(x, h) * self.mask
      s = ekfac_scale(self.U_A, self.U_B, G_i)
      self.s = beta * self.s + (1 - beta) * s

  def used(self) -> Pair:
    """The factors that KFAC and the blocks between players are built from."""
    return (self.A, self.B) if self.fresh else self.fixed

  def matrix(self) -> Array:
    if self.kind == 'kfac':
      return kfac_matrix(*self.used(), self.damping)
    return ekfac_matrix(self.U_A, self.U_B, self.s, self.damping)

  def root(self, eps: float) -> Array:
    """E: the identity, or what scales A kron B to EKFAC's curvature."""
    if self.kind == 'kfac':
      return np.eye(len(self.A) * len(self.B))
    safe_A = self.lambda_A + 10 * eps * len(self.A) * max(self.lambda_A)
    safe_B = self.lambda_B + 10 * eps * len(self.B) * max(self.lambda_B)
    product = np.outer(safe_B, safe_A)
    ratio = np.divide(
      self.s, product, out=np.zeros_like(product), where=product > 0
    )
    return ekfac_matrix(self.U_A, self.U_B, np.sqrt(ratio), 0.0)

  def step(
    self, t: int, x: Array, h: Array, G: Array, basis: Pair | None = None
  ) -> Array:
    """M^-1 G after step t's statistics."""
    self.observe(t, x, h, basis)
    return unvec(np.linalg.solve(self.matrix(), vec(G)), G.shape)

  def _kept(self, F: Array) -> Array:
    return F if len(F) <= self.largest else np.diag(np.diag(F))

  def _decomposed(self, F: Array, U: Array | None) -> Pair:
    if len(F) > self.largest:
      return np.diag(F), np.eye(len(F))
    if U is None:
      value, U = np.linalg.eigh(F)
      return np.maximum(value, 0), U
    U = np.asarray(U, np.float64)
    inside = U.T @ F @ U
    rest = inside - np.diag(np.diag(inside))
    assert np.max(np.abs(rest)) <= 1e-5 * np.max(np.abs(F)), 'no eigenbasis'
    assert np.max(np.abs(U.T @ U - np.eye(len(U)))) < 1e-5, 'not orthogonal'
    return np.maximum(np.diag(inside), 0), U


# Players whose outputs meet in one add.


def split(
  F: Array, heights: Sequence[int], widths: Sequence[int]
) -> list[list[Array]]:
  """The blocks of a matrix, by block row and block column."""
  down, across = np.cumsum(heights)[:-1], np.cumsum(widths)[:-1]
  return [np.split(band, across, axis=1) for band in np.split(F, down, axis=0)]


def block_diagonal(Gs: Sequence[Array]) -> Array:
  """One matrix with these on its diagonal."""
  zero = [[np.zeros((len(G), other.shape[1])) for other in Gs] for G in Gs]
  for p, G in enumerate(Gs):
    zero[p][p] = G
  return np.block(zero)


def kronecker(
  A: Array, B: Array, damping: float, Gs: Sequence[Array]
) -> list[Array]:
  """Theorem 3 on joint factors: the diagonal blocks of
  `B^-1 blockdiag(Gs) A^-1`, A and B damped."""
  step = kfac_solve(A, B, damping, block_diagonal(Gs))
  return _diagonal_blocks(step, Gs)


def _diagonal_blocks(step: Array, Gs: Sequence[Array]) -> list[Array]:
  parts = split(step, [len(G) for G in Gs], [G.shape[1] for G in Gs])
  return [parts[p][p] for p in range(len(Gs))]


def theorem_3(
  A: Array, B: Array, damping: float, Gs: Sequence[Array]
) -> list[Array]:
  """(25) and (27), written out with Schur complements for two players."""
  A, B = damped(A, B, damping)
  (A_uu, A_uv), (A_vu, A_vv) = split(A, *[[G.shape[1] for G in Gs]] * 2)
  (B_uu, B_uv), (B_vu, B_vv) = split(B, *[[len(G) for G in Gs]] * 2)
  inv = np.linalg.inv
  Q_u, Q_v = Gs
  A_u, B_u = A_uu - A_uv @ inv(A_vv) @ A_vu, B_uu - B_uv @ inv(B_vv) @ B_vu
  A_v, B_v = A_vv - A_vu @ inv(A_uu) @ A_uv, B_vv - B_vu @ inv(B_uu) @ B_uv
  step_u = Q_u + B_uv @ inv(B_vv) @ Q_v @ inv(A_vv) @ A_vu
  step_v = Q_v + B_vu @ inv(B_uu) @ Q_u @ inv(A_uu) @ A_uv
  return [inv(B_u) @ step_u @ inv(A_u), inv(B_v) @ step_v @ inv(A_v)]


def schur_matrix(
  A: Array,
  B: Array,
  shapes: Sequence[tuple[int, ...]],
  diagonal: Sequence[Array],
  roots: Sequence[Array],
) -> Array:
  """The joint system on the stacked vec(G_p): `diagonal[p]` on the diagonal,
  `E_p (A_pq kron B_pq) E_q` off it; `shapes[p]` is (c_p, a_p)."""
  A_pq = split(A, *[[a for _, a in shapes]] * 2)
  B_pq = split(B, *[[c for c, _ in shapes]] * 2)
  Q = []
  for p in range(len(shapes)):
    band = [
      roots[p] @ np.kron(A_pq[p][q], B_pq[p][q]) @ roots[q]
      for q in range(len(shapes))
    ]
    band[p] = diagonal[p]
    Q.append(band)
  return np.block(Q)


def schur_solve(Q: Array, Gs: Sequence[Array]) -> list[Array]:
  solution = np.linalg.solve(Q, np.concatenate([vec(G) for G in Gs]))
  ends = np.cumsum([G.size for G in Gs])[:-1]
  parts = zip(np.split(solution, ends), Gs, strict=True)
  return [unvec(part, G.shape) for part, G in parts]


def corollary_7(value: Array, damping: float) -> Array:
  """The eigenvalues of `Q_uu - Q_uv Q_vv^-1 Q_vu` for two players that share
  rows and cotangents, `value` those of the undamped curvature of one."""
  return damping * (2 * value + damping) / (value + damping)
