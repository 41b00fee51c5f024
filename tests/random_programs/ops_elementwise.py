"""Operations on numbers one by one, whatever the layout."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from drafts import Draft
from ops import operation

Array = jax.Array


@jax.custom_jvp
def hill(x: Array) -> Array:
  """A `custom_jvp`."""
  return x / (1 + x * x)


@hill.defjvp
def _hill_jvp(at: tuple[Array], along: tuple[Array]) -> tuple[Array, Array]:
  (x,), (dx,) = at, along
  return hill(x), dx * (1 - x * x) / (1 + x * x) ** 2


@jax.custom_vjp
def damped(x: Array) -> Array:
  """A `custom_vjp` whose rule is not the derivative, as some are on purpose."""
  return jnp.tanh(x)


damped.defvjp(
  lambda x: (jnp.tanh(x), jnp.tanh(x)),
  lambda y, bar: (bar * (1 - 0.8 * y * y),),
)


@jax.custom_vjp
def rounded(x: Array) -> Array:
  """A straight-through estimator."""
  return jnp.round(3 * x) / 3


rounded.defvjp(lambda x: (rounded(x), None), lambda _, bar: (bar,))


REAL: dict[str, Any] = {
  'tanh': jnp.tanh,
  'gelu': jax.nn.gelu,
  'silu': jax.nn.silu,
  'relu': jax.nn.relu,
  'sin': jnp.sin,
  'softplus': jax.nn.softplus,
  'sigmoid': jax.nn.sigmoid,
  'elu': jax.nn.elu,
  'leaky_relu': jax.nn.leaky_relu,
  'hard_tanh': jax.nn.hard_tanh,
  'bell': lambda x: jnp.exp(-x * x),
  'root': lambda x: jnp.sqrt(1 + x * x),
  'half_square': lambda x: 0.5 * x**2,
  'log1p_square': lambda x: jnp.log1p(x * x),
  'erf': jax.lax.erf,
  'arctan': jnp.arctan,
  'power': lambda x: (1 + x * x) ** 0.3,
  'rsqrt': lambda x: x * jax.lax.rsqrt(1 + x * x),
  'abs': jnp.abs,
  'maximum': lambda x: jnp.maximum(x, 0.1),
  'custom_jvp': hill,
  'custom_vjp': damped,
  'straight_through': rounded,
  'checkpoint': jax.checkpoint(lambda x: jnp.sin(jnp.tanh(x) + 0.3)),
  'jit': jax.jit(lambda x: jnp.cos(x) + 0.3 * x),
  'gated_by_its_value': lambda x: x * jax.lax.stop_gradient(jnp.tanh(x)),
}
TO_COMPLEX: dict[str, Any] = {
  'phase': lambda x: jnp.exp(1j * x),
  'times_a_number': lambda x: x * (0.6 + 0.8j),
  'complex_and_tanh': lambda x: jax.lax.complex(x, jnp.tanh(x)),
}
COMPLEX: dict[str, Any] = {
  'conj': jnp.conj,
  'turned': lambda z: z * (0.8 - 0.6j),
  'shrunk': lambda z: z / jnp.sqrt(1 + z.real**2 + z.imag**2),
  'mod_relu': lambda z: z * jax.nn.relu(jnp.abs(z) - 0.2),
  'sin': lambda z: jnp.sin(0.5 * z),
  'swapped': lambda z: jax.lax.complex(z.imag, z.real),
}
TO_REAL: dict[str, Any] = {
  'real': jnp.real,
  'imag': jnp.imag,
  'abs': jnp.abs,
  'square': lambda z: 0.5 * jnp.real(z * jnp.conj(z)),
}
BINARY: dict[str, Any] = {
  'add': jnp.add,
  'multiply': jnp.multiply,
  'subtract': jnp.subtract,
  'divided': lambda x, y: x / (1 + jnp.abs(y) ** 2),
}
REAL_BINARY: dict[str, Any] = {
  'maximum': jnp.maximum,
  'minimum': jnp.minimum,
  'logaddexp': jnp.logaddexp,
  'gated': lambda x, y: x * jax.nn.sigmoid(y),
  'arctan2': lambda x, y: jnp.arctan2(x, 1 + y * y),
  'where_larger': lambda x, y: jnp.where(x > y, jnp.tanh(x), 0.5 * y),
  'select': lambda x, y: jax.lax.select(x > 0, y, x * y),
}


def _apply(d: Draft, x: int, table: dict[str, Any], kind: str) -> None:
  name = d.one_of(list(table))
  f = table[name]
  value = d.values[x]._replace(kind=kind)
  d.do(f'{name}({{0}})', lambda b, u, x: f(x), [x], value)


@operation(6)
def unary(d: Draft) -> None:
  _apply(d, d.value(), REAL, 'f')


@operation(2)
def to_complex(d: Draft) -> None:
  _apply(d, d.value(), TO_COMPLEX, 'c')


@operation(3)
def of_complex(d: Draft) -> None:
  z = d.value('c')
  if d.seldom(3):
    _apply(d, z, TO_REAL, 'f')
  else:
    _apply(d, z, COMPLEX, 'c')


@operation(5)
def binary(d: Draft) -> None:
  """Two values of one layout, or the second one transposed to the first."""
  x = d.value('fc')
  y, order = d.like(x)
  kind = d.values[x].kind
  table = BINARY | (REAL_BINARY if kind == 'f' else {})
  name = d.one_of(list(table))
  f, straight = table[name], order == sorted(order)

  def run(b: int, u: Any, x: Array, y: Array) -> Array:
    return f(x, y if straight else jnp.transpose(y, order))

  second = '{1}' if straight else f'{{1}}.transpose{tuple(order)}'
  d.do(f'{name}({{0}}, {second})', run, [x, y], d.values[x])


@operation()
def complex_of_two(d: Draft) -> None:
  x = d.value('f')
  y, order = d.like(x)
  d.do(
    f'lax.complex({{0}}, {{1}}.transpose{tuple(order)})',
    lambda b, u, x, y: jax.lax.complex(x, jnp.transpose(y, order)),
    [x, y],
    d.values[x]._replace(kind='c'),
  )


@operation(2)
def mask(d: Draft) -> None:
  """A boolean side value."""
  x = d.value()
  d.do(
    '{0} > 0.1',
    lambda b, u, x: x > 0.1,
    [x],
    d.values[x]._replace(kind='?'),
    passive=True,
  )


@operation(2)
def masked(d: Draft) -> None:
  """A choice by a boolean side value, which may be an old one."""
  m = d.value('?')
  x, order = d.like(m, 'fc')
  name = d.one_of(['where', 'times'])

  def run(b: int, u: Any, m: Array, x: Array) -> Array:
    x = jnp.transpose(x, order)
    if name == 'times':
      return x * (0.5 + m.astype(x.dtype))
    return jnp.where(m, x, 0.3 * x * x)

  value = d.values[m]._replace(kind=d.values[x].kind)
  d.do(f'{name}({{0}}, {{1}}.transpose{tuple(order)})', run, [m, x], value)
