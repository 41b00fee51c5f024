"""Operations with complex weights: two real leaves, or a complex one."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from drafts import WIDTHS, Draft, UnfitError
from ops import has_features, is_pure, letters, operation, replaced

Array = jax.Array


def weights(d: Draft, shape: tuple[int, ...]) -> tuple[list[str], Any]:
  """Leaves, and the function that makes the complex array of them."""
  module = d.module()
  if d.seldom(3):
    path = d.leaf(module, 'w', shape, 'c')
    return [path], lambda u: u[path]
  re, im = d.leaf(module, 're', shape), d.leaf(module, 'im', shape)
  if d.seldom(2):
    return [re, im], lambda u: jax.lax.complex(u[re], u[im])
  return [re, im], lambda u: u[re] + 1j * u[im]


@operation(4)
def complex_dense(d: Draft) -> None:
  """A real or complex value by a complex matrix."""
  x = d.value('fc', has_features)
  value = d.values[x]
  axis = value.features[0]
  n, out = value.length(axis), d.one_of(WIDTHS)
  leaves, matrix = weights(d, (n, out))
  word = letters(value)
  rule = f'{word},{word[axis]}z->{replaced(word, axis, "z")}'
  names = ', '.join(f'{{{i + 1}}}' for i in range(len(leaves)))
  d.do(
    f"einsum('{rule}', {{0}}, complex({names}))",
    lambda b, u, x: jnp.einsum(rule, x + 0j, matrix(u)),
    [x],
    value.with_axis(axis, out)._replace(kind='c'),
    leaves,
  )


@operation(3)
def spectral(d: Draft) -> None:
  """A Fourier layer: each frequency has a matrix, and a skip around it all."""
  x = d.value('f', lambda v: len(v.features) >= 2)
  value = d.values[x]
  feature, space = value.features[:2]
  n, length = value.length(feature), value.length(space)
  if length < 2:
    raise UnfitError
  modes = length // 2 + 1
  word = letters(value)
  f, s = word[feature], word[space]
  frequencies = d.do(
    f'rfft({{0}}, axis={space})',
    lambda b, u, x: jnp.fft.rfft(x, axis=space),
    [x],
    value.with_axis(space, modes)._replace(kind='c'),
  )
  leaves, matrix = weights(d, (modes, n, n))
  rule = f'{word},{s}{f}z->{word.replace(f, "z")}'
  names = ', '.join(f'{{{i + 1}}}' for i in range(len(leaves)))
  mixed = d.do(
    f"einsum('{rule}', {{0}}, complex({names}))",
    lambda b, u, k: jnp.einsum(rule, k, matrix(u)),
    [frequencies],
    value.with_axis(space, modes)._replace(kind='c'),
    leaves,
  )
  y = d.do(
    f'irfft({{0}}, n={length}, axis={space})',
    lambda b, u, k: jnp.fft.irfft(k, n=length, axis=space),
    [mixed],
    value,
  )
  if d.seldom(2):
    d.do('{0} + {1}', lambda b, u, x, y: x + y, [x, y], value)


@operation(2)
def diagonal_states(d: Draft) -> None:
  """A linear recurrence with complex decays, by a scan or all at once."""
  x = d.value('fc', is_pure)
  value = d.values[x]
  if len(value.features) < 2:
    raise UnfitError
  feature, time = value.features[:2]
  n = value.length(feature)
  module = d.module()
  nu = d.leaf(module, 'nu', (n,))
  theta = d.leaf(module, 'theta', (n,))
  style = d.one_of(['scan', 'associative_scan'])
  shape = [1] * len(value.axes)
  shape[feature] = n

  def run(b: int, u: Any, x: Array) -> Array:
    decay = jnp.exp(-jax.nn.softplus(u[nu]) + 1j * u[theta]).reshape(shape)
    x = x + 0j
    if style == 'scan':
      xs = jnp.moveaxis(x, time, 0)
      once = jnp.squeeze(decay, time)

      def step(h: Array, x: Array) -> tuple[Array, Array]:
        h = once * h + x
        return h, h

      _, ys = jax.lax.scan(step, jnp.zeros_like(xs[0]), xs)
      return jnp.moveaxis(ys, 0, time)

    def join(left: Any, right: Any) -> Any:
      return left[0] * right[0], right[0] * left[1] + right[1]

    decays = jnp.broadcast_to(decay, x.shape)
    return jax.lax.associative_scan(join, (decays, x), axis=time)[1]

  d.do(
    f'{style} of exp(-softplus({{1}}) + i {{2}}) over {{0}} along {time}',
    run,
    [x],
    value._replace(kind='c'),
    [nu, theta],
  )
