"""Operations in which samples meet: the library says so, or refuses."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from drafts import Draft
from ops import is_pure, operation

Array = jax.Array


def _centred(x: Array, axis: int) -> Array:
  return x - jnp.mean(x, axis, keepdims=True)


def _normed(x: Array, axis: int) -> Array:
  x = _centred(x, axis)
  return x / jnp.sqrt(jnp.mean(x * x, axis, keepdims=True) + 0.1)


ALIKE: dict[str, Any] = {
  'normed': _normed,
  'centred': _centred,
  'softmax': jax.nn.softmax,
  'largest': lambda x, axis: x - jnp.max(x, axis, keepdims=True),
}
IN_ORDER: dict[str, Any] = {
  'roll': lambda x, axis: jnp.roll(x, 1, axis),
  'flip': jnp.flip,
  'cumsum': lambda x, axis: 0.5 * jnp.cumsum(x, axis),
  'sort': lambda x, axis: jnp.sort(x, axis),
}


@operation(2)
def over_samples(d: Draft) -> None:
  """A statistic of the batch, or work along it."""
  x = d.value('f', is_pure)
  value = d.values[x]
  axis = value.batch_axis
  name = d.one_of(list(ALIKE | IN_ORDER))
  f = (ALIKE | IN_ORDER)[name]
  d.do(
    f'{name} over samples({{0}}, {axis})',
    lambda b, u, x: f(x, axis=axis),
    [x],
    value,
    meets='alike' if name in ALIKE else 'in order',
  )


@operation()
def between_samples(d: Draft) -> None:
  """Attention from each sample to all."""
  x = d.value('f', is_pure)
  value = d.values[x]
  axis = value.batch_axis

  def run(b: int, u: Any, x: Array) -> Array:
    y = jnp.moveaxis(x, axis, 0).reshape(b, -1)
    z = jax.nn.softmax(y @ y.T) @ y
    rest = [n for i, n in enumerate(x.shape) if i != axis]
    return jnp.moveaxis(z.reshape(b, *rest), 0, axis)

  said = f'attention between samples({{0}}, {axis})'
  d.do(said, run, [x], value, meets='alike')
