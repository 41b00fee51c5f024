"""Operations with parameters that are more than one contraction.

As in `ops_layers`, each reads its leaves before anything that is not linear.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from drafts import WIDTHS, B, Draft, Value, rows
from ops import has_features, is_pure, letters, operation, replaced
from ops_layers import activated

Array = jax.Array


@operation(2)
def experts(d: Draft) -> None:
  """All experts on all samples, in front of the batch."""
  x = d.value('f', has_features)
  value = d.values[x]
  axis = value.features[0]
  word = letters(value)
  n, out = value.length(axis), d.one_of(WIDTHS)
  w = d.kernel((2, n, out))
  target = 'y' + replaced(word, axis, 'z')
  rule = f'{word},y{word[axis]}z->{target}'
  h = d.do(
    f"einsum('{rule}', {{0}}, {{1}})",
    lambda b, u, x: jnp.einsum(rule, x, u[w]),
    [x],
    value.with_axis(axis, out).inserted(0, 2),
    [w],
  )
  activated(d, h)


@operation()
def each_its_own(d: Draft) -> None:
  """As many matrices as the first axis is long: a product for each."""
  x = d.value('f', lambda v: v.features[-1:] == [0] and len(v.features) > 1)
  value = d.values[x]
  axis, word = value.features[0], letters(value)
  n, out = value.length(axis), d.one_of(WIDTHS)
  w = d.kernel((value.length(0), n, out))
  rule = f'{word},{word[0]}{word[axis]}z->{replaced(word, axis, "z")}'
  h = d.do(
    f"einsum('{rule}', {{0}}, {{1}})",
    lambda b, u, x: jnp.einsum(rule, x, u[w]),
    [x],
    value.with_axis(axis, out),
    [w],
  )
  activated(d, h)


@operation()
def gated_sum(d: Draft) -> None:
  """What is in front of the batch is summed with weights of each sample."""
  x = d.value('f', lambda v: v.features[-1:] == [0] and v.pure)
  value = d.values[x]
  word = letters(value)
  batch = word[value.batch_axis]
  inputs = [
    i for i, v in enumerate(d.values) if v.kind == 'f' and v.pure and v.size
  ]
  y = d.one_of(inputs)
  gate = d.values[y]
  w = d.kernel((gate.size, value.length(0)))
  h = d.do(
    'rows({0}) @ {1}',
    lambda b, u, y: rows(gate, b, y) @ u[w],
    [y],
    Value(((B,), (value.length(0),))),
    [w],
  )
  rule = f'{word},{batch}{word[0]}->{word[1:]}'
  d.do(
    f"einsum('{rule}', {{0}}, softmax({{1}}))",
    lambda b, u, x, h: jnp.einsum(rule, x, jax.nn.softmax(h)),
    [x, h],
    value.without(0),
  )


@operation(2)
def one_number(d: Draft) -> None:
  """A temperature, a slope, a frequency: one number for all."""
  x = d.value('f')
  value = d.values[x]
  name = d.one_of(['times', 'prelu', 'plus'])
  s = d.leaf(d.module(), 's', (), scale=0.3, mean=0.7)

  def run(b: int, u: Any, x: Array) -> Array:
    if name == 'times':
      return x * jax.nn.softplus(u[s])
    if name == 'prelu':
      return jnp.where(x > 0, x, x * u[s])
    return x + u[s] ** 2

  d.do(f'{name}({{0}}, {{1}})', run, [x], value, [s])


@operation(2)
def composed(d: Draft) -> None:
  """A kernel that is made of leaves: low rank, normalised, of two modules."""
  x = d.value('f', has_features)
  value = d.values[x]
  axis = value.features[0]
  n, out = value.length(axis), d.one_of(WIDTHS)
  style = d.one_of(['low_rank', 'normed', 'two_modules', 'doubled'])
  first = d.module()
  second = d.module() if style == 'two_modules' else first
  shapes = ((n, 2), (2, out)) if style == 'low_rank' else ((n, out),) * 2
  a = d.leaf(first, 'a', shapes[0])
  c = d.leaf(second, 'c', shapes[1])

  def run(b: int, u: Any, x: Array) -> Array:
    if style == 'low_rank':
      w = u[a] @ u[c]
    elif style == 'normed':
      w = u[a] / jnp.sqrt(jnp.sum(u[a] ** 2, 0, keepdims=True) + 0.1) + u[c]
    else:
      w = u[a] + jnp.tanh(u[c])
    h = jnp.moveaxis(x, axis, -1) @ w
    return h + h @ (w.T @ w) if style == 'doubled' else h

  rest = value.without(axis)
  h = d.do(
    f'{style}({{0}}, {{1}}, {{2}}) along {axis}',
    run,
    [x],
    rest._replace(axes=(*rest.axes, (out,))),
    [a, c],
  )
  activated(d, h)


@operation(2)
def called(d: Draft) -> None:
  """A block behind `jit`, `checkpoint`, `custom_jvp`, `custom_vjp`, `cond`."""
  x = d.value('f', has_features)
  value = d.values[x]
  axis, n = value.features[0], value.length(value.features[0])
  style = d.one_of(
    ['checkpoint', 'jit', 'cond', 'switch', 'custom_vjp', 'custom_jvp']
  )
  module = d.module()
  a = d.leaf(module, 'a', (n, 3))
  c = d.leaf(module, 'c', (3, n))

  def block(a: Array, c: Array, x: Array) -> Array:
    return jnp.tanh(x @ a) @ c

  def run(b: int, u: Any, x: Array) -> Array:
    moved = jnp.moveaxis(x, axis, -1)
    y = _CALLS[style](block)(u[a], u[c], moved)
    return jnp.moveaxis(y, -1, axis)

  h = d.do(
    f'{style}(block)({{1}}, {{2}}, {{0}}) along {axis}',
    run,
    [x],
    value,
    [a, c],
  )
  activated(d, h)


def _with_vjp(f: Any) -> Any:
  whole = jax.custom_vjp(f)

  def forward(*args: Array) -> tuple[Array, Any]:
    return f(*args), args

  whole.defvjp(forward, lambda args, bar: jax.vjp(f, *args)[1](bar))
  return whole


def _with_jvp(f: Any) -> Any:
  whole = jax.custom_jvp(f)
  whole.defjvp(lambda at, along: jax.jvp(f, at, along))
  return whole


def _branched(f: Any) -> Any:
  def whole(a: Array, c: Array, x: Array) -> Array:
    yes = jnp.asarray(1.0) > 0
    return jax.lax.cond(yes, f, lambda a, c, x: x @ a @ c, a, c, x)

  return whole


def _switched(f: Any) -> Any:
  def whole(a: Array, c: Array, x: Array) -> Array:
    which = (a[0, 0] > 0).astype(int)
    others = [lambda a, c, x: x @ a @ c, f]
    return jax.lax.switch(which, others, a, c, x)

  return whole


_CALLS: dict[str, Any] = {
  'checkpoint': jax.checkpoint,
  'jit': jax.jit,
  'cond': _branched,
  'switch': _switched,
  'custom_vjp': _with_vjp,
  'custom_jvp': _with_jvp,
}


@operation(2)
def one_sample_network(d: Draft) -> None:
  """A model that is written for one sample, under `vmap` or `lax.map`."""
  x = d.value('f', is_pure)
  value = d.values[x]
  at, n, out = value.batch_axis, value.size, d.one_of(WIDTHS)
  style = d.one_of(['vmap', 'map'])
  to = d.one_of([0, 1])
  w = d.kernel((out, n))

  def run(b: int, u: Any, x: Array) -> Array:
    def one(x: Array) -> Array:
      return jnp.tanh(u[w] @ x.ravel())

    if style == 'vmap':
      return jax.vmap(one, at, to)(x)
    return jnp.moveaxis(jax.lax.map(one, jnp.moveaxis(x, at, 0)), 0, to)

  axes = ((out,), (B,)) if to else ((B,), (out,))
  made = value._replace(axes=axes)
  d.do(
    f'{style}(tanh({{1}} @ x))({{0}}) from {at} to {to}', run, [x], made, [w]
  )
