"""Per-sample gradients of dense and convolutional layers, in closed form.

With ``x_t`` the row (or input patch) at position ``t`` and ``h_t`` the
cotangent there, sample ``i`` has the kernel gradient ``sum_t h_{i,t}
x_{i,t}^T``, a ``c x a`` matrix, and the bias gradient ``sum_t h_{i,t}``, one
more column of it. Their inner products need no gradient where ``Q_uu`` is a
multiple of the identity::

    g_i . g_j = sum_{t,t'} (x_{i,t} . x_{j,t'} + 1) (h_{i,t} . h_{j,t'})

Samples are taken in turn or at once, see ``loops``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gtddp_jax import graph as graph_lib
from gtddp_jax.gradients import loops, patches
from gtddp_jax.gradients import trajectory as trajectory_lib

Array = jax.Array
Shape = tuple[int, ...]

# On a CPU: samples whose patches are formed at once, and bytes of these for one
# tap along the first axis that stay in cache.
_BLOCK, _CACHE = 16, 5 * 2**19


class Factors(NamedTuple):
  """Factors of per-sample kernel gradients.

  Attributes:
    x: rows or patches, ``[B, T, a]``.
    h: cotangents, ``[B, R, T, c]``.
  """

  x: Array
  h: Array


class Contraction:
  """The product of a dense or convolutional layer: inputs with a kernel.

  ``x`` is ``[B, k, ...]``, the layer's inputs: k rows of its batch axis for
  each sample. ``h`` is ``[B, R, k, ...]``, cotangents of its outputs.
  """

  def __init__(self, stage: graph_lib.Stage, control: Sequence[Any]):
    """``stage`` is one that ``supports`` admits, ``control`` its leaves."""
    numbers = stage.equation['dimension_numbers']
    self.bias = stage.bias
    self._leaves = [graph_lib.shape_of(leaf) for leaf in control]
    self.kernel = stage.kernel or 0
    self._shape = kernel_shape = control[self.kernel].shape
    if stage.kind == 'conv':
      self._lhs, self._out = numbers.lhs_spec, numbers.out_spec
      spec = numbers.rhs_spec
      taps = tuple(kernel_shape[axis] for axis in spec[2:])
      self._window = patches.of(stage.equation, taps)
      self._order = (*spec[2:], spec[1], spec[0])
      self._rows = len(spec) - 1
    else:
      ((self._lhs, rows), _), self._out = numbers, None
      free = (a for a in range(len(kernel_shape)) if a not in rows)
      self._order = (*rows, *free)
      self._rows = len(rows)
    sizes = [kernel_shape[axis] for axis in self._order]
    self.a = math.prod(sizes[: self._rows])
    self.c = math.prod(sizes[self._rows :])

  @property
  def shapes(self) -> tuple[Shape, ...]:
    """Shapes of the leaves of the control."""
    return tuple(leaf.shape for leaf in self._leaves)

  @property
  def width(self) -> int:
    """Columns of a gradient's matrix: ``a``, and one more for a bias."""
    return self.a + (self.bias is not None)

  def homogeneous(self, x: Array) -> Array:
    """Rows ``[..., a]`` with a trailing 1 if there is a bias."""
    if self.bias is None:
      return x
    one = jnp.ones((*x.shape[:-1], 1), x.dtype)
    return jnp.concatenate([x, one], axis=-1)

  def positions(self, h_shape: Shape) -> int:
    """T, from the shape of cotangents ``[..., k, ...]`` of one sample."""
    return math.prod(h_shape) // self.c

  def matrix(self, kernel: Array) -> Array:
    """An array like the kernel as ``[c, a]``."""
    return kernel.transpose(self._order).reshape(self.a, self.c).T

  def pack(self, leaves: Sequence[Array]) -> Array:
    """Leaves like the control as one row of ``gradients``, ``[c (a + 1)]``."""
    matrix = self.matrix(leaves[self.kernel])
    if self.bias is not None:
      column = leaves[self.bias].reshape(self.c, 1)
      matrix = jnp.concatenate([matrix, column], axis=1)
    return matrix.ravel()

  def unpack(self, row: Array) -> tuple[Array, ...]:
    """The inverse of ``pack``, in the dtypes of the control."""
    matrix = row.reshape(self.c, -1)
    sizes = [self._shape[axis] for axis in self._order]
    kernel = matrix[:, : self.a].T.reshape(sizes)
    return tuple(
      kernel.transpose(np.argsort(self._order)).astype(leaf.dtype)
      if position == self.kernel
      else matrix[:, self.a].reshape(leaf.shape).astype(leaf.dtype)
      for position, leaf in enumerate(self._leaves)
    )

  def gradients(self, x: Array, h: Array) -> Array:
    """Per sample and direction, ``[B, R, c (a + 1)]``; see ``pack``."""
    space, rows = self._cotangents(h)
    if rows.shape[2] > 1 or self._out is not None:
      matrices = loops.over_samples(self._gradient(space), (x, rows))
    else:
      x = self.homogeneous(self.factors(x, h).x)
      matrices = rows.swapaxes(2, 3) * x[:, None]
    return matrices.reshape(*matrices.shape[:2], -1)

  def total(self, x: Array, h: Array, weights: Array) -> Array:
    """``sum_i sum_r w_i^r g^{i,r}``, ``[c (a + 1)]``.

    Some samples at a time, so that their patches stay in cache.

    Args:
      x: inputs, ``[B k, ...]``.
      h: cotangents of outputs, ``[R, B k, ...]``.
      weights: ``[B, R]``.

    Returns:
      The sum; see ``pack``.
    """
    if len(h) > 1:  # the sum of several is smaller than they are
      h = trajectory_lib.weighted_sum(weights, h)[None]
      weights = jnp.ones_like(weights[:, :1])
    rows = jnp.repeat(weights[:, 0], len(x) // len(weights))
    return loops.summed_over_devices(self._total, (x, h[0], rows)).ravel()

  def _total(self, samples: tuple[Array, Array, Array]) -> Array:
    """``sum_i w_i g_i`` of the samples of one device, ``[c, a + 1]``."""
    x, h, weights = samples
    rows = self._together(x, h)
    wide = jnp.promote_types(h.dtype, jnp.float32)

    # Parts cut out in the loop are read where they lie; a scan over parts would
    # first write all of them anew.
    def add(i: Array, total: Array) -> Array:
      part_x, part_h, part = (
        jax.lax.dynamic_slice_in_dim(v, i * rows, rows) for v in samples
      )
      weighed = trajectory_lib.weighted_sum(part[:, None], part_h[None])
      space, cotangents = self._cotangents(weighed[None, None])
      columns = [
        jnp.einsum('tc,ta->ca', h[0], rows)
        for h, rows in self._pairs(part_x, cotangents[0], space)
      ]
      return total + jnp.concatenate(columns, axis=1).astype(wide)

    start = graph_lib.cast(
      jnp.zeros((self.c, self.a), wide), graph_lib.axes_of(samples)
    )
    kernel = jax.lax.fori_loop(0, len(x) // rows, add, start)
    if self.bias is None:
      return kernel
    # Within the loop, the sum would need a copy of its part.
    every = self._cotangents(h[None, None])[1].reshape(len(x), -1)
    bias = weights.astype(wide) @ every.astype(wide)
    bias = bias.reshape(-1, self.c).sum(axis=0)
    return jnp.concatenate([kernel, bias[:, None]], axis=1)

  def _gradient(self, space: Shape) -> Callable[[tuple[Array, Array]], Array]:
    """From one sample's ``x`` and rows ``[R, T, c]`` to ``[R, c, a + 1]``."""

    def of_sample(sample: tuple[Array, Array]) -> Array:
      one_x, rows = sample
      columns = [
        jnp.einsum('rtc,ta->rca', h, block)
        for h, block in self._pairs(one_x, rows, space)
      ]
      if self.bias is not None:
        columns.append(rows.sum(axis=1)[..., None])
      return jnp.concatenate(columns, axis=2) if columns[1:] else columns[0]

    return of_sample

  def factors(self, x: Array, h: Array) -> Factors:
    """All rows and cotangents."""
    space, rows = self._cotangents(h)
    return Factors(jax.vmap(self.patches(space))(x), rows)

  def cotangents(self, h: Array) -> Array:
    """Cotangents as rows, ``[B, R, T, c]``."""
    return self._cotangents(h)[1]

  def patches_of(self, h: Array) -> Callable[[Array], Array]:
    """One sample's ``x``, ``[k, ...]``, as rows ``[T, a]``, T as in ``h``."""
    return self.patches(self._cotangents(h)[0])

  def patches(self, space: Shape) -> Callable[[Array], Array]:
    """The same for given sizes of the position axes."""

    def of_sample(one_x: Array) -> Array:
      blocks = self._blocks(one_x, space)
      return jnp.concatenate(blocks, axis=-1) if blocks[1:] else blocks[0]

    return of_sample

  def _cotangents(self, h: Array) -> tuple[Shape, Array]:
    """Sizes of the position axes ``[k, ...]``, and rows ``[B, R, T, c]``."""
    ndim = h.ndim - 2
    channels: Shape = tuple(range(ndim - len(self._order) + self._rows, ndim))
    space = [axis for axis in range(ndim) if axis not in channels]
    if self._out is not None:
      channels = (self._out[1],)
      space = [0, *self._out[2:]]
    rows = h.transpose(0, 1, *(2 + axis for axis in (*space, *channels)))
    sizes = tuple(h.shape[2 + axis] for axis in space)
    return sizes, rows.reshape(*h.shape[:2], math.prod(sizes), self.c)

  def _blocks(self, x: Array, space: Shape) -> list[Array]:
    """Rows of one sample, ``x`` ``[k, ...]``, in blocks ``[T, a / blocks]``."""
    if self._out is not None:
      return self._window.blocks(self._in_order(x), space[1:])
    free = [axis for axis in range(x.ndim) if axis not in self._lhs]
    return [x.transpose(*free, *self._lhs).reshape(-1, self.a)]

  def _pairs(
    self, x: Array, h: Array, space: Shape
  ) -> list[tuple[Array, Array]]:
    """Cotangents and rows of one sample, whose products are its gradient."""
    if self._out is None:
      return [(h, block) for block in self._blocks(x, space)]
    return self._window.pairs(self._in_order(x), h, space[1:])

  def _in_order(self, x: Array) -> Array:
    """Inputs of a convolution, channels last."""
    return x.transpose(0, *self._lhs[2:], self._lhs[1])

  def _together(self, x: Array, h: Array) -> int:
    """How many samples ``_total`` takes at once, a divisor of their number."""
    most = _BLOCK
    if self._out is not None:
      places = math.prod(h.shape[1:]) // self.c
      numbers = places * self.a // self._window.sizes[0]
      size = max(numbers, 1) * x.dtype.itemsize  # no place, no numbers
      most = min(most, _CACHE // size)
    return max(b for b in range(1, max(most, 1) + 1) if len(x) % b == 0)
