"""SOAP for the oracle: every matrix dense, every Kronecker product formed.

For one control, a matrix `w` and a vector `b` in the order of a dict (b, w):

  L  = b2 L + (1 - b2) G G'             R  = b2 R + (1 - b2) G' G
  U  = eigenvectors of L and R          z  = (U_L x U_R)' vec(G)
  nu = b2 nu + (1 - b2) z^2             M  = U (sqrt(nu^) + eps) U'

with `U = U_L x U_R`, rows of `w` first, and `U = I` for a vector. The first
gradient only makes the eigenvectors: the rate is then zero, which is the
curvature `1e30` here. `nu^` and the direction are corrected for the average's
start at zero, counted from the second gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from oracle_bases import Base

Array = np.ndarray
NOTHING_MOVES = 1e30


class Leaf(NamedTuple):
  """What SOAP remembers of one leaf."""

  shape: tuple[int, ...]
  L: Array
  R: Array
  U: Array
  nu: Array
  mu: Array


class SoapMemory(NamedTuple):
  """What SOAP remembers of one control."""

  count: int
  leaves: tuple[Leaf, ...]


def start(shapes: Sequence[tuple[int, ...]]) -> SoapMemory:
  """Of leaves of these shapes, matrices or vectors, in a control's order."""
  leaves = []
  for shape in shapes:
    m, n = shape if len(shape) == 2 else (1, shape[0])
    size = m * n
    leaves.append(
      Leaf(
        shape,
        np.zeros((m, m)),
        np.zeros((n, n)),
        np.eye(size),
        np.zeros(size),
        np.zeros(size),
      )
    )
  return SoapMemory(0, tuple(leaves))


def _pieces(memory: SoapMemory, q: Array) -> list[Array]:
  ends = np.cumsum([leaf.nu.size for leaf in memory.leaves])
  return np.split(q, ends[:-1])


def soap(
  rate: float,
  b1: float = 0.95,
  b2: float = 0.95,
  eps: float = 1e-8,
  period: int = 10,
) -> Base:
  """M as above; E[q] as direction."""

  def curvature(memory: SoapMemory, q: Array) -> tuple[Array, SoapMemory]:
    count = memory.count
    M = np.zeros((len(q), len(q)))
    leaves, at = [], 0
    for leaf, g in zip(memory.leaves, _pieces(memory, q), strict=True):
      rows = slice(at, at + len(g))
      at += len(g)
      nu = leaf.nu
      if count == 0:
        M[rows, rows] = NOTHING_MOVES * np.eye(len(g))
      else:
        nu = b2 * nu + (1 - b2) * (leaf.U.T @ g) ** 2
        root = np.sqrt(nu / (1 - b2**count)) + eps
        M[rows, rows] = leaf.U @ np.diag(root) @ leaf.U.T
      leaves.append(_renewed(leaf, g, count)._replace(nu=nu))
    return M, SoapMemory(count + 1, tuple(leaves))

  def _renewed(leaf: Leaf, g: Array, count: int) -> Leaf:
    if len(leaf.shape) < 2:
      return leaf
    G = g.reshape(leaf.shape)
    L = b2 * leaf.L + (1 - b2) * G @ G.T
    R = b2 * leaf.R + (1 - b2) * G.T @ G
    U = leaf.U
    if count == 0:
      left, right = (np.linalg.eigh(side)[1][:, ::-1] for side in (L, R))
      U = np.kron(left, right)
    elif count % period == 0:
      # QR of a Kronecker product is the product of the QRs, up to signs.
      U = np.linalg.qr(np.kron(L, R) @ U)[0]
    return leaf._replace(L=L, R=R, U=U)

  def direction(memory: SoapMemory, q: Array) -> tuple[Array, SoapMemory]:
    # The curvature is observed first, so the count is already this step's.
    count = memory.count - 1
    leaves, means = [], []
    for leaf, g in zip(memory.leaves, _pieces(memory, q), strict=True):
      mu = leaf.mu
      if count > 0:
        mu = b1 * mu + (1 - b1) * g
      means.append(mu / (1 - b1 ** max(count, 1)))
      leaves.append(leaf._replace(mu=mu))
    return np.concatenate(means), memory._replace(leaves=tuple(leaves))

  return Base(rate, curvature, direction)
