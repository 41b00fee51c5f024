"""One decision's Kronecker curvature: running factors, their basis, and ``M``.

Every so many steps the factors ``A`` and ``B`` are averaged anew, and every so
many their eigenvectors ``U_A`` and ``U_B`` are renewed::

    KFAC    M = (A + pi sqrt(gamma) I) x (B + sqrt(gamma) / pi I)
    EKFAC   M = (U_A x U_B) (s + gamma) (U_A x U_B)^T
            s = E[(U_B^T G_i U_A)^2]

EKFAC's ``s`` is averaged at every step, and carried over into a new basis as
the diagonal of the old curvature there. Players who cooperate are one layer
with one basis ('kronecker', Theorem 3), or a basis each and their correlation
('schur').
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from gtddp_jax import gradients as gradients_lib
from gtddp_jax.curvature import linalg
from gtddp_jax.curvature.kronecker import factors as factors_lib
from gtddp_jax.curvature.kronecker import groups as groups_lib
from gtddp_jax.curvature.kronecker import inverse as inverse_lib
from gtddp_jax.curvature.kronecker import joint as joint_lib
from gtddp_jax.curvature.kronecker import squares

Array = jax.Array
T = TypeVar('T')


class Layout(NamedTuple):
  """What is known of a decision before the first batch.

  Attributes:
    out: c of each player.
    into: a of each player, with the 1 for a bias.
    input_group: for each player, the first one with the same input rows.
    separate_bases: whether each player keeps a basis of its own ('schur').
    identical: whether all players have equal inputs and cotangents.
    ekfac: whether eigenvalues are EKFAC's.
    diagonal_inputs: whether ``A`` is kept as a diagonal, whatever its size.
    groups: how many groups of outputs have a block each, of these sizes; all
      arrays of their ``Block`` have a leading axis of them. None for one block.
  """

  out: tuple[int, ...]
  into: tuple[int, ...]
  input_group: tuple[int, ...]
  separate_bases: bool
  identical: bool
  ekfac: bool
  diagonal_inputs: bool = False
  groups: int | None = None

  def frames(self) -> list[tuple[slice, slice]]:
    """Rows of ``B`` and ``A`` that each basis spans."""
    if not self.separate_bases:
      return [(slice(0, sum(self.out)), slice(0, sum(self.into)))]
    return list(zip(_slices(self.out), _slices(self.into), strict=True))


class Eigenbasis(NamedTuple):
  """A basis, and EKFAC's eigenvalues in it.

  Attributes:
    out: spectrum of ``B``.
    into: spectrum of ``A``.
    moment: ``s``, ``[C, A]``, or None.
  """

  out: linalg.Spectrum
  into: linalg.Spectrum
  moment: Array | None


class Block(NamedTuple):
  """State of one decision.

  Attributes:
    a: ``A``, or its diagonal.
    b: ``B``, or its diagonal.
    frames: one, or one per player.
    cross: correlation of pairs of players, in the order of pairs.
  """

  a: Array
  b: Array
  frames: tuple[Eigenbasis, ...]
  cross: tuple[joint_lib.Cross, ...]


def init(layout: Layout, largest: int, dtype: jnp.dtype) -> Block:
  """The state before the first step: no factors, the identity as basis."""

  # Made by NumPy: JAX would compile a program for every shape.
  def side(sizes: Sequence[int], *, diagonal: bool = False) -> Any:
    n = sum(sizes)
    return np.zeros((n,) if diagonal or n > largest else (n, n), dtype)

  a, b = side(layout.into, diagonal=layout.diagonal_inputs), side(layout.out)

  def spectrum(part: Any) -> linalg.Spectrum:
    n = part.shape[0]
    unit: Any = np.ones(n, dtype) if part.ndim == 1 else np.eye(n, dtype=dtype)
    return linalg.Spectrum(side([n], diagonal=True), unit)

  frames = []
  for rows, columns in layout.frames():
    out, into = spectrum(_part(b, rows)), spectrum(_part(a, columns))
    shape = (len(out.values), len(into.values))
    moment: Any = np.zeros(shape, dtype) if layout.ekfac else None
    frames.append(Eigenbasis(out, into, moment))
  block = Block(a, b, tuple(frames), ())
  lead = () if layout.groups is None else (layout.groups,)
  block = jax.tree.map(
    lambda v: jnp.array(np.broadcast_to(v, (*lead, *v.shape))), block
  )
  return block._replace(cross=_cross(layout, block))


def measured(
  layout: Layout,
  operator: gradients_lib.Sensitivity,
  columns: Array,
  statistics: factors_lib.Statistics,
) -> tuple[Array, Array]:
  """``A`` and ``B`` of a batch; ``columns``, ``[B, R, K]``, as for ``B``."""
  forms = [p.closed_form for p in operator.players if p.closed_form]
  factors = [p.factors() for p in operator.players]
  positions, largest = statistics.positions, statistics.largest
  first = sorted(set(layout.input_group))
  a = factors_lib.of_inputs(
    [forms[p] for p in first],
    [factors[p] for p in first],
    positions,
    whole=sum(layout.into) <= largest,
  )
  if len(first) < len(forms):
    parts = _slices([layout.into[p] for p in first])
    rows = np.concatenate(
      [np.r_[parts[first.index(p)]] for p in layout.input_group]
    )
    a = a[rows] if a.ndim == 1 else a[rows][:, rows]
  b = factors_lib.of_cotangents(
    forms, factors, positions, columns, whole=sum(layout.out) <= largest
  )
  return a, b


def averaged(old: Array, new: Array, decay: float, count: Array) -> Array:
  """A running average whose first steps count equally."""
  steps = count.astype(old.dtype)
  beta = jnp.minimum(decay, steps / (steps + 1))
  return beta * old + (1 - beta) * new.astype(old.dtype)


def finite(
  layouts: Sequence[Layout], new: list[Block], old: list[Block]
) -> list[Block]:
  """The new blocks if all factors and eigenvalues are finite, else the old."""
  pairs = zip(layouts, new, strict=True)
  numbers = [
    jnp.sum(_of_each(layout, _numbers)(block)) for layout, block in pairs
  ]
  fine = jnp.isfinite(jnp.sum(jnp.stack(numbers)))
  kept: list[Block] = jax.lax.cond(fine, lambda: new, lambda: old)
  return kept


def _numbers(block: Block) -> Array:
  """A number that is finite if all factors and eigenvalues are."""
  numbers = [linalg.trace(block.a), linalg.trace(block.b)]
  numbers += [
    jnp.sum(values)
    for frame in block.frames
    for values in (frame.out.values, frame.into.values)
  ]
  return jnp.sum(jnp.stack(numbers))


def _of_each(layout: Layout, function: Callable[..., T]) -> Callable[..., T]:
  """A function of one block (and more), of the block of each group."""
  return function if layout.groups is None else jax.vmap(function)


def renewed(layouts: Sequence[Layout], blocks: Sequence[Block]) -> list[Block]:
  """The blocks with eigenvectors of their present factors."""
  pairs = list(zip(layouts, blocks, strict=True))
  sides = [
    side
    for layout, block in pairs
    if layout.groups is None
    for side in _sides(layout, block)
  ]
  alone = iter(linalg.spectra(sides))
  result = []
  for layout, block in pairs:
    if layout.groups is None:
      spectra = [next(alone) for _ in range(2 * len(block.frames))]
    else:
      parts = jax.vmap(functools.partial(_sides, layout))(block)
      spectra = [linalg.spectra_of_groups(side) for side in parts]
    turn = functools.partial(_turned, layout)
    result.append(_of_each(layout, turn)(block, spectra))
  return result


def _sides(layout: Layout, block: Block) -> list[Array]:
  """``B`` and ``A`` of each frame."""
  return [
    part
    for rows, columns in layout.frames()
    for part in (_part(block.b, rows), _part(block.a, columns))
  ]


def _turned(
  layout: Layout, block: Block, spectra: Sequence[linalg.Spectrum]
) -> Block:
  """The block with these spectra of its ``_sides``."""
  frames = tuple(
    _carried(frame, Eigenbasis(out, into, frame.moment))
    for frame, out, into in zip(
      block.frames, spectra[::2], spectra[1::2], strict=True
    )
  )
  if layout.identical:  # up to rounding, which may turn a basis
    frames = frames[:1] * len(frames)
  block = block._replace(frames=frames)
  return block._replace(cross=_cross(layout, block))


def with_moment(
  layout: Layout,
  block: Block,
  operator: gradients_lib.Sensitivity,
  columns: Array,
  average: tuple[float, Array],
) -> Block:
  """The block with EKFAC's eigenvalues averaged over one more batch.

  Args:
    layout: of the block.
    block: as it was.
    operator: of the decision.
    columns: of the R directions, ``[B, R, K]``, see ``factors``.
    average: decay, and the count of batches so far.

  Returns:
    The block.
  """
  each = _of_each(layout, functools.partial(_bases, layout))(block)
  bases: Sequence[squares.Basis] = each
  if layout.groups is not None:
    bases = [groups_lib.Grouped(each[0])]
  found = squares.of_batch(operator, bases, columns)
  frames = tuple(
    frame._replace(moment=averaged(frame.moment, square, *average))
    for frame, square in zip(block.frames, found, strict=True)
    if frame.moment is not None
  )
  return block._replace(frames=frames)


def inverse(
  layout: Layout, block: Block, damping: float | Array
) -> inverse_lib.EigenbasisInverse | joint_lib.Joint | groups_lib.Grouped:
  """``M^-1``."""
  damped = _of_each(layout, lambda block: _inverses(layout, block, damping))
  players = damped(block)
  if layout.groups is not None:
    return groups_lib.Grouped(players[0])
  if not layout.separate_bases:
    return players[0]
  pairs = itertools.combinations(range(len(players)), 2)
  return joint_lib.Joint(
    players,
    tuple(
      _damping(frame, damping) if layout.identical else _coupling(frame)
      for frame in block.frames
    ),
    dict(zip(pairs, block.cross, strict=False)),
    jnp.ones((), block.a.dtype),
  )


def _inverses(
  layout: Layout, block: Block, damping: float | Array
) -> tuple[inverse_lib.EigenbasisInverse, ...]:
  """``M^-1`` of each frame by itself."""
  bases = _bases(layout, block)
  if layout.ekfac or layout.separate_bases:
    return tuple(
      dataclasses.replace(basis, scale=1 / _eigenvalues(frame, damping))
      for basis, frame in zip(bases, block.frames, strict=True)
    )
  (frame,), (basis,) = block.frames, bases
  more_a, more_b = linalg.tikhonov(frame.into.values, frame.out.values, damping)
  root_a = jax.lax.rsqrt(frame.into.values + more_a)
  root_b = jax.lax.rsqrt(frame.out.values + more_b)
  roots = inverse_lib.EigenbasisInverse(
    tuple(linalg.right(v, root_b) for v in basis.out),
    tuple(linalg.right(w, root_a) for w in basis.into),
    jnp.ones((), root_a.dtype),
  )
  return (roots,)


def _eigenvalues(frame: Eigenbasis, damping: float | Array) -> Array:
  """Of the damped ``M``, ``[C, A]``."""
  if frame.moment is not None:
    return frame.moment + damping
  more_a, more_b = linalg.tikhonov(frame.into.values, frame.out.values, damping)
  return jnp.outer(frame.out.values + more_b, frame.into.values + more_a)


def _damping(frame: Eigenbasis, damping: float | Array) -> Array:
  """What damping adds to the eigenvalues, without cancellation."""
  out, into = frame.out.values, frame.into.values
  if frame.moment is not None:
    return jnp.full_like(frame.moment, damping)
  more_a, more_b = linalg.tikhonov(into, out, damping)
  return jnp.outer(out + more_b, jnp.full_like(into, more_a)) + jnp.outer(
    jnp.full_like(out, more_b), into
  )


def _coupling(frame: Eigenbasis) -> Array:
  """``e`` of ``joint.Joint``, where the players do not coincide."""
  out, into, moment = frame.out.values, frame.into.values, frame.moment
  if moment is None:
    return jnp.ones((), out.dtype)

  def ridge(values: Array) -> Array:
    eps = float(jnp.finfo(values.dtype).eps)
    floor = 10 * eps * len(values) * jnp.max(values)
    return jnp.maximum(values + floor, jnp.finfo(values.dtype).tiny)

  return jnp.sqrt(moment / jnp.outer(ridge(out), ridge(into)))


def _carried(old: Eigenbasis, new: Eigenbasis) -> Eigenbasis:
  """The new frame with the old curvature's diagonal in it."""
  moment = old.moment
  if moment is not None:
    out, into = (
      linalg.overlap(now.vectors, before.vectors).T
      for now, before in ((new.out, old.out), (new.into, old.into))
    )
    moment = linalg.right(linalg.left(out, moment), into)
  return new._replace(moment=moment)


