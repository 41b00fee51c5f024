"""Dense layers: ``h = x W + b``, contracted over any axes of a sample."""

from __future__ import annotations

import dataclasses
from typing import Self

import jax

from gtddp_jax.graph import program as jaxprs
from gtddp_jax.graph.closed_forms import products
from gtddp_jax.graph.closed_forms.form import Body
from gtddp_jax.graph.closed_forms.matrix import MatrixForm

Array = jax.Array
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Dense(MatrixForm):
  """A ``dot_general`` of inputs with a kernel, and a bias.

  Attributes:
    contracted: axes of the input that it sums over.
  """

  contracted: tuple[int, ...]

  kind = 'dense'

  @classmethod
  def match(cls, body: Body) -> Self | None:
    """See ``ClosedForm``."""
    found = products.find(
      body, 'dot_general', _channels, lambda e: _numbers(e)[0][0]
    )
    if found is None:
      return None
    leaves = tuple(map(jaxprs.abstract, body.control))
    (lhs, rows), _ = _numbers(found.equation)
    shape = leaves[found.kernel].shape
    return cls(
      leaves,
      found.kernel,
      found.bias,
      (*rows, *(axis for axis in range(len(shape)) if axis not in rows)),
      len(rows),
      found.channels,
      (shape, str(found.equation.params), found.bias is None),
      tuple(lhs),
    )

  def places(self, ndim: int) -> list[int]:
    """See ``MatrixForm``."""
    return [axis for axis in range(ndim) if axis not in self.channels]

  def blocks(self, x: Array, space: Shape) -> list[Array]:
    """See ``MatrixForm``."""
    del space
    free = [axis for axis in range(x.ndim) if axis not in self.contracted]
    return [x.transpose(*free, *self.contracted).reshape(-1, self.a)]

  def gradients(self, x: Array, h: Array) -> Array:
    """See ``ClosedForm``; of one position, without a loop over samples."""
    rows = self.cotangents(h)
    if rows.shape[2] > 1:
      return super().gradients(x, h)
    one = self.homogeneous(self.factors(x, h).x)
    matrices = rows.swapaxes(2, 3) * one[:, None]
    return matrices.reshape(*matrices.shape[:2], -1)


def _numbers(
  product: jaxprs.Equation,
) -> tuple[tuple[Shape, Shape], tuple[Shape, Shape]]:
  """Contracted axes of both operands, and those of their batch."""
  (lhs, rhs), (left, right) = product.params['dimension_numbers']
  return (tuple(lhs), tuple(rhs)), (tuple(left), tuple(right))


def _channels(product: jaxprs.Equation, ndim: int) -> range:
  """Axes of the product that come from the kernel; empty with a batch."""
  (_, rows), (batch, _) = _numbers(product)
  if batch:
    return range(0)
  free = len(jaxprs.shape_of(product.invars[1])) - len(rows)
  return range(ndim - free, ndim)
