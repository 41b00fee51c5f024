"""Networks layer by layer for the Kronecker oracle: rows and cotangents.

Everything is for one sample at a time, by plain loops or a dense Jacobian.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = np.ndarray


def vec(G: Array) -> Array:
  """Stacks the columns of a matrix."""
  return np.asarray(G).reshape(-1, order='F')


def unvec(g: Array, shape: tuple[int, ...]) -> Array:
  return g.reshape(shape, order='F')


def rows(
  kind: str,
  x: Array,
  kernel_shape: Sequence[int] | None = None,
  strides: Sequence[int] | None = None,
  padding: str | Sequence[tuple[int, int]] = 'SAME',
  bias: bool = True,
  dilation: Sequence[int] | None = None,
) -> Array:
  """Input rows [B, T, a(+1)] of a 'dense' layer (x is [B, ..., n]) or of a
  'conv' (x is [B, *space, n], the kernel [*taps, n, c]); the order within a
  row is (taps, channel), positions and taps row-major."""
  x = np.asarray(x, np.float64)
  if kind == 'dense':
    table = x.reshape(len(x), -1, x.shape[-1])
  else:
    assert kind == 'conv' and kernel_shape is not None
    taps = tuple(kernel_shape[:-2])
    strides = tuple(strides or [1] * len(taps))
    dilation = tuple(dilation or [1] * len(taps))
    table = _patches(x, taps, strides, dilation, padding)
  if bias:
    table = np.concatenate([table, np.ones((*table.shape[:2], 1))], axis=2)
  return table


def _patches(
  x: Array,
  taps: tuple[int, ...],
  strides: tuple[int, ...],
  dilation: tuple[int, ...],
  padding: str | Sequence[tuple[int, int]],
) -> Array:
  spans = [(k - 1) * d + 1 for k, d in zip(taps, dilation, strict=True)]
  if padding == 'VALID':
    padding = [(0, 0)] * len(taps)
  elif padding == 'SAME':
    pads = []
    for length, span, stride in zip(x.shape[1:-1], spans, strides, strict=True):
      missing = max((-(-length // stride) - 1) * stride + span - length, 0)
      pads.append((missing // 2, missing - missing // 2))
    padding = pads
  x = np.pad(x, [(0, 0), *padding, (0, 0)])
  lengths = zip(x.shape[1:-1], spans, strides, strict=True)
  counts = [(n - span) // stride + 1 for n, span, stride in lengths]
  samples = []
  for image in x:
    table = []
    for position in np.ndindex(*counts):
      row: list[float] = []
      for tap in np.ndindex(*taps):
        where = zip(position, strides, tap, dilation, strict=True)
        row.extend(image[tuple(p * s + k * d for p, s, k, d in where)])
      table.append(row)
    samples.append(table)
  return np.asarray(samples)


class LayerData(NamedTuple):
  """One layer on one batch, for the mean of the samples' losses.

  Attributes:
    x: Input rows, [B, T, a].
    slope: Cotangents of the loss, [B, 1, T, c].
    curvature: Cotangents of the columns of L, [B, R, T, c], where L L' is the
      Hessian of a sample's loss in its outputs.
    Q_u: The gradient, c x a.
    gauss_newton: The layer's block of the Gauss-Newton matrix on vec(W).
  """

  x: Array
  slope: Array
  curvature: Array
  Q_u: Array
  gauss_newton: Array


def applied(
  leaves: dict[str, Any],
  x: jax.Array,
  strides: Sequence[int] | None = None,
  padding: Any = 'SAME',
  dilation: Sequence[int] | None = None,
) -> jax.Array:
  """What a layer with leaves w (and b) makes of a batch x."""
  w = leaves['w']
  if w.ndim == 2:
    h = x @ w
  else:
    taps = w.ndim - 2
    space = 'DHW'[-taps:]
    h = jax.lax.conv_general_dilated(
      x,
      w,
      tuple(strides or [1] * taps),
      padding,
      rhs_dilation=tuple(dilation or [1] * taps),
      dimension_numbers=(f'N{space}C', f'{space}IO', f'N{space}C'),
    )
  if 'b' in leaves:
    h = h + jnp.broadcast_to(leaves['b'], h.shape)
  return h


def as_function(net: Callable) -> Callable:
  """`net(layer, inputs)` as a function of parameters and inputs."""

  def apply_fn(params: Any, inputs: Any) -> jax.Array:
    def layer(name: str, x: jax.Array, *how: Any, **named: Any) -> jax.Array:
      return applied(params[name], x, *how, **named)

    return net(layer, inputs)

  return apply_fn


def observed(net: Callable, params: Any, inputs: Any, moved: Any) -> Any:
  """The outputs, and of each layer its rows; `moved` is added to its output."""
  seen: dict[str, tuple[Any, ...]] = {}

  def layer(
    name: str,
    x: jax.Array,
    strides: Sequence[int] | None = None,
    padding: Any = 'SAME',
    dilation: Sequence[int] | None = None,
  ) -> jax.Array:
    h = applied(params[name], x, strides, padding, dilation)
    seen[name] = x, h, strides, padding, dilation
    return h + moved[name] if moved is not None else h

  return net(layer, inputs), seen


def rows_of(leaves: dict[str, Any], x: Array, how: Sequence[Any]) -> Array:
  """Input rows of a layer that was called with `x` and `how`."""
  shape = leaves['w'].shape
  kind = 'dense' if len(shape) == 2 else 'conv'
  strides, padding, dilation = how
  return rows(kind, x, shape, strides, padding, 'b' in leaves, dilation)


def matrix_of(leaves: dict[str, Any]) -> Array:
  """The c x a matrix of {'w': [..., c], 'b': [c]}, or of a tangent of it."""
  w = np.asarray(leaves['w'])
  parts = [w.reshape(-1, w.shape[-1])]
  if 'b' in leaves:
    parts.append(np.asarray(leaves['b'])[None])
  return np.concatenate(parts).T


@functools.cache
def _differentiated(net: Callable, phi: Callable) -> Callable:
  """Per sample: derivatives of the loss in the outputs, and Jacobians."""

  def of_sample(params: Any, one: Any, target: Any) -> tuple[Any, ...]:
    one = one[None]
    outputs, seen = observed(net, params, one, None)
    zeros = {name: jnp.zeros_like(entry[1]) for name, entry in seen.items()}
    by_u, by_h = jax.jacobian(
      lambda u, moved: observed(net, u, one, moved)[0], (0, 1)
    )(params, zeros)

    def cost(flat: jax.Array) -> jax.Array:
      return phi(flat.reshape(outputs.shape[1:]), target)

    flat = outputs.reshape(-1)
    xs = {name: entry[0][0] for name, entry in seen.items()}
    return jax.grad(cost)(flat), jax.hessian(cost)(flat), xs, by_u, by_h

  return jax.jit(jax.vmap(of_sample, (None, 0, 0)))


def layer_data(
  net: Callable, params: Any, inputs: Any, targets: Any, phi: Callable
) -> dict[str, LayerData]:
  """Differentiates `net(layer, inputs)`, which calls `layer(name, x, strides,
  padding, dilation)` for each of `params` and nothing else that has parameters,
  with the loss `phi(output, target)` of one sample."""
  _, seen = observed(net, params, inputs[:1], None)
  found = _differentiated(net, phi)(params, inputs, targets)
  phi_x, phi_xx, xs, by_u, by_h = jax.tree.map(np.asarray, found)
  B, n = phi_x.shape
  value, vector = np.linalg.eigh(phi_xx)
  L = vector * np.sqrt(np.maximum(value, 0))[:, None]
  result = {}
  for name, (_, h, *how) in seen.items():
    J_h = by_h[name].reshape(B, n, -1, h.shape[-1])
    leaves = {
      key: leaf.reshape(B, n, *params[name][key].shape)
      for key, leaf in by_u[name].items()
    }
    J_u = np.stack(
      [
        [
          vec(matrix_of({key: leaf[i, o] for key, leaf in leaves.items()}))
          for o in range(n)
        ]
        for i in range(B)
      ]
    )
    Q_u = np.einsum('in,inp->p', phi_x, J_u) / B
    block = np.einsum('inp,inm,imq->pq', J_u, phi_xx, J_u) / B
    result[name] = LayerData(
      rows_of(params[name], xs[name], how),
      np.einsum('in,intc->itc', phi_x, J_h)[:, None],
      np.einsum('inr,intc->irtc', L, J_h),
      unvec(Q_u, matrix_of(params[name]).shape),
      block,
    )
  return result
