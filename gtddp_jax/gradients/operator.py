"""Sensitivities: the per-sample gradients of one decision, as an operator.

``g^{i,r} = F_u^T P_{t+1}^{i,r}`` is the gradient of control ``t`` that
direction ``r`` of sample ``i`` gives. A decision is one control, or those of
several players of a joint update, end to end. The recursions need four
products, with ``Q_uu^-1`` an ``Inverse``::

    combine(w)      (1/B) sum_i sum_r w_i^r g^{i,r}     like u
    directional(k)  g^{i,r} . k                         [B, R]
    gram(inverse)   g^{i,r} . Q_uu^-1 g^{i,s}           [B, R, R]
    kernel(inverse) g^{i,r} . Q_uu^-1 g^{j,s}           [B, R, B, R]

``combine`` is a back-propagation of re-weighted samples and ``directional`` a
forward derivative. What else is *wanted* is said when the operator is made, and
chooses among three forms, the cheapest that fits its memory:

- through the factors: products of ``x`` and ``h``, without any gradient;
- kept: the rows ``g`` are formed once, and all four are matrix products;
- in blocks of samples, whose rows are formed again for each use.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from gtddp_jax import graph as graph_lib
from gtddp_jax.gradients import control as control_lib
from gtddp_jax.gradients import packing

Array = jax.Array
Arrays = tuple[jax.Array, ...]
Data = list[list[control_lib.Sample]]
MEMORY = 2**28  # bytes, if nothing else is asked


class Wanted(NamedTuple):
  """What an operator will be asked for, besides sums and derivatives.

  Attributes:
    product: 'gram', 'kernel', or None for neither.
    factor_form: what ``Q_uu^-1`` is between the factors ``x`` and ``h``:
      'number', 'matrix' (a number for each pair of their entries), or None
      where it can only be applied to gradients.
    rows: whether the rows themselves are read, as by ``total``.
    memory: bytes that gradients may take at once.
  """

  product: str | None = None
  factor_form: str | None = None
  rows: bool = False
  memory: int = MEMORY


class Sensitivity:
  """The operator ``G_t`` of one decision (see the module's head).

  Attributes:
    players: who decide.
    control: flat parameter indices of all their leaves.
    batch: B.
    rank: R.
  """

  def __init__(
    self,
    players: Sequence[control_lib.Player],
    batch: int,
    rank: int,
    wanted: Wanted,
  ):
    """Chooses how products are computed.

    Args:
      players: one, or several in program order.
      batch: B.
      rank: R.
      wanted: what it will be asked for.
    """
    self.players = tuple(players)
    self.control = tuple(i for p in self.players for i in p.indices)
    self.batch, self.rank = batch, rank
    self.packing = packing.Together(tuple(p.packing for p in self.players))
    self._size = sum(p.size for p in self.players)
    numbers = max(1, wanted.memory // self.players[0].itemsize)
    size = max(1, rank * self._size)  # of the rows of one sample
    self._most = max(1, numbers // size)  # samples of a block
    self._through_factors = self._in_factors(wanted, numbers)
    self._kept: Array | None = None  # [B, R, p]
    reads_rows = wanted.rows or wanted.product is not None
    if self._through_factors is None and reads_rows and self._most >= batch:
      self._kept = self._rows([p.samples() for p in self.players])

  def _in_factors(
    self, wanted: Wanted, numbers: int
  ) -> graph_lib.ClosedForm | None:
    """The layer, if products of its factors will do, are cheaper and fit."""
    form = self.players[0].closed_form
    if not (wanted.product and wanted.factor_form and form):
      return None
    ask = graph_lib.Ask(
      self.batch,
      self.rank,
      self.players[0].positions,
      matrix=wanted.factor_form == 'matrix',
      cross=wanted.product == 'kernel',
      numbers=numbers,
    )
    several = len(self.players) > 1
    return None if several or not form.through_factors(ask) else form

  def combine(self, weights: Array) -> Arrays:
    """``(1/B) sum_i sum_r w_i^r g^{i,r}``; weights ``[B, R]``."""
    weights = weights / self.batch
    if self._kept is not None:
      kept = self._kept.reshape(self.batch * self.rank, self._size)
      return self.packing.unpack(weights.astype(kept.dtype).ravel() @ kept)
    return tuple(g for p in self.players for g in p.combine(weights))

  def directional(self, k: Arrays) -> Array:
    """``g^{i,r} . k``, ``[B, R]``."""
    if self._kept is not None:
      return self._kept @ self.packing.pack(k).astype(self._kept.dtype)
    return self._sum(lambda player, u: player.directional(u), k)

  def shared_change(self, k: Arrays, after: int) -> Array:
    """What uses after stage ``after`` make of a change ``k``, ``[B, R]``."""
    return self._sum(
      lambda player, piece: player.shared_change(piece, after), k
    )

  def _sum(self, function: Callable[..., Array], k: Arrays) -> Array:
    pieces = packing.divide(k, [len(p.indices) for p in self.players])
    return functools.reduce(jnp.add, map(function, self.players, pieces))

  def gram(self, inverse: Inverse) -> Array:
    """``g^{i,r} . Q_uu^-1 g^{i,s}``, ``[B, R, R]``."""
    form = self._through_factors
    if form is not None:
      return form.gram(self._on_factors(form, inverse))

    def products(g: Array) -> Array:  # [R, p] of one sample
      return inverse.apply(g, self.packing) @ g.T

    if self._kept is None:
      return self.over_blocks(lambda rows: jax.vmap(products)(rows))
    if self.rank > 1:
      return graph_lib.over_samples(products, self._kept)
    g = self._kept[:, 0]
    products_of = jnp.einsum('bp,bp->b', g, inverse.apply(g, self.packing))
    return products_of[:, None, None]

  def kernel(self, inverse: Inverse) -> Array:
    """``g^{i,r} . Q_uu^-1 g^{j,s}``, ``[B, R, B, R]``.

    In blocks, gradients are formed again for every pair of blocks.
    """
    form = self._through_factors
    if form is not None:
      return form.cross_gram(self._on_factors(form, inverse))

    def flat(g: Array) -> Array:
      return g.reshape(math.prod(g.shape[:-1]), self._size)

    def from_left(block: Data) -> Array:
      left = inverse.apply(flat(self._rows(block)), self.packing)
      columns = jax.lax.map(
        lambda right: left @ flat(self._rows(right)).T, blocks
      )  # [blocks, b R, b R]
      return jnp.moveaxis(columns, 0, 1).reshape(columns.shape[1], -1)

    if self._kept is not None:
      g = flat(self._kept)
      products = inverse.apply(g, self.packing) @ g.T
    else:
      blocks = self._blocks()
      products = jax.lax.map(from_left, blocks)
    return products.reshape(self.batch, self.rank, self.batch, self.rank)

  def over_blocks(self, function: Callable[[Array], Array]) -> Array:
    """A function of rows ``[b, R, p]``, over all samples ``[B, ...]``.

    The rows are those kept, or are formed block by block.
    """
    if self._kept is not None:
      return function(self._kept)
    found = jax.lax.map(lambda b: function(self._rows(b)), self._blocks())
    return found.reshape(self.batch, *found.shape[2:])

  def total(self, function: Callable[[Array, Array], Any], extra: Array) -> Any:
    """The sum over blocks of a function of rows and of ``extra`` ``[b, ...]``.

    The rows ``[b, R, p]`` are those kept, or are formed block by block.
    """
    if self._kept is not None:
      return function(self._kept, extra)
    blocks = self._blocks()
    count = jax.tree.leaves(blocks)[0].shape[0]
    extras = extra.reshape(count, -1, *extra.shape[1:])
    found = jax.lax.map(
      lambda b: function(self._rows(b[0]), b[1]), (blocks, extras)
    )
    return jax.tree.map(lambda v: v.sum(axis=0), found)

  def _on_factors(
    self, form: graph_lib.ClosedForm, inverse: Inverse
  ) -> graph_lib.OnFactors:
    """What ``inverse`` makes of the factors, where no gradient is formed."""
    factors = form.factors(*self.players[0].factors())
    return inverse.on_factors(form, factors)

  def _rows(self, data: Data) -> Array:
    rows = [p.rows(d) for p, d in zip(self.players, data, strict=True)]
    return rows[0] if len(rows) == 1 else jnp.concatenate(rows, axis=-1)

  def _blocks(self) -> Data:
    """The samples in blocks whose gradients fit, leading axis = blocks."""
    sizes = range(1, min(self._most, self.batch) + 1)
    block = max(b for b in sizes if self.batch % b == 0)
    blocks: Any = jax.tree.map(
      lambda v: v.reshape(self.batch // block, block, *v.shape[1:]),
      [p.samples() for p in self.players],
    )
    return blocks


class Inverse(Protocol):
  """``Q_uu^-1`` of one control."""

  def apply(self, rows: Array, packing: packing.Packing) -> Array:
    """``Q_uu^-1`` times each row of ``[..., p]``."""

  def on_factors(
    self, form: graph_lib.ClosedForm, factors: graph_lib.Factors
  ) -> graph_lib.OnFactors:
    """The same for rows that are given by their factors."""
