"""Per-sample kernel gradients of a convolution, as products of matrices.

With ``x_s`` the input patch under output position ``s`` and ``h_s`` the
cotangent there, sample ``i`` has the kernel gradient (im2col)
``sum_s x_{i,s} h_{i,s}^T``. On a CPU one sample at a time stays in cache, and
is many times faster than one batched product; elsewhere the batch is one.
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax import graph as graph_lib

Array = jax.Array


def supports(stage: graph_lib.Stage) -> bool:
  """Whether the rule covers the layer of ``stage``.

  Grouped and transposed convolutions are left to differentiation.
  """
  if stage.kind != 'conv':
    return False
  equation = stage.equation
  spec = equation['dimension_numbers']
  return (
    equation['feature_group_count'] == 1
    and equation['batch_group_count'] == 1
    and set(equation['lhs_dilation']) == {1}
    and spec.lhs_spec[0] == 0
    and spec.out_spec[0] == 0
  )


def kernel_gradients(
  x: Array,
  h_bar: Array,
  kernel_shape: tuple[int, ...],
  equation: dict[str, Any],
) -> Array:
  """Gradients with respect to the kernel, per sample and direction.

  Args:
    x: layer inputs ``[B, k, ...]``: k rows of the convolution's batch axis for
      each sample, then the axes of the convolution's own layout.
    h_bar: cotangents of the outputs ``[B, R, k, ...]``.
    kernel_shape: shape of the kernel in its own layout.
    equation: parameters of the ``conv_general_dilated``.

  Returns:
    ``[B, R, *kernel_shape]``.
  """
  spec = equation['dimension_numbers']

  def channels_last(value: Array, axes: tuple[int, ...]) -> Array:
    lead = value.ndim - len(axes)
    order = (axes[0], *axes[2:], axes[1])
    return value.transpose(*range(lead), *(lead + a for a in order))

  x = channels_last(x, spec.lhs_spec)  # [B, k, *space, C]
  h_bar = channels_last(h_bar, spec.out_spec)  # [B, R, k, *space, O]
  window = tuple(kernel_shape[a] for a in spec.rhs_spec[2:])
  space = h_bar.shape[3:-1]

  def of_sample(sample: tuple[Array, Array]) -> Array:
    one_x, one_h = sample
    patches = _patches(one_x, window, space, equation)  # [positions, taps * C]
    rows = one_h.reshape(one_h.shape[0], -1, one_h.shape[-1])
    return jnp.einsum('sc,rso->rco', patches, rows)

  gradients = jax.lax.platform_dependent(
    (x, h_bar),
    cpu=lambda samples: jax.lax.map(of_sample, samples),
    default=jax.vmap(of_sample),
  )
  # [B, R, *window, C, O] to the kernel's own layout, which puts the output
  # feature on axis rhs_spec[0], the input feature on rhs_spec[1], then space.
  gradients = gradients.reshape(
    *gradients.shape[:2], *window, x.shape[-1], h_bar.shape[-1]
  )
  last = gradients.ndim - 1
  canonical = (last, last - 1, *range(2, last - 1))
  order = [0] * len(canonical)
  for axis, source in zip(spec.rhs_spec, canonical, strict=True):
    order[axis] = source
  return gradients.transpose(0, 1, *order)


def _patches(
  x: Array,
  window: tuple[int, ...],
  space: tuple[int, ...],
  equation: dict[str, Any],
) -> Array:
  """Patches ``[positions, taps * C]`` of ``x``, ``[k, *space, C]``."""
  pads = [(0, 0, 0), *((lo, hi, 0) for lo, hi in equation['padding'])]
  x = jax.lax.pad(x, jnp.zeros((), x.dtype), [*pads, (0, 0, 0)])
  taps = []
  for offset in itertools.product(*map(range, window)):
    start = [
      o * d for o, d in zip(offset, equation['rhs_dilation'], strict=True)
    ]
    strides = equation['window_strides']
    stop = [
      a + (n - 1) * s + 1 for a, n, s in zip(start, space, strides, strict=True)
    ]
    tap = jax.lax.slice(
      x,
      [0, *start, 0],
      [x.shape[0], *stop, x.shape[-1]],
      [1, *strides, 1],
    )
    taps.append(tap.reshape(-1, x.shape[-1]))
  return jnp.concatenate(taps, axis=-1)
