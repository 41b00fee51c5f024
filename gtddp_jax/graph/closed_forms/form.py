"""What a kind of layer offers, and how it finds itself in a network.

A layer has a *closed form* if its per-sample gradients and their products
follow from its input ``x`` and the cotangents ``h`` of its output, without
differentiation. The gradient of sample ``i`` is a matrix, or one for each of
several *groups* of outputs that have no weight in common::

    G_i = sum_t h_{i,t} x_{i,t}^T        [c, a], [groups, c, a]

with a *row* ``x_t`` of the input for each position ``t``; a bias is one more
column, whose ``x`` is 1. All of ``G_i``, row-major, is one row ``[p]`` of the
matrix of per-sample gradients.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp

from gtddp_jax.graph import program as jaxprs
from gtddp_jax.graph.batch_axis import Batch

Array = jax.Array
Arrays = tuple[jax.Array, ...]
Shape = tuple[int, ...]

CAST = 'convert_element_type'


@dataclasses.dataclass(frozen=True)
class Body:
  """The equations of a layer, in which a closed form may find itself.

  Attributes:
    equations: all of them, in order.
    on_data: those that read data, not the control alone.
    x: what they read besides the control.
    control: the leaves.
    h: what they compute.
    batch: where the samples are in the values.
  """

  equations: tuple[jaxprs.Equation, ...]
  on_data: tuple[jaxprs.Equation, ...]
  x: tuple[jaxprs.Var, ...]
  control: tuple[jaxprs.Var, ...]
  h: jaxprs.Var
  batch: Batch

  def casts_to(self, value: Any) -> list[jaxprs.Equation]:
    """The casts that lead to a value, the last one first."""
    for equation in self.equations:
      if value in equation.outvars and equation.primitive.name == CAST:
        return [equation, *self.casts_to(equation.invars[0])]
    return []

  def is_made_of(self, equations: Sequence[jaxprs.Equation]) -> bool:
    """Whether these, and casts on data, are all that there is."""
    casts = [e for e in self.on_data if e.primitive.name == CAST]
    known = {*map(id, equations), *map(id, casts)}
    return {*map(id, self.equations)} <= known


def is_real(value: jaxprs.Var) -> bool:
  """Whether a value is of real numbers, neither integers nor complex."""
  return jnp.issubdtype(jaxprs.abstract(value).dtype, jnp.floating)


class Factors(NamedTuple):
  """Factors of per-sample gradients.

  Attributes:
    x: rows of the inputs, as the closed form keeps them; ``[B, T, a]``, if it
      says nothing else.
    h: cotangents, ``[B, R, T, c]``.
  """

  x: Any
  h: Array


class OnFactors(NamedTuple):
  """Factors of gradients and the diagonal of ``Q_uu^-1`` left between them.

  ``g . Q_uu^-1 g'`` is ``sum (of_kernel * x x' + of_bias) h h'``.

  Attributes:
    x: rows, as in ``Factors``.
    h: cotangents, ``[B, R, T, c]``.
    of_kernel: a number, or ``[c, a]``.
    of_bias: a number, or ``[1, c]``.
  """

  x: Any
  h: Array
  of_kernel: Array
  of_bias: Array


class Ask(NamedTuple):
  """What is to be decided: whether to form products through factors.

  Attributes:
    batch: B.
    rank: R, the number of directions.
    positions: T.
    matrix: whether the diagonal between factors is a number for each pair of
      their entries, not one for all.
    cross: whether products of different samples are wanted.
    numbers: how many fit the memory.
  """

  batch: int
  rank: int
  positions: int
  matrix: bool
  cross: bool
  numbers: int


class Play(NamedTuple):
  """How a layer plays a game.

  Attributes:
    channels: axes of the output that hold ``c``.
    rows: equal for layers that make the same rows of the same input.
  """

  channels: tuple[int, ...]
  rows: Any


class ClosedForm(abc.ABC):
  """A kind of layer; a file beside this one, and a line in ``CLOSED_FORMS``.

  ``x`` is ``[B, k, ...]``, the layer's input: k rows of its leading axis for
  each sample. ``h`` is ``[B, R, k, ...]``, cotangents of its output in R
  directions. What is not abstract here, a kind may leave out.

  Attributes:
    kind: its name in ``LayerGraph.summary``.
    sums_on_cpu: whether ``total`` is faster than back-propagation on a CPU.
    has_diagonal_inputs: whether ``E[x x^T]`` is kept as a diagonal.
  """

  kind: ClassVar[str]
  sums_on_cpu: ClassVar[bool] = False
  has_diagonal_inputs: ClassVar[bool] = False

  @classmethod
  @abc.abstractmethod
  def match(cls, body: Body) -> Self | None:
    """The closed form of a layer, None if the layer is of another kind."""

  @property
  @abc.abstractmethod
  def c(self) -> int:
    """Outputs of one group at one position."""

  @property
  @abc.abstractmethod
  def width(self) -> int:
    """Columns of the matrix of one group: ``a``, and one more for a bias."""

  @property
  def groups(self) -> int | None:
    """How many groups have matrices of their own; None for one matrix."""
    return None

  @property
  def play(self) -> Play | None:
    """How it plays a game; None where players of this kind step apart."""
    return None

  @property
  @abc.abstractmethod
  def shapes(self) -> tuple[Shape, ...]:
    """Shapes of the leaves of the control."""

  @abc.abstractmethod
  def pack(self, leaves: Arrays) -> Array:
    """Leaves like the control as a row."""

  @abc.abstractmethod
  def unpack(self, row: Array) -> Arrays:
    """The leaves in a row, in the dtypes of the control."""

  @abc.abstractmethod
  def positions(self, h_shape: Shape) -> int:
    """T times what the output of shape ``h_shape`` holds besides one sample."""

  @abc.abstractmethod
  def gradients(self, x: Array, h: Array) -> Array:
    """Per sample and direction, ``[B, R, p]``."""

  def total(self, x: Array, h: Array, weights: Array) -> Array:
    """``sum_i sum_r w_i^r g^{i,r}``, a row; where ``sums_on_cpu``.

    Args:
      x: inputs, ``[B k, ...]``.
      h: cotangents of outputs, ``[R, B k, ...]``.
      weights: ``[B, R]``.
    """
    raise NotImplementedError

  # Curvature: the factors of a Kronecker product.

  @abc.abstractmethod
  def input_factor(
    self, x: Array, h: Array, *, reduce: bool, whole: bool
  ) -> Array:
    """``E[x x^T]`` over samples and positions, of each group.

    Args:
      x: inputs.
      h: cotangents, read for the sizes of space alone.
      reduce: whether positions are averaged first.
      whole: whether to return the matrix, else its diagonal.

    Returns:
      ``[a, a]`` or ``[a]``; with ``groups``, a leading axis of these.
    """

  def input_rows(self, h: Array) -> Callable[[Array], Array]:
    """From one sample's ``x`` to rows ``[T, a]``; where it plays games."""
    raise NotImplementedError

  @abc.abstractmethod
  def cotangents(self, h: Array) -> Array:
    """``[B, R, T, c]``; with ``groups``, a leading axis of these."""

  # Products of gradients that are not formed.

  def through_factors(self, ask: Ask) -> bool:
    """Whether ``gram`` or ``cross_gram`` will do, is cheaper and fits."""
    del ask
    return False

  def has_squares(self, positions: int) -> bool:
    """Whether ``squares`` is there for so many positions."""
    del positions
    return False

  def factors(self, x: Array, h: Array) -> Factors:
    """Rows of inputs and of cotangents."""
    raise NotImplementedError

  def turned(self, rows: Any, side: Array) -> Any:
    """Rows, with the 1 of a bias, times a matrix or a diagonal."""
    raise NotImplementedError

  def diagonal(self, leaves: Arrays) -> tuple[Array, Array]:
    """``of_kernel`` and ``of_bias`` of a diagonal that is given by leaves."""
    raise NotImplementedError

  def gram(self, factors: OnFactors) -> Array:
    """Products of each sample's gradients, ``[B, R, R]``."""
    raise NotImplementedError

  def cross_gram(self, factors: OnFactors) -> Array:
    """Products of all samples' gradients, ``[B, R, B, R]``."""
    raise NotImplementedError

  def squares(self, rows: Any, h: Array) -> Array:
    """``sum_i sum_r G^{i,r} ** 2``, elementwise, ``[c, a]``.

    Args:
      rows: as from ``turned``.
      h: cotangents, ``[B, R, T, c]``.
    """
    raise NotImplementedError
