"""Per-sample kernel gradients of dense and convolutional layers, closed form.

With ``x_s`` the row (or input patch) at position ``s`` and ``h_s`` the
cotangent there, sample ``i`` has the kernel gradient ``sum_s x_{i,s}
h_{i,s}^T``. On a CPU one sample at a time stays in cache, and is many times
faster than one batched product; elsewhere the batch is one product.
"""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax import graph as graph_lib

Array = jax.Array


def over_samples(function: Callable[[Any], Any], samples: Any) -> Any:
  """Maps over the leading axis: in turn on a CPU, at once elsewhere."""
  return jax.lax.platform_dependent(
    samples,
    cpu=lambda s: jax.lax.map(function, s),
    default=jax.vmap(function),
  )


def supports(stage: graph_lib.Stage) -> bool:
  """Whether ``kernel_gradients`` covers the layer of ``stage``.

  Grouped and transposed convolutions are left to differentiation.
  """
  if stage.kind != 'conv':
    return stage.kind == 'dense'
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
  stage: graph_lib.Stage,
  x: Array,
  h_bar: Array,
  kernel_shape: tuple[int, ...],
) -> Array:
  """Gradients with respect to the kernel, per sample and direction.

  Args:
    stage: one that ``supports`` admits.
    x: layer inputs ``[B, k, ...]``: k rows of the layer's batch axis for each
      sample, then the other axes of the layer's input.
    h_bar: cotangents of the layer's outputs ``[B, R, k, ...]``.
    kernel_shape: shape of the kernel in its own layout.

  Returns:
    ``[B, R, *kernel_shape]``.
  """
  rule = _dense if stage.kind == 'dense' else _conv
  return rule(x, h_bar, kernel_shape, stage.equation)


def _dense(
  x: Array,
  h_bar: Array,
  kernel_shape: tuple[int, ...],
  equation: dict[str, Any],
) -> Array:
  (contracted, rows), _ = equation['dimension_numbers']
  letters = iter(string.ascii_lowercase)
  lhs = [next(letters) for _ in range(x.ndim - 1)]
  rhs = [next(letters) for _ in kernel_shape]
  for axis, row in zip(contracted, rows, strict=True):
    rhs[row] = lhs[axis]
  out = [c for i, c in enumerate(lhs) if i not in contracted]
  out += [c for i, c in enumerate(rhs) if i not in rows]
  formula = f'{"".join(lhs)},Z{"".join(out)}->Z{"".join(rhs)}'

  def of_sample(sample: tuple[Array, Array]) -> Array:
    return jnp.einsum(formula, *sample)

  if x.size == x.shape[0] * math.prod(x.shape[1 + a] for a in contracted):
    return jax.vmap(of_sample)((x, h_bar))  # one position: outer products
  return over_samples(of_sample, (x, h_bar))


def _conv(
  x: Array,
  h_bar: Array,
  kernel_shape: tuple[int, ...],
  equation: dict[str, Any],
) -> Array:
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
    rows = one_h.reshape(one_h.shape[0], -1, one_h.shape[-1])
    # One product for each tap along the first axis; the other taps together.
    products = [
      jnp.einsum('sc,rso->rco', patch, rows)
      for patch in _patches(one_x, window, space, equation)
    ]
    return jnp.concatenate(products, axis=1)

  gradients = over_samples(of_sample, (x, h_bar))
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
) -> list[Array]:
  """Patches of ``x``, ``[k, *space, C]``, one array per tap of the first axis.

  Each is ``[positions, other taps * C]``.
  """
  pads = [(0, 0, 0), *((lo, hi, 0) for lo, hi in equation['padding'])]
  x = jax.lax.pad(x, jnp.zeros((), x.dtype), [*pads, (0, 0, 0)])
  strides, dilation = equation['window_strides'], equation['rhs_dilation']

  def tap(x: Array, axes: Sequence[int], offset: Sequence[int]) -> Array:
    """The part of ``x`` under one tap of the given spatial axes."""
    for axis, o in zip(axes, offset, strict=True):
      start, stride = o * dilation[axis], strides[axis]
      stop = start + (space[axis] - 1) * stride + 1
      x = jax.lax.slice_in_dim(x, start, stop, stride, axis + 1)
    return x

  others = range(1, len(window))
  wide = jnp.concatenate(
    [
      tap(x, others, offset)
      for offset in itertools.product(*(range(window[a]) for a in others))
    ],
    axis=-1,
  )
  return [
    tap(wide, [0], [o]).reshape(-1, wide.shape[-1]) for o in range(window[0])
  ]
