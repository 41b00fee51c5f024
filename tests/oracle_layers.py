"""Networks layer by layer for the Kronecker oracle: rows and cotangents.

Everything is for one sample at a time, by plain loops or a dense Jacobian.
"""

from __future__ import annotations

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


def _run(net: Callable, params: Any, inputs: Any, moved: Any) -> Any:
  """The outputs, and by layer `(x, h, strides, padding)`."""
  seen: dict[str, tuple[Any, ...]] = {}

  def layer(
    name: str,
    x: jax.Array,
    strides: Sequence[int] | None = None,
    padding: Any = 'SAME',
  ) -> jax.Array:
    w = params[name]['w']
    if w.ndim == 2:
      h = x @ w
    else:
      strides = tuple(strides or [1] * (w.ndim - 2))
      space = 'DHW'[-len(strides) :]
      h = jax.lax.conv_general_dilated(
        x,
        w,
        strides,
        padding,
        dimension_numbers=(f'N{space}C', f'{space}IO', f'N{space}C'),
      )
    if 'b' in params[name]:
      h = h + jnp.broadcast_to(params[name]['b'], h.shape)
    seen[name] = x, h, strides, padding
    return h + moved[name] if moved is not None else h

  return net(layer, inputs), seen


def matrix_of(leaves: dict[str, Any]) -> Array:
  """The c x a matrix of {'w': [..., c], 'b': [c]}, or of a tangent of it."""
  w = np.asarray(leaves['w'])
  parts = [w.reshape(-1, w.shape[-1])]
  if 'b' in leaves:
    parts.append(np.asarray(leaves['b'])[None])
  return np.concatenate(parts).T


def layer_data(
  net: Callable, params: Any, inputs: Any, targets: Any, phi: Callable
) -> dict[str, LayerData]:
  """Differentiates `net(layer, inputs)`, which calls `layer(name, x, strides,
  padding)` for each of `params` and nothing else that has parameters, with the
  loss `phi(output, target)` of one sample."""
  found: dict[str, list[tuple[Array, ...]]] = {name: [] for name in params}

  @jax.jit
  def jacobians(params: Any, moved: Any, one: Any) -> tuple[Any, Any]:
    def outputs(params: Any, moved: Any) -> jax.Array:
      return _run(net, params, one, moved)[0]

    return jax.jacobian(outputs, (0, 1))(params, moved)

  for i in range(len(inputs)):
    one = inputs[i : i + 1]
    outputs, seen = _run(net, params, one, None)
    output, out_shape = outputs[0].reshape(-1), outputs.shape[1:]

    def cost(flat: jax.Array, i: int = i, shape: Any = out_shape) -> jax.Array:
      return phi(flat.reshape(shape), targets[i])

    phi_x = np.asarray(jax.grad(cost)(output))
    phi_xx = np.asarray(jax.hessian(cost)(output))
    value, vector = np.linalg.eigh(phi_xx)
    L = vector @ np.diag(np.sqrt(np.maximum(value, 0)))
    zeros = {name: jnp.zeros_like(entry[1]) for name, entry in seen.items()}
    by_u, by_h = jacobians(params, zeros, one)
    for name, (x, h, strides, padding) in seen.items():
      w = params[name]['w']
      kind = 'dense' if w.ndim == 2 else 'conv'
      x = rows(kind, x, w.shape, strides, padding, 'b' in params[name])[0]
      n, c = len(output), h.shape[-1]
      J_h = np.asarray(by_h[name]).reshape(n, -1, c)
      leaves = {
        key: np.asarray(jacobian).reshape(n, *params[name][key].shape)
        for key, jacobian in by_u[name].items()
      }
      J_u = np.stack(
        [
          vec(matrix_of({key: leaf[o] for key, leaf in leaves.items()}))
          for o in range(n)
        ]
      )
      slope = np.einsum('n,ntc->tc', phi_x, J_h)[None]
      columns = np.einsum('nr,ntc->rtc', L, J_h)
      block = J_u.T @ phi_xx @ J_u
      found[name].append((x, slope, columns, phi_x @ J_u, block))
  result = {}
  for name, samples in found.items():
    x, slope, columns, Q_u, block = (
      np.stack(part) for part in zip(*samples, strict=True)
    )
    shape = matrix_of(params[name]).shape
    Q_u = unvec(np.mean(Q_u, axis=0), shape)
    result[name] = LayerData(x, slope, columns, Q_u, np.mean(block, axis=0))
  return result