def _cross(layout: Layout, block: Block) -> tuple[joint_lib.Cross, ...]:
  if not layout.separate_bases or layout.identical:
    return ()
  spans, frames = layout.frames(), block.frames
  return tuple(
    joint_lib.cross_between(
      (frames[p].into.vectors, frames[q].into.vectors),
      block.a[spans[p][1], spans[q][1]],
      (frames[p].out.vectors, frames[q].out.vectors),
      block.b[spans[p][0], spans[q][0]],
    )
    for p, q in itertools.combinations(range(len(frames)), 2)
  )


def _bases(layout: Layout, block: Block) -> list[inverse_lib.EigenbasisInverse]:
  """The basis of each frame, scaled by one."""
  one = jnp.ones((), block.a.dtype)
  vectors = [(f.out.vectors, f.into.vectors) for f in block.frames]
  if layout.separate_bases or len(layout.out) == 1:
    return [inverse_lib.EigenbasisInverse((v,), (w,), one) for v, w in vectors]
  ((v, w),) = vectors
  return [
    inverse_lib.EigenbasisInverse(
      tuple(v[rows] for rows in _slices(layout.out)),
      tuple(w[rows] for rows in _slices(layout.into)),
      one,
    )
  ]


def _slices(sizes: Sequence[int]) -> list[slice]:
  ends = list(itertools.accumulate(sizes))
  return [slice(end - n, end) for end, n in zip(ends, sizes, strict=True)]


def _part(side: Array, rows: slice) -> Array:
  return side[rows] if side.ndim == 1 else side[rows, rows]
