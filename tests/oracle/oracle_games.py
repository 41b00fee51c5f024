"""The running statistics of players of a joint update, with dense matrices.

See `oracle_kronecker` for the symbols.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from oracle_kronecker import (
  Array,
  Pair,
  Simulator,
  block_diagonal,
  ekfac_matrix,
  kfac_matrix,
  schur_matrix,
  unvec,
  vec,
)


class Game:
  """Players' running statistics; `cooperation` is 'none', 'kronecker' or
  'schur', `options` those of `Simulator`.

  With 'kronecker' and EKFAC, `joint_samples` says what s is the mean square of:
  the whole G_i of the joint layer, or (False) its diagonal blocks alone. With
  'schur', `coincide` says that the players share rows and cotangents, so that
  the blocks between them are the curvature itself (Corollary 7).
  """

  def __init__(
    self,
    cooperation: str,
    shapes: Sequence[tuple[int, ...]],
    kind: str,
    joint_samples: bool = True,
    coincide: bool = False,
    eps: float = float(np.finfo(np.float64).eps),
    **options: Any,
  ):
    assert cooperation in ('none', 'kronecker', 'schur')
    self.cooperation, self.shapes, self.eps = cooperation, shapes, eps
    self.coincide = coincide
    self.players = [Simulator(kind, **options) for _ in shapes]
    if cooperation == 'kronecker' and not joint_samples:
      options['mask'] = block_diagonal([np.ones(shape) for shape in shapes])
    joint_kind = kind if cooperation == 'kronecker' else 'kfac'
    # A block between a side that keeps its diagonal and another is undefined.
    largest = max(max(shape) for shape in shapes)
    if cooperation == 'schur':
      assert largest <= self.players[0].largest
      options['largest'] = largest * len(shapes)
    self.joint = Simulator(joint_kind, **options)

  def observe(
    self,
    t: int,
    xs: Sequence[Array],
    hs: Sequence[Array],
    bases: Sequence[Pair | None] | None = None,
  ) -> None:
    """Takes in step t's rows and cotangents. `bases` holds one a player, or
    with 'kronecker' the joint layer's alone."""
    bases = bases or [None] * len(xs)
    x, h = np.concatenate(xs, axis=2), np.concatenate(hs, axis=3)
    if self.cooperation == 'kronecker':
      self.joint.observe(t, x, h, bases[0])
      return
    for player, x_p, h_p, basis in zip(
      self.players, xs, hs, bases, strict=True
    ):
      player.observe(t, x_p, h_p, basis)
    if self.cooperation == 'schur':
      self.joint.observe(t, x, h)

  def inverse(self) -> Array:
    """The inverse curvature on the stacked vec(G_p)."""
    if self.cooperation == 'kronecker':
      inside = vec(block_diagonal([np.ones(shape) for shape in self.shapes]))
      whole = np.linalg.inv(self.joint.matrix())[inside > 0][:, inside > 0]
      # vec of the joint matrix walks through player after player.
      return whole
    own = [player.matrix() for player in self.players]
    if self.cooperation == 'none':
      return np.linalg.inv(block_diagonal(own))
    if self.coincide:
      off = self.players[0]
      between = (
        kfac_matrix(*off.used())
        if off.kind == 'kfac'
        else ekfac_matrix(off.U_A, off.U_B, off.s, 0.0)
      )
      Q = np.tile(between, (len(own), len(own)))
      Q += block_diagonal([M - between for M in own])
      return np.linalg.inv(Q)
    roots = [player.root(self.eps) for player in self.players]
    return np.linalg.inv(
      schur_matrix(*self.joint.used(), self.shapes, own, roots)
    )

  def solve(self, Gs: Sequence[Array]) -> list[Array]:
    """Each player's M^-1 G."""
    steps = self.inverse() @ np.concatenate([vec(G) for G in Gs])
    ends = np.cumsum([G.size for G in Gs])[:-1]
    parts = zip(np.split(steps, ends), Gs, strict=True)
    return [unvec(part, G.shape) for part, G in parts]

  def step(
    self,
    t: int,
    xs: Sequence[Array],
    hs: Sequence[Array],
    Gs: Sequence[Array],
    bases: Sequence[Pair | None] | None = None,
  ) -> list[Array]:
    """Each player's M^-1 G after step t's statistics."""
    self.observe(t, xs, hs, bases)
    return self.solve(Gs)
