"""Grouped and depthwise convolutions: a convolution for each group of features.

The groups of channels have nothing in common, neither inputs nor outputs nor
weights. All that holds of a convolution holds of each group, under ``vmap``.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Self

import jax
import jax.numpy as jnp

from gtddp_jax.graph import program as jaxprs
from gtddp_jax.graph.closed_forms import convolution
from gtddp_jax.graph.closed_forms.form import Body, ClosedForm

Array = jax.Array
Arrays = tuple[jax.Array, ...]
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class GroupedConvolution(ClosedForm):
  """A convolution with groups of features, and a bias.

  Attributes:
    leaves: shapes of the control.
    one: the convolution of one group.
    count: how many groups there are.
    outputs: axis of the kernel that numbers its outputs, those of a group next
      to each other.
  """

  leaves: tuple[jax.ShapeDtypeStruct, ...]
  one: convolution.Convolution
  count: int
  outputs: int

  kind = 'grouped conv'

  @classmethod
  def match(cls, body: Body) -> Self | None:
    """See ``ClosedForm``."""
    found = convolution.find(body)
    if found is None:
      return None
    params = found.equation.params
    count = params['feature_group_count']
    axis = params['dimension_numbers'].rhs_spec[0]
    leaves = tuple(map(jaxprs.abstract, body.control))
    kernel = list(leaves[found.kernel].shape)
    if count == 1 or not math.prod(kernel):
      return None
    kernel[axis] //= count
    bias = (kernel[axis],)
    of_one = tuple(
      jax.ShapeDtypeStruct(kernel if n == found.kernel else bias, leaf.dtype)
      for n, leaf in enumerate(leaves)
    )
    one = convolution.Convolution.of(found, of_one)
    return cls(leaves, one, count, axis)

  @property
  def c(self) -> int:
    """See ``ClosedForm``."""
    return self.one.c

  @property
  def width(self) -> int:
    """See ``ClosedForm``."""
    return self.one.width

  @property
  def groups(self) -> int:
    """See ``ClosedForm``."""
    return self.count

  @property
  def shapes(self) -> tuple[Shape, ...]:
    """See ``ClosedForm``."""
    return tuple(leaf.shape for leaf in self.leaves)

  def pack(self, leaves: Arrays) -> Array:
    """See ``ClosedForm``: the rows of all groups, end to end."""
    parts = tuple(
      self._split(leaf, self.outputs)
      if n == self.one.kernel
      else leaf.reshape(self.count, self.c)
      for n, leaf in enumerate(leaves)
    )
    return jax.vmap(self.one.pack)(parts).ravel()

  def unpack(self, row: Array) -> Arrays:
    """See ``ClosedForm``."""
    parts = jax.vmap(self.one.unpack)(row.reshape(self.count, -1))
    return tuple(
      (
        jnp.moveaxis(part, 0, self.outputs) if n == self.one.kernel else part
      ).reshape(leaf.shape)
      for n, (part, leaf) in enumerate(zip(parts, self.leaves, strict=True))
    )

  def positions(self, h_shape: Shape) -> int:
    """See ``ClosedForm``."""
    return math.prod(h_shape) // (self.count * self.c)

  def gradients(self, x: Array, h: Array) -> Array:
    """See ``ClosedForm``."""
    each = jax.vmap(self.one.gradients)(*self._of_groups(x, h))
    rows = jnp.moveaxis(each, 0, 2)
    return rows.reshape(*rows.shape[:2], -1)

  def input_factor(
    self, x: Array, h: Array, *, reduce: bool, whole: bool
  ) -> Array:
    """See ``ClosedForm``."""
    return jax.vmap(
      lambda x, h: self.one.input_factor(x, h, reduce=reduce, whole=whole)
    )(*self._of_groups(x, h))

  def cotangents(self, h: Array) -> Array:
    """See ``ClosedForm``."""
    return jax.vmap(self.one.cotangents)(
      self._split(h, self.one.outputs[1] + 2)
    )

  def _of_groups(self, x: Array, h: Array) -> tuple[Array, Array]:
    """Inputs and cotangents of each group."""
    inputs, outputs = self.one.inputs[1] + 1, self.one.outputs[1] + 2
    return self._split(x, inputs), self._split(h, outputs)

  def _split(self, value: Array, axis: int) -> Array:
    """An axis by groups, ``[groups, ..., n / groups, ...]``."""
    shape = value.shape
    sizes = (*shape[:axis], self.count, -1, *shape[axis + 1 :])
    return jnp.moveaxis(value.reshape(sizes), axis, 0)
