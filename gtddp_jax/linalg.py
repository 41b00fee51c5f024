"""Symmetric matrices: decompositions that never fail, many at once.

``eigh`` of a positive semi-definite matrix gives eigenvalues ``>= 0`` in at
least float32. Matrices of equal size are stacked and decomposed together. A
*side* of a Kronecker product is a matrix, or the diagonal of one, a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Spectrum(NamedTuple):
  """Eigenvalues and eigenvectors of one side.

  Attributes:
    values: ``[n]``, none negative.
    vectors: ``[n, n]``, one per column; ``[n]`` ones if the side is a diagonal.
  """

  values: Array
  vectors: Array


def spectra(sides: Sequence[Array]) -> list[Spectrum]:
  """The spectrum of each side; of equal sizes, in one batched ``eigh``."""
  found: dict[int, Spectrum] = {}
  sizes = dict.fromkeys(s.shape for s in sides if s.ndim == 2)
  for shape in sizes:
    which = [i for i, s in enumerate(sides) if s.shape == shape]
    stack = jnp.stack([sides[i] for i in which])
    with jax.default_matmul_precision('float32'):
      values, vectors = jnp.linalg.eigh(stack)
    for row, i in enumerate(which):
      found[i] = Spectrum(jnp.maximum(values[row], 0), vectors[row])
  for i, side in enumerate(sides):
    if side.ndim == 1:
      found[i] = Spectrum(jnp.maximum(side, 0), jnp.ones_like(side))
  return [found[i] for i in range(len(sides))]


def overlap(new: Array, old: Array) -> Array:
  """``(new^T old)^2``: how the eigenvectors of one side share directions."""
  if new.ndim == 1:
    return jnp.eye(new.shape[0], dtype=new.dtype)
  return jnp.square(new.T @ old)


def right(matrix: Array, side: Array) -> Array:
  """``matrix @ side`` over the last axis."""
  return times(side, matrix) if side.ndim == 1 else matrix @ side


def left(side: Array, matrix: Array) -> Array:
  """``side^T @ matrix`` over the last but one axis."""
  if side.ndim == 1:
    return times(side[:, None], matrix)
  return side.T @ matrix


def times(factor: Array, value: Array) -> Array:
  """``factor * value``, the last axes aligned."""
  missing = (1,) * (value.ndim - factor.ndim)
  return factor.reshape(*missing, *factor.shape) * value


def transposed(side: Array) -> Array:
  """``side^T``."""
  return side if side.ndim == 1 else side.T


def trace(side: Array) -> Array:
  """The sum of its diagonal."""
  return jnp.sum(side if side.ndim == 1 else jnp.diagonal(side))


def tikhonov(a: Array, b: Array, damping: Array | float) -> tuple[Array, Array]:
  """Damping of each side, ``pi sqrt(gamma)`` and ``sqrt(gamma) / pi``.

  Args:
    a: the left side of a Kronecker product, or its eigenvalues.
    b: the right side.
    damping: gamma of the product.

  Returns:
    What to add to the eigenvalues of ``a`` and ``b``. ``pi^2`` is the ratio of
    their mean eigenvalues (the trace norm), 1 where one of them vanishes.
  """
  mean_a, mean_b = trace(a) / a.shape[0], trace(b) / b.shape[0]
  both = (mean_a > 0) & (mean_b > 0)
  ratio = jnp.where(both, mean_a, 1) / jnp.where(both, mean_b, 1)
  root = jnp.sqrt(jnp.asarray(damping, ratio.dtype))
  pi = jnp.sqrt(ratio)
  return root * pi, root / pi
