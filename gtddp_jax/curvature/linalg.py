"""Symmetric matrices: their decompositions, many at once.

``eigh`` of a positive semi-definite matrix gives eigenvalues ``>= 0``. Matrices
of equal size are stacked and decomposed together, but for CPUs: there a batch
is no faster, and two batched calls at once wait for each other's threads for
ever (jaxlib 0.10). A *side* of a Kronecker product is a matrix, or the diagonal
of one, a vector.
"""

from __future__ import annotations

import math
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
  for shape in dict.fromkeys(side.shape for side in sides):
    which = [i for i, side in enumerate(sides) if side.shape == shape]
    equal = [sides[i] for i in which]
    found.update(zip(which, _decomposed(equal), strict=True))
  return [found[i] for i in range(len(sides))]


def _decomposed(sides: list[Array]) -> list[Spectrum]:
  """The spectra of sides of equal shape."""
  if sides[0].ndim == 1:
    return [Spectrum(jnp.maximum(s, 0), jnp.ones_like(s)) for s in sides]

  def one_by_one(sides: list[Array]) -> list[Spectrum]:
    return [Spectrum(*jnp.linalg.eigh(side)) for side in sides]

  def at_once(sides: list[Array]) -> list[Spectrum]:
    values, vectors = jnp.linalg.eigh(jnp.stack(sides))
    return [Spectrum(values[i], vectors[i]) for i in range(len(sides))]

  with jax.default_matmul_precision('float32'):
    spectra = jax.lax.platform_dependent(sides, cpu=one_by_one, default=at_once)
  return [s._replace(values=jnp.maximum(s.values, 0)) for s in spectra]


def spectra_of_groups(sides: Array) -> Spectrum:
  """The spectra of sides of one kind, along a leading axis.

  Args:
    sides: matrices ``[n, m, m]``, or diagonals ``[n, m]``.

  Returns:
    Their spectra, with the same leading axis.
  """
  if sides.ndim == 2:
    return Spectrum(jnp.maximum(sides, 0), jnp.ones_like(sides))

  def one_by_one(sides: Array) -> Spectrum:
    return jax.lax.map(lambda side: Spectrum(*jnp.linalg.eigh(side)), sides)

  with jax.default_matmul_precision('float32'):
    found = jax.lax.platform_dependent(
      sides,
      cpu=one_by_one,
      default=lambda sides: Spectrum(*jnp.linalg.eigh(sides)),
    )
  return found._replace(values=jnp.maximum(found.values, 0))


def overlap(new: Array, old: Array) -> Array:
  """``(new^T old)^2``: how the eigenvectors of one side share directions.

  Those of a diagonal are the same for ever: ones, that ``left`` and ``right``
  take for the identity, which is not formed.
  """
  return new if new.ndim == 1 else jnp.square(new.T @ old)


def right(matrix: Array, side: Array) -> Array:
  """``matrix @ side`` over the last axis."""
  return broadcast_mul(side, matrix) if side.ndim == 1 else matrix @ side


def left(side: Array, matrix: Array) -> Array:
  """``side^T @ matrix`` over the last but one axis."""
  if side.ndim == 1:
    return broadcast_mul(side[:, None], matrix)
  return side.T @ matrix


def sum_leading(value: Array, axes: int) -> Array:
  """The sum over so many leading axes.

  As a product, which on a CPU is ten times faster than XLA's sum.
  """
  rows = value.reshape(-1, math.prod(value.shape[axes:]))
  ones = jnp.ones((rows.shape[0],), value.dtype)
  with jax.default_matmul_precision('float32'):
    return (ones @ rows).reshape(value.shape[axes:])


def broadcast_mul(factor: Array, value: Array) -> Array:
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
