"""``Q_uu^-1`` as an operator on gradients.

A first-order base has a diagonal. A Kronecker base is diagonal in a basis: with
``G`` the ``c x a`` matrix of a gradient,

    Q_uu^-1 G = V (D * (V^T G W)) W^T

where ``*`` is elementwise. KFAC has the damped roots of the factors in ``V``
and ``W`` and a number as ``D``; EKFAC has eigenvectors and a matrix. Players
who are updated jointly are blocks of one layer: ``G`` is then block-diagonal,
and ``V`` and ``W`` have one block of rows per player.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gtddp_jax import gradients as gradients_lib
from gtddp_jax import graph as graph_lib
from gtddp_jax.curvature import linalg

Array = jax.Array
Arrays = tuple[jax.Array, ...]


@dataclasses.dataclass(frozen=True)
class EigenbasisInverse:
  """The map ``G -> V (D * (V^T G W)) W^T``; one block per player.

  Attributes:
    out: blocks of ``V``, ``[c_p, C]`` (``[c]`` for a diagonal).
    into: blocks of ``W``, ``[a_p, A]`` (``[a]`` for a diagonal).
    scale: ``D``, ``[C, A]`` or a number.
  """

  out: Arrays
  into: Arrays
  scale: Array

  def rotate(self, rows: Array) -> Array:
    """``V^T G W``: rows ``[..., p]`` as matrices ``[..., C, A]``."""
    pieces = self._split(rows)
    if self._by_rows():
      turned = [
        linalg.right(g, w) for g, w in zip(pieces, self.into, strict=True)
      ]
      out = jnp.concatenate(self.out)
      return linalg.left(out, jnp.concatenate(turned, axis=-2))
    return functools.reduce(jnp.add, [
      linalg.right(linalg.left(v, g), w)
      for v, g, w in zip(self.out, pieces, self.into, strict=True)
    ])  # fmt: skip

  def _by_rows(self) -> bool:
    """Whether ``V^T (G W)``, with all players' rows at once, is cheaper."""
    if len(self.out) == 1:
      return False
    wide, long = self.out[0].shape[1], self.into[0].shape[1]
    sizes = [
      (v.shape[0], w.shape[0]) for v, w in zip(self.out, self.into, strict=True)
    ]
    by_rows = sum(c * a * long for c, a in sizes) + wide * wide * long
    return by_rows < sum(wide * a * (c + long) for c, a in sizes)

  def apply(
    self, rows: Array, packing: gradients_lib.Packing | None = None
  ) -> Array:
    """See ``Inverse``."""
    del packing
    rotated = self.rotate(rows.astype(self.scale.dtype))
    return self.back(linalg.broadcast_mul(self.scale, rotated))

  def back(self, matrices: Array) -> Array:
    """``V Y W^T``: ``[..., C, A]`` as rows ``[..., p]``, blocks end to end."""
    pieces = [
      linalg.right(
        linalg.left(linalg.transposed(v), matrices), linalg.transposed(w)
      ).reshape(*matrices.shape[:-2], -1)
      for v, w in zip(self.out, self.into, strict=True)
    ]
    return pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces, axis=-1)

  def on_factors(
    self, form: graph_lib.ClosedForm, factors: graph_lib.Factors
  ) -> graph_lib.OnFactors:
    """See ``Inverse``; for a single player."""
    x = form.turned(factors.x, self.into[0])
    h = linalg.right(factors.h, self.out[0])
    return graph_lib.OnFactors(x, h, self.scale, jnp.zeros(()))

  def scaled(self, factor: Array) -> EigenbasisInverse:
    """This operator times a number."""
    return dataclasses.replace(self, scale=self.scale * factor)

  def _split(self, rows: Array) -> list[Array]:
    """The matrix of each player, ``[..., c_p, a_p]``."""
    pairs = zip(self.out, self.into, strict=True)
    return split(rows, [(v.shape[0], w.shape[0]) for v, w in pairs])


jax.tree_util.register_dataclass(
  EigenbasisInverse, ['out', 'into', 'scale'], []
)


def split(rows: Array, sizes: Sequence[tuple[int, int]]) -> list[Array]:
  """Rows ``[..., p]`` as one matrix ``[..., c, a]`` for each of ``sizes``."""
  matrices, start = [], 0
  for c, a in sizes:
    piece = rows[..., start : start + c * a]
    matrices.append(piece.reshape(*rows.shape[:-1], c, a))
    start += c * a
  return matrices
