"""The joint block system of players updated jointly (``'schur'``).

Player ``p`` has the curvature ``M_p``, diagonal in its own basis with entries
``D_p``; two players are coupled by ``E_p (A_pq x B_pq) E_q``. In the players'
bases, with ``z_p`` the gradients and ``y_p`` the steps::

    D_p y_p + sum_{q != p} e_p (B_pq (e_q y_q) A_qp) = z_p

``e = 1`` for KFAC and ``sqrt(s / (lambda_A lambda_B))`` for EKFAC, whose
corrected eigenvalues ``s`` so scale the correlation as well. Players of equal
input and equal cotangent (Corollary 7) share a basis in which the system is
one of numbers, ``(D - o) y_p + o sum_q y_q = z_p``; else it is solved by
conjugate gradients, preconditioned by ``D``, to a relative residual of
``eps^(3/4)`` over all gradients that are asked for at once.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.sparse import linalg as sparse

from gtddp_jax import gradients as gradients_lib
from gtddp_jax import graph as graph_lib
from gtddp_jax.curvature import linalg
from gtddp_jax.curvature.kronecker import inverse as inverse_lib

Array = jax.Array
Arrays = tuple[jax.Array, ...]
MOST_ITERATIONS = 200


class Cross(NamedTuple):
  """The correlation of players ``p < q`` in their bases.

  Attributes:
    into: ``U_A,p^T A_pq U_A,q``.
    out: ``U_B,p^T B_pq U_B,q``.
  """

  into: Array
  out: Array


@dataclasses.dataclass(frozen=True)
class Joint:
  """``Q_uu^-1`` of several players, who are updated jointly.

  Attributes:
    players: ``M_p^-1`` of each alone, with ``1 / D_p`` as its scale.
    coupling: ``e_p`` of each, a number or like ``D_p``; where the players
      coincide, ``D - o``.
    cross: by pair ``(p, q)``, ``p < q``; empty where the players coincide.
    factor: the learning rate.
  """

  players: tuple[inverse_lib.EigenbasisInverse, ...]
  coupling: Arrays
  cross: dict[tuple[int, int], Cross]
  factor: Array

  def scaled(self, factor: Array) -> Joint:
    """This operator times a number."""
    return dataclasses.replace(self, factor=self.factor * factor)

  def apply(
    self, rows: Array, packing: gradients_lib.Packing | None = None
  ) -> Array:
    """See ``gradients.Inverse``."""
    del packing
    sizes = [(p.out[0].shape[0], p.into[0].shape[0]) for p in self.players]
    wide = rows.astype(self.factor.dtype)
    pairs = zip(self.players, inverse_lib.split(wide, sizes), strict=True)
    z = tuple(p.rotate(g.reshape(*g.shape[:-2], -1)) for p, g in pairs)
    y = self._conjugate_gradients(z) if self.cross else self._by_numbers(z)
    steps = [p.back(v) for p, v in zip(self.players, y, strict=True)]
    return self.factor * jnp.concatenate(steps, axis=-1)

  def on_factors(
    self, form: graph_lib.ClosedForm, factors: graph_lib.Factors
  ) -> graph_lib.OnFactors:
    """Is for single players, and never asked for here."""
    raise NotImplementedError

  def _by_numbers(self, z: Arrays) -> Arrays:
    own, n, times = self.coupling[0], len(z), linalg.broadcast_mul
    mean = sum(z[1:], start=z[0]) / n
    diagonal = 1 / self.players[0].scale
    together = times(1 / (n * diagonal - (n - 1) * own), mean)
    # Gradients of players who coincide differ by rounding, if at all.
    least = 10 * float(jnp.finfo(diagonal.dtype).eps) * diagonal
    apart = 1 / jnp.maximum(own, least)
    return tuple(together + times(apart, v - mean) for v in z)

  def _conjugate_gradients(self, z: Arrays) -> Arrays:
    tolerance = float(jnp.finfo(z[0].dtype).eps) ** 0.75
    solved, _ = sparse.cg(
      self._times_curvature,
      z,
      tol=tolerance,
      maxiter=MOST_ITERATIONS,
      M=lambda r: tuple(
        linalg.broadcast_mul(p.scale, v)
        for p, v in zip(self.players, r, strict=True)
      ),
    )
    return tuple(solved)

  def _times_curvature(self, y: Arrays) -> Arrays:
    times = linalg.broadcast_mul
    scaled = [times(e, v) for e, v in zip(self.coupling, y, strict=True)]
    coupled = [jnp.zeros_like(v) for v in y]
    for (p, q), (into, out) in self.cross.items():
      coupled[p] += linalg.left(out.T, scaled[q]) @ into.T
      coupled[q] += linalg.left(out, scaled[p]) @ into
    return tuple(
      times(1 / p.scale, v) + times(e, more)
      for p, v, e, more in zip(
        self.players, y, self.coupling, coupled, strict=True
      )
    )


def cross_between(
  into: tuple[Array, Array], a: Array, out: tuple[Array, Array], b: Array
) -> Cross:
  """``Cross`` from the bases of two players and ``A_pq``, ``B_pq``."""
  with jax.default_matmul_precision('float32'):
    return Cross(
      linalg.left(into[0], a) @ into[1], linalg.left(out[0], b) @ out[1]
    )
