"""Convolutions: a dense layer of the patches of their input."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp

from gtddp_jax.graph import loops, varying
from gtddp_jax.graph import program as jaxprs
from gtddp_jax.graph.closed_forms import patches, products
from gtddp_jax.graph.closed_forms.form import Body
from gtddp_jax.graph.closed_forms.matrix import MatrixForm

Array = jax.Array
Shape = tuple[int, ...]
PRIMITIVE = 'conv_general_dilated'

# On a CPU: samples whose patches are formed at once, and bytes of these for one
# tap along the first axis that stay in cache.
_BLOCK, _CACHE = 16, 5 * 2**19


@dataclasses.dataclass(frozen=True)
class Convolution(MatrixForm):
  """A convolution without groups, and a bias.

  Attributes:
    inputs: axes of the input: samples, channels, space.
    outputs: axes of the output, likewise.
    window: strides, dilation and padding.
  """

  inputs: Shape
  outputs: Shape
  window: patches.Window

  kind = 'conv'
  sums_on_cpu = True

  @classmethod
  def match(cls, body: Body) -> Self | None:
    """See ``ClosedForm``."""
    found = find(body)
    if found is None or found.equation.params['feature_group_count'] != 1:
      return None
    leaves = tuple(map(jaxprs.abstract, body.control))
    return cls.of(found, leaves)

  @classmethod
  def of(
    cls, found: products.Product, leaves: tuple[jax.ShapeDtypeStruct, ...]
  ) -> Self:
    """The form of a convolution with leaves of these shapes."""
    params = found.equation.params
    lhs, spec, out = _numbers(params)
    shape = leaves[found.kernel].shape
    return cls(
      leaves,
      found.kernel,
      found.bias,
      (*spec[2:], spec[1], spec[0]),
      len(spec) - 1,
      found.channels,
      (shape, str(params), found.bias is None),
      lhs,
      out,
      patches.of(params, tuple(shape[axis] for axis in spec[2:])),
    )

  def places(self, ndim: int) -> list[int]:
    """See ``MatrixForm``."""
    del ndim
    return [0, *self.outputs[2:]]

  def blocks(self, x: Array, space: Shape) -> list[Array]:
    """See ``MatrixForm``."""
    return self.window.blocks(self._in_order(x), space[1:])

  def pairs(
    self, x: Array, h: Array, space: Shape
  ) -> list[tuple[Array, Array]]:
    """See ``MatrixForm``."""
    return self.window.pairs(self._in_order(x), h, space[1:])

  def total(self, x: Array, h: Array, weights: Array) -> Array:
    """See ``ClosedForm``: some samples at a time, whose patches fit a cache."""
    if len(h) > 1:  # the sum of several is smaller than they are
      h = loops.weighted_sum(weights, h)[None]
      weights = jnp.ones_like(weights[:, :1])
    rows = jnp.repeat(weights[:, 0], len(x) // len(weights))
    return loops.summed_over_devices(self._total, (x, h[0], rows)).ravel()

  def _total(self, samples: tuple[Array, Array, Array]) -> Array:
    """``sum_i w_i g_i`` of the samples of one device, ``[c, a + 1]``."""
    x, h, weights = samples
    wide = jnp.promote_types(h.dtype, jnp.float32)
    start = varying.cast(
      jnp.zeros((self.c, self.a), wide), varying.axes_of(samples)
    )
    rows = self.together(x, h)
    add = self._added(samples, rows, wide)
    kernel = jax.lax.fori_loop(0, len(x) // rows, add, start)
    if self.bias is None:
      return kernel
    # Within the loop, the sum would need a copy of its part.
    every = self.cotangents(h[None, None]).reshape(len(x), -1)
    bias = weights.astype(wide) @ every.astype(wide)
    bias = bias.reshape(-1, self.c).sum(axis=0)
    return jnp.concatenate([kernel, bias[:, None]], axis=1)

  def _added(
    self, samples: tuple[Array, Array, Array], rows: int, wide: Any
  ) -> Callable[[Array, Array], Array]:
    """Adds the gradient of the kernel of one part of so many samples."""

    # Parts cut out in the loop are read where they lie; a scan over parts would
    # first write all of them anew.
    def add(i: Array, total: Array) -> Array:
      part_x, part_h, part = (
        jax.lax.dynamic_slice_in_dim(v, i * rows, rows) for v in samples
      )
      weighed = loops.weighted_sum(part[:, None], part_h[None])[None, None]
      cotangents = self.cotangents(weighed)[0]
      columns = [
        jnp.einsum('tc,ta->ca', h[0], rows)
        for h, rows in self.pairs(part_x, cotangents, self.space(weighed))
      ]
      return total + jnp.concatenate(columns, axis=1).astype(wide)

    return add

  def together(self, x: Array, h: Array) -> int:
    """How many samples ``total`` takes at once, a divisor of their number."""
    places = math.prod(h.shape[1:]) // self.c
    numbers = places * self.a // self.window.sizes[0]
    size = max(numbers, 1) * x.dtype.itemsize  # no place, no numbers
    most = min(_BLOCK, _CACHE // size)
    return max(b for b in range(1, max(most, 1) + 1) if len(x) % b == 0)

  def _in_order(self, x: Array) -> Array:
    """Inputs of a convolution, channels last."""
    return x.transpose(0, *self.inputs[2:], self.inputs[1])


def find(body: Body) -> products.Product | None:
  """The convolution, of any groups of features, that a layer is."""
  found = products.find(
    body,
    PRIMITIVE,
    lambda e, _: range(_numbers(e.params)[2][1], _numbers(e.params)[2][1] + 1),
    lambda e: _numbers(e.params)[0][1:],
  )
  if found is None:
    return None
  params = found.equation.params
  lhs, _, out = _numbers(params)
  if params['batch_group_count'] != 1 or lhs[0] != 0 or out[0] != 0:
    return None
  return found


def _numbers(params: dict[str, Any]) -> tuple[Shape, Shape, Shape]:
  """Axes of input, kernel and output: samples or outputs, channels, space."""
  numbers = params['dimension_numbers']
  return numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
