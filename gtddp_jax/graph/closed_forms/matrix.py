"""What dense and convolutional layers have in common: rows times a kernel.

With ``x_t`` the row (or input patch) at position ``t`` and ``h_t`` the
cotangent there, sample ``i`` has the kernel gradient ``sum_t h_{i,t}
x_{i,t}^T``, a ``c x a`` matrix, and the bias gradient ``sum_t h_{i,t}``, one
more column of it. Their inner products need no gradient where ``Q_uu`` is a
multiple of the identity::

    g_i . g_j = sum_{t,t'} (x_{i,t} . x_{j,t'} + 1) (h_{i,t} . h_{j,t'})

Samples are taken in turn or at once, see ``loops``.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gtddp_jax.graph import loops
from gtddp_jax.graph.closed_forms import form as form_lib
from gtddp_jax.graph.closed_forms.form import Factors, OnFactors

Array = jax.Array
Arrays = tuple[jax.Array, ...]
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class MatrixForm(form_lib.ClosedForm):
  """A layer that multiplies rows of its input by a kernel; a ``ClosedForm``.

  Attributes:
    leaves: shapes of the control.
    kernel: position of the kernel within the control.
    bias: position of the bias, None if there is none.
    order: axes of the kernel, those that rows meet first.
    rows: how many of the axes in ``order`` rows meet.
    channels: axes of the output that come from the kernel.
    rows_of_input: what says, together with the input, which rows it makes.
  """

  leaves: tuple[jax.ShapeDtypeStruct, ...]
  kernel: int
  bias: int | None
  order: tuple[int, ...]
  rows: int
  channels: Sequence[int]
  rows_of_input: Any

  @property
  def play(self) -> form_lib.Play:
    """See ``ClosedForm``."""
    return form_lib.Play(tuple(self.channels), self.rows_of_input)

  @abc.abstractmethod
  def places(self, ndim: int) -> list[int]:
    """Axes of one sample's output ``[k, ...]`` that are positions."""

  @abc.abstractmethod
  def blocks(self, x: Array, space: Shape) -> list[Array]:
    """Rows of one sample, ``x`` ``[k, ...]``, in blocks ``[T, a / blocks]``."""

  def pairs(
    self, x: Array, h: Array, space: Shape
  ) -> list[tuple[Array, Array]]:
    """Cotangents and rows of one sample, whose products are its gradient."""
    return [(h, block) for block in self.blocks(x, space)]

  @property
  def a(self) -> int:
    """Numbers in a row."""
    return math.prod(self._sizes[: self.rows])

  @property
  def c(self) -> int:
    """See ``ClosedForm``."""
    return math.prod(self._sizes[self.rows :])

  @property
  def width(self) -> int:
    """See ``ClosedForm``."""
    return self.a + (self.bias is not None)

  @property
  def shapes(self) -> tuple[Shape, ...]:
    """See ``ClosedForm``."""
    return tuple(leaf.shape for leaf in self.leaves)

  @property
  def _sizes(self) -> Shape:
    """Of the kernel's axes, in ``order``."""
    return tuple(self.leaves[self.kernel].shape[axis] for axis in self.order)

  def homogeneous(self, x: Array) -> Array:
    """Rows ``[..., a]`` with a trailing 1 if there is a bias."""
    if self.bias is None:
      return x
    one = jnp.ones((*x.shape[:-1], 1), x.dtype)
    return jnp.concatenate([x, one], axis=-1)

  def positions(self, h_shape: Shape) -> int:
    """See ``ClosedForm``."""
    return math.prod(h_shape) // self.c

  def matrix(self, kernel: Array) -> Array:
    """An array like the kernel as ``[c, a]``."""
    return kernel.transpose(self.order).reshape(self.a, self.c).T

  def pack(self, leaves: Arrays) -> Array:
    """Leaves like the control as one row of ``gradients``, ``[c (a + 1)]``."""
    matrix = self.matrix(leaves[self.kernel])
    if self.bias is not None:
      column = leaves[self.bias].reshape(self.c, 1)
      matrix = jnp.concatenate([matrix, column], axis=1)
    return matrix.ravel()

  def unpack(self, row: Array) -> Arrays:
    """The inverse of ``pack``, in the dtypes of the control."""
    matrix = row.reshape(self.c, -1)
    kernel = matrix[:, : self.a].T.reshape(self._sizes)
    return tuple(
      kernel.transpose(np.argsort(self.order)).astype(leaf.dtype)
      if position == self.kernel
      else matrix[:, self.a].reshape(leaf.shape).astype(leaf.dtype)
      for position, leaf in enumerate(self.leaves)
    )

  def gradients(self, x: Array, h: Array) -> Array:
    """Per sample and direction, ``[B, R, c (a + 1)]``; see ``pack``."""
    rows = self.cotangents(h)
    matrices = loops.over_samples(self._gradient(self.space(h)), (x, rows))
    return matrices.reshape(*matrices.shape[:2], -1)

  def _gradient(self, space: Shape) -> Callable[[tuple[Array, Array]], Array]:
    """From one sample's ``x`` and rows ``[R, T, c]`` to ``[R, c, a + 1]``."""

    def of_sample(sample: tuple[Array, Array]) -> Array:
      one_x, rows = sample
      columns = [
        jnp.einsum('rtc,ta->rca', h, block)
        for h, block in self.pairs(one_x, rows, space)
      ]
      if self.bias is not None:
        columns.append(rows.sum(axis=1)[..., None])
      return jnp.concatenate(columns, axis=2) if columns[1:] else columns[0]

    return of_sample

  def through_factors(self, ask: form_lib.Ask) -> bool:
    """See ``ClosedForm``; with a matrix between them, at one position."""
    t, a, c, r = ask.positions, self.a, self.c, ask.rank
    if ask.matrix and (ask.cross or t > 1):
      return False
    pairs = ask.batch * ask.batch if ask.cross else ask.batch
    # Touching a product costs about as much as 32 of its terms.
    through_factors = pairs * t * t * (a + r * r * (c + 32))
    through_gradients = r * a * c * (ask.batch * t + pairs * r)
    fits = t == 1 or pairs * r * r * t * t <= ask.numbers
    return fits and (t == 1 or through_factors < through_gradients)

  def factors(self, x: Array, h: Array) -> Factors:
    """See ``ClosedForm``."""
    rows_of = self.rows_of(self.space(h))
    return Factors(jax.vmap(rows_of)(x), self.cotangents(h))

  def turned(self, rows: Array, side: Array) -> Array:
    """See ``ClosedForm``."""
    rows = self.homogeneous(rows)
    if side.ndim == 1:
      return rows * side.reshape(*(1,) * (rows.ndim - 1), -1)
    return rows @ side

  def gram(self, factors: OnFactors) -> Array:
    """See ``ClosedForm``."""
    return gram(factors)

  def cross_gram(self, factors: OnFactors) -> Array:
    """See ``ClosedForm``."""
    return cross_gram(factors)

  def diagonal(self, leaves: Arrays) -> tuple[Array, Array]:
    """See ``ClosedForm``."""
    kernel = leaves[self.kernel]
    bias = jnp.zeros(()) if self.bias is None else leaves[self.bias]
    return (
      self.matrix(kernel) if kernel.ndim else kernel,
      bias.reshape(1, -1) if bias.ndim else bias,
    )

  def has_squares(self, positions: int) -> bool:
    """See ``ClosedForm``."""
    return positions == 1

  def squares(self, rows: Array, h: Array) -> Array:
    """See ``ClosedForm``; at one position."""
    return jnp.square(h[:, :, 0]).sum(axis=1).T @ jnp.square(rows[:, 0])

  def input_factor(
    self, x: Array, h: Array, *, reduce: bool, whole: bool
  ) -> Array:
    """See ``ClosedForm``."""
    rows = self.input_rows(h)
    return second_moment(lambda xs: rows(xs[0]), [x], reduce, whole=whole)

  def input_rows(self, h: Array) -> Callable[[Array], Array]:
    """From one sample's ``x`` to rows ``[T, a + 1]``, T as in ``h``."""
    rows_of = self.rows_of(self.space(h))
    return lambda x: self.homogeneous(rows_of(x))

  def rows_of(self, space: Shape) -> Callable[[Array], Array]:
    """From one sample's ``x`` to rows ``[T, a]``."""

    def of_sample(one_x: Array) -> Array:
      blocks = self.blocks(one_x, space)
      return jnp.concatenate(blocks, axis=-1) if blocks[1:] else blocks[0]

    return of_sample

  def cotangents(self, h: Array) -> Array:
    """See ``ClosedForm``."""
    axes = (*self.places(h.ndim - 2), *self.channels)
    rows = h.transpose(0, 1, *(2 + axis for axis in axes))
    return rows.reshape(*h.shape[:2], math.prod(self.space(h)), self.c)

  def space(self, h: Array) -> Shape:
    """Sizes of the axes of ``h`` that are positions, ``[k, ...]``."""
    return tuple(h.shape[2 + axis] for axis in self.places(h.ndim - 2))


