"""Embeddings: rows of a table, taken by integers.

A dense layer whose input row has a 1 in the place ``v_t`` of the token and 0
elsewhere, which is never formed. A sample's gradient has a row for each of its
tokens, the sum of the cotangents ``h_t`` where that token is; so products of
gradients are sums over places of equal tokens::

    g_i . g_j = sum_{t,u} [v_{i,t} = v_{j,u}] h_{i,t} . h_{j,u}

and ``E[x x^T]`` is the diagonal of how often each token is met.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from gtddp_jax.graph import loops
from gtddp_jax.graph import program as jaxprs
from gtddp_jax.graph.closed_forms.form import (
  Ask,
  Body,
  ClosedForm,
  Factors,
  OnFactors,
  is_real,
)

Array = jax.Array
Arrays = tuple[jax.Array, ...]
Shape = tuple[int, ...]

# What a token outside of the table reads: 'clip' the nearest row, 'drop' none.
_MODES = {
  jax.lax.GatherScatterMode.CLIP: 'clip',
  jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS: 'clip',
  jax.lax.GatherScatterMode.FILL_OR_DROP: 'drop',
}


class Tokens(NamedTuple):
  """Input rows: a number in the place of a token, 0 elsewhere.

  Attributes:
    which: the tokens, ``[B, T]``, each but once in a sample.
    size: the number in its place; 0 where there is no token.
  """

  which: Array
  size: Array


@dataclasses.dataclass(frozen=True)
class Embedding(ClosedForm):
  """A gather of rows of a table, the only leaf of its control.

  Attributes:
    table: its shape.
    axis: of the table, along which its rows are numbered.
    features: axes of the output that hold a row.
    out_of_table: 'clip' or 'drop'.
  """

  table: jax.ShapeDtypeStruct
  axis: int
  features: tuple[int, ...]
  out_of_table: str

  kind = 'embedding'
  has_diagonal_inputs = True

  @classmethod
  def match(cls, body: Body) -> Self | None:
    """See ``ClosedForm``."""
    first = body.on_data[0]
    if first.primitive.name != 'gather' or len(body.control) != 1:
      return None
    operand, tokens = first.invars
    casts = body.casts_to(operand)
    operand = casts[-1].invars[0] if casts else operand
    if operand is not body.control[0] or body.x != (tokens,):
      return None
    shapes = jaxprs.shape_of(first.outvars[0]), jaxprs.shape_of(body.h)
    if shapes[0] != shapes[1] or not body.is_made_of([first, *casts]):
      return None
    if not is_real(body.control[0]) or not is_real(body.h):
      return None
    table, params = jaxprs.abstract(body.control[0]), first.params
    numbers = params['dimension_numbers']
    axis = tuple(numbers.collapsed_slice_dims)
    whole = [n for at, n in enumerate(table.shape) if at not in axis]
    taken = [n for at, n in enumerate(params['slice_sizes']) if at not in axis]
    if (
      len(axis) != 1
      or tuple(numbers.start_index_map) != axis
      or numbers.operand_batching_dims
      or taken != whole
      or jaxprs.shape_of(tokens)[-1] != 1
      or params['mode'] not in _MODES
      or not body.batch.has_samples(body.x[0])
      or not math.prod(table.shape)
    ):
      return None
    mode = _MODES[params['mode']]
    return cls(table, axis[0], tuple(numbers.offset_dims), mode)

  @property
  def c(self) -> int:
    """See ``ClosedForm``."""
    return math.prod(self.table.shape) // self.width

  @property
  def width(self) -> int:
    """See ``ClosedForm``: the number of tokens."""
    return self.table.shape[self.axis]

  @property
  def shapes(self) -> tuple[Shape, ...]:
    """See ``ClosedForm``."""
    return (self.table.shape,)

  def matrix(self, table: Array) -> Array:
    """An array like the table as ``[c, tokens]``."""
    return jnp.moveaxis(table, self.axis, -1).reshape(self.c, self.width)

  def pack(self, leaves: Arrays) -> Array:
    """See ``ClosedForm``."""
    return self.matrix(leaves[0]).ravel()

  def unpack(self, row: Array) -> Arrays:
    """See ``ClosedForm``."""
    rest = np.delete(self.table.shape, self.axis)
    table = jnp.moveaxis(row.reshape(*rest, self.width), -1, self.axis)
    return (table.astype(self.table.dtype),)

  def positions(self, h_shape: Shape) -> int:
    """See ``ClosedForm``."""
    return math.prod(h_shape) // self.c

  def gradients(self, x: Array, h: Array) -> Array:
    """See ``ClosedForm``."""
    which = self._which(x)

    def of_sample(sample: Arrays) -> Array:
      tokens, rows = sample  # [T], [R, T, c]
      zeros = jnp.zeros((len(rows), self.width, self.c), rows.dtype)
      added = zeros.at[:, tokens].add(rows, mode='drop')
      return added.swapaxes(1, 2).reshape(len(rows), -1)

    return jax.vmap(of_sample)((which, self.cotangents(h)))

  def input_factor(
    self, x: Array, h: Array, *, reduce: bool, whole: bool
  ) -> Array:
    """See ``ClosedForm``: how often each token is met.

    ``reduce`` keeps the diagonal of ``E[m m^T]``, which has more than that.
    """
    del whole
    which = self._which(x)
    dtype = jnp.promote_types(h.dtype, jnp.float32)
    share = jnp.full(which.shape, 1 / max(which.shape[1], 1), dtype)
    if reduce:
      which, each = _merged(which, share[:, None, :, None], self.width)
      share = jnp.square(each[:, 0, :, 0])
    zeros = jnp.zeros((self.width,), dtype)
    added = zeros.at[which.ravel()].add(share.ravel(), mode='drop')
    return added / len(which)

  def cotangents(self, h: Array) -> Array:
    """See ``ClosedForm``."""
    places = [at for at in range(h.ndim - 2) if at not in self.features]
    rows = h.transpose(0, 1, *(2 + at for at in (*places, *self.features)))
    count = math.prod(h.shape[2:]) // self.c
    return rows.reshape(*h.shape[:2], count, self.c)

  def through_factors(self, ask: Ask) -> bool:
    """See ``ClosedForm``: always, if the products of all pairs fit."""
    numbers = (ask.batch * ask.rank * ask.positions) ** 2
    return not ask.cross or ask.positions == 1 or numbers <= ask.numbers

  def has_squares(self, positions: int) -> bool:
    """See ``ClosedForm``."""
    del positions
    return True

  def factors(self, x: Array, h: Array) -> Factors:
    """See ``ClosedForm``: of each sample, every token once."""
    which, rows = _merged(self._which(x), self.cotangents(h), self.width)
    met = which < self.width
    return Factors(Tokens(which, met.astype(rows.dtype)), rows)

  def turned(self, rows: Tokens, side: Array) -> Tokens:
    """See ``ClosedForm``; by a diagonal."""
    sizes = side.at[rows.which].get(mode='clip')
    return rows._replace(size=rows.size * sizes)

  def diagonal(self, leaves: Arrays) -> tuple[Array, Array]:
    """See ``ClosedForm``."""
    (table,) = leaves
    return (self.matrix(table) if table.ndim else table), jnp.zeros(())

  def gram(self, factors: OnFactors) -> Array:
    """See ``ClosedForm``."""
    left = _weighed(factors)
    size = jnp.square(factors.x.size)
    return jnp.einsum('bt,brtc,bstc->brs', size, left, factors.h)

  def cross_gram(self, factors: OnFactors) -> Array:
    """See ``ClosedForm``."""
    left, (which, size) = _weighed(factors), factors.x
    equal = which[:, :, None, None] == which[None, None]
    similar = size[:, :, None, None] * size[None, None] * equal
    products = jnp.einsum('brtc,jsuc->brtjsu', left, factors.h)
    return jnp.einsum('btju,brtjsu->brjs', similar, products)

  def squares(self, rows: Tokens, h: Array) -> Array:
    """See ``ClosedForm``."""
    found = jnp.square(h).sum(axis=1) * jnp.square(rows.size)[..., None]
    zeros = jnp.zeros((self.width, self.c), found.dtype)
    flat = found.reshape(-1, self.c)
    return zeros.at[rows.which.ravel()].add(flat, mode='drop').T

  def _which(self, x: Array) -> Array:
    """Tokens ``[B, T]``; one past the last where a row is of no token."""
    which = x.reshape(len(x), -1)
    which = which.astype(jnp.promote_types(which.dtype, jnp.int32))
    if self.out_of_table == 'clip':
      return jnp.clip(which, 0, self.width - 1)
    inside = (which >= 0) & (which < self.width)
    return jnp.where(inside, which, self.width)


def _weighed(factors: OnFactors) -> Array:
  """Cotangents times what is left between factors, ``[B, R, T, c]``."""
  of_kernel = factors.of_kernel
  if not of_kernel.ndim:
    return of_kernel * factors.h
  of_token = of_kernel.T.at[factors.x.which].get(mode='clip')
  return of_token[:, None] * factors.h


def _merged(which: Array, rows: Array, none: int) -> tuple[Array, Array]:
  """Of each sample every token once, with the sum of its rows.

  Args:
    which: tokens ``[B, T]``.
    rows: ``[B, R, T, c]``.
    none: the token of places that are left over; their rows are 0.

  Returns:
    Tokens ``[B, T]`` and rows ``[B, R, T, c]``.
  """

  def of_sample(sample: Arrays) -> Arrays:
    tokens, values = sample
    order = jnp.argsort(tokens)
    tokens, values = tokens[order], values[:, order]
    first = jnp.concatenate(
      [tokens[:1] == tokens[:1], tokens[1:] != tokens[:-1]]
    )
    place = jnp.cumsum(first) - 1
    merged = jnp.full_like(tokens, none).at[place].set(tokens)
    return merged, jnp.zeros_like(values).at[:, place].add(values)

  found: Arrays = loops.over_samples(of_sample, (which, rows))
  return found[0], found[1]
