"""Decompositions of symmetric matrices, and what damps them."""

from __future__ import annotations

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from gtddp_jax.curvature import linalg

MANY = """
import jax
from gtddp_jax.curvature import linalg

sides = [
  (lambda x: x @ x.T)(jax.random.normal(jax.random.key(i), (120 + i % 4,) * 2))
  for i in range(16)
]
spectra = jax.jit(linalg.spectra)
for _ in range(30):
  jax.block_until_ready(spectra(sides))
"""


def test_sides_of_all_sizes_are_decomposed() -> None:
  rng = np.random.default_rng(0)
  sizes = [3, 5, 3, 4, 5]
  sides = [rng.normal(size=(n, n)) for n in sizes]
  sides = [jnp.asarray(s @ s.T) for s in sides]
  sides.insert(2, jnp.array([2.0, 0.0, -1e-9]))
  for side, (values, vectors) in zip(sides, linalg.spectra(sides), strict=True):
    assert (values >= 0).all()
    if side.ndim == 1:
      assert (vectors == 1).all()
      np.testing.assert_allclose(values, side, atol=1e-8)
    else:
      np.testing.assert_allclose(
        vectors @ jnp.diag(values) @ vectors.T, side, atol=1e-10
      )


def test_many_decompositions_at_once_come_to_an_end() -> None:
  """Batched calls that run at the same time never would (jaxlib 0.10)."""
  subprocess.run([sys.executable, '-c', MANY], check=True, timeout=240)


def test_damping_is_shared_in_proportion() -> None:
  a, b = jnp.diag(jnp.array([8.0, 0.0])), jnp.array([1.0, 1.0])
  more_a, more_b = linalg.tikhonov(a, b, 0.01)
  assert more_a * more_b == pytest.approx(0.01)
  assert more_a / more_b == pytest.approx(4.0)
  for part in linalg.tikhonov(jnp.zeros((2, 2)), b, 0.01):
    assert part == pytest.approx(0.1)
