"""The clamp of the block-diagonal recursion, against dense matrices."""

from __future__ import annotations

import numpy as np
import pytest

from gtddp_jax import terminal
from gtddp_jax.value import bellman

RNG = np.random.default_rng(3)


@pytest.mark.parametrize('rank', [1, 3])
@pytest.mark.parametrize('scale', [0.01, 10.0], ids=['inside', 'clamped'])
def test_the_factor_is_clamped_and_nothing_else_changes(
  rank: int, scale: float
) -> None:
  halves = RNG.normal(size=(2, 5, rank, rank + 1))
  s, n = np.einsum('abij,abkj->abik', halves, halves) * [[[[1]]], [[[scale]]]]
  root = np.asarray(terminal.square_root(s))
  np.testing.assert_allclose(np.einsum('bij,bkj->bik', root, root), s)
  new, factor = bellman._contract(root, n)
  least = np.min(factor)
  new = np.einsum('bij,bkj->bik', new, new)
  factors = np.eye(rank) - np.einsum('bji,bjk,bkl->bil', root, n, root)
  eigenvalues, vectors = np.linalg.eigh(factors)
  np.testing.assert_allclose(least, eigenvalues.min())
  clamped = np.einsum(
    'bij,bj,bkj->bik', vectors, np.maximum(eigenvalues, 0), vectors
  )
  expected = np.einsum('bij,bjk,blk->bil', root, clamped, root)
  np.testing.assert_allclose(new, expected, atol=1e-10 * np.abs(s).max())
  if scale < 1:  # away from the clamp it is the plain recursion
    assert least > 0
    np.testing.assert_allclose(new, s - s @ n @ s, atol=1e-10)
  else:
    assert least < 0