def second_moment(
  rows: Callable[[list[Array]], Array],
  xs: list[Array],
  reduce: bool,
  *,
  whole: bool,
) -> Array:
  """The mean of ``x x^T`` over samples and positions.

  Args:
    rows: from one sample's inputs to ``[T, a]``.
    xs: inputs ``[B, k, ...]``.
    reduce: whether positions are averaged first.
    whole: whether to return the matrix, else its diagonal.
  """

  def of_sample(xs: list[Array]) -> Array:
    found = rows(xs)
    found = found.astype(jnp.promote_types(found.dtype, jnp.float32))
    if reduce:
      found = found.mean(axis=0, keepdims=True)
    if not whole:
      return jnp.square(found).mean(axis=0)
    return found.T @ found / found.shape[0]

  with jax.default_matmul_precision('float32'):
    return loops.total_over_samples(of_sample, xs) / xs[0].shape[0]


def gram(factors: OnFactors) -> Array:
  """``g^{i,r} . Q_uu^-1 g^{i,s}``, ``[B, R, R]``, of dense rows."""
  x, h, of_kernel, of_bias = factors
  wide = jnp.promote_types(x.dtype, jnp.float32)
  if x.shape[1] > 1:
    inner = jnp.einsum('bta,bua->btu', x, x, preferred_element_type=wide)
    similar = of_kernel * inner + of_bias
    return jnp.einsum('btu,brtc,bsuc->brs', similar, h, h)
  square = jnp.square(x[:, 0].astype(wide))
  if of_kernel.ndim:
    scale = square @ of_kernel.T
  else:
    scale = of_kernel * square.sum(axis=1, keepdims=True)
  scale = (scale + of_bias)[:, None]  # [B, 1, c or 1]
  return jnp.einsum('brc,bsc->brs', h[:, :, 0] * scale, h[:, :, 0])


def cross_gram(factors: OnFactors) -> Array:
  """``g^{i,r} . Q_uu^-1 g^{j,s}``, ``[B, R, B, R]``, of dense rows."""
  x, h, of_kernel, of_bias = factors
  b, r, t, c = h.shape
  rows, columns = (
    inner(v) for v in (x.reshape(-1, x.shape[-1]), h.reshape(-1, c))
  )
  similar = (of_kernel * rows + of_bias).reshape(b, t, b, t)
  products = columns.reshape(b, r, t, b, r, t)
  return jnp.einsum('btju,brtjsu->brjs', similar, products)


def inner(rows: Array) -> Array:
  """All inner products of rows; those of half precision in float32."""
  wide = jnp.promote_types(rows.dtype, jnp.float32)
  return jnp.matmul(rows, rows.T, preferred_element_type=wide)
