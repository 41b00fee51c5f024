"""Operations that make integers of values, and those that read by them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from drafts import WIDTHS, B, Draft, UnfitError, Value
from ops import has_features, is_pure, operation

Array = jax.Array


@operation(3)
def arg(d: Draft) -> None:
  """An integer side value: which of the features."""
  x = d.value('f', has_features)
  value = d.values[x]
  axis = d.one_of(value.features)
  n = value.length(axis)
  name = d.one_of(['argmax', 'argmin', 'count'])
  made = value.without(axis)._replace(kind='i', bound=n)

  def run(b: int, u: Any, x: Array) -> Array:
    if name == 'count':
      return jnp.sum(x > 0, axis) % n
    return getattr(jnp, name)(x, axis)

  d.do(f'{name}({{0}}, {axis})', run, [x], made, passive=True)


@operation(0)
def ranks(d: Draft) -> None:
  """As many integers as there are features."""
  x = d.value('f', has_features)
  value = d.values[x]
  axis = d.one_of(value.features)
  d.do(
    f'argsort({{0}}, {axis})',
    lambda b, u, x: jnp.argsort(x, axis),
    [x],
    value._replace(kind='i', bound=value.length(axis)),
    passive=True,
  )


@operation(0)
def lengths(d: Draft) -> None:
  """One integer for each sample: how far its rows go."""
  x = d.value(
    'f', lambda v: v.axes[0] == (B,) and len(v.axes) > 2 and 1 in v.features
  )
  value = d.values[x]
  n = value.length(1)

  def run(b: int, u: Any, x: Array) -> Array:
    rows = jnp.sum(x.reshape(b, n, -1), -1) > 0
    return jnp.clip(jnp.sum(rows, -1), 0, n - 1)

  made = Value(((B,),), 'i', n)
  d.do('lengths({0})', run, [x], made, passive=True)


@operation(2)
def top_k(d: Draft) -> None:
  """The largest two, and where they were."""
  x = d.value('f', lambda v: any(v.length(i) > 1 for i in v.features))
  value = d.values[x]
  axis = d.one_of([i for i in value.features if value.length(i) > 1])
  made = value.with_axis(axis, 2)

  def run(b: int, u: Any, x: Array) -> tuple[Array, Array]:
    values, places = jax.lax.top_k(jnp.moveaxis(x, axis, -1), 2)
    return jnp.moveaxis(values, -1, axis), jnp.moveaxis(places, -1, axis)

  d.do(
    f'top_k({{0}}, 2) along {axis}',
    run,
    [x],
    [made, made._replace(kind='i', bound=value.length(axis))],
  )


@operation(2)
def sorted_by(d: Draft) -> None:
  """One value in the order of another."""
  x = d.value('f', has_features)
  y, order = d.like(x)
  value = d.values[x]
  axis = d.one_of(value.features)

  def run(b: int, u: Any, x: Array, y: Array) -> tuple[Array, ...]:
    y = jnp.transpose(y, order)
    return jax.lax.sort((x, y), dimension=axis, num_keys=1)[1]

  d.do(f'sort(({{0}}, {{1}}), {axis})[1]', run, [x, y], value)


@operation(4)
def taken_along(d: Draft) -> None:
  """`take_along_axis` by an integer side value, which may be an old one."""
  i = d.value('i')
  index = d.values[i]
  found = [
    (x, axis)
    for x, value in enumerate(d.values)
    if value.kind in 'fc'
    for axis in value.features
    if value.without(axis).axes == index.axes
    and value.length(axis) >= index.bound
  ]
  x, axis = d.one_of(found[::-1])

  def run(b: int, u: Any, x: Array, i: Array) -> Array:
    i = jnp.expand_dims(i, axis)
    return jnp.squeeze(jnp.take_along_axis(x, i, axis), axis)

  made = d.values[x].without(axis)
  d.do(f'take_along_axis({{0}}, {{1}}, {axis})', run, [x, i], made)


@operation()
def permuted_by(d: Draft) -> None:
  """`take_along_axis` by as many integers as there are features."""
  i = d.value('i', has_features)
  index = d.values[i]
  found = [
    (x, axis)
    for x, value in enumerate(d.values)
    if value.kind in 'fc' and len(value.axes) == len(index.axes)
    for axis in set(value.features) & set(index.features)
    if value.without(axis).axes == index.without(axis).axes
    and value.length(axis) >= index.bound
  ]
  x, axis = d.one_of(found[::-1])
  d.do(
    f'take_along_axis({{0}}, {{1}}, {axis})',
    lambda b, u, x, i: jnp.take_along_axis(x, i, axis),
    [x, i],
    index._replace(kind=d.values[x].kind, bound=0),
  )


@operation()
def picked_by_arange(d: Draft) -> None:
  """`x[arange(b), i]`: one position of each sample."""
  found = [
    (x, i)
    for x, value in enumerate(d.values)
    for i, index in enumerate(d.values)
    if value.kind in 'fc'
    and index.kind == 'i'
    and index.axes == value.axes[:1] == ((B,),)
    and len(value.axes) > 2
    and 1 in value.features
    and value.length(1) >= index.bound
  ]
  x, i = d.one_of(found[::-1])
  d.do(
    '{0}[arange(b), {1}]',
    lambda b, u, x, i: x[jnp.arange(b), i],
    [x, i],
    d.values[x].without(1),
  )


@operation(2)
def one_hot(d: Draft) -> None:
  i = d.value('i')
  index = d.values[i]
  n = max(index.bound, 2)
  d.do(
    f'one_hot({{0}}, {n})',
    lambda b, u, i: jax.nn.one_hot(i, n, dtype=jnp.float64),
    [i],
    Value((*index.axes, (n,))),
    passive=True,
  )


def chosen(i: Array, n: int, table: Array) -> Array:
  """Entries of a table by a mask.

  A mask of numbers would be a smooth value before the leaf is read, in which an
  integer that changes within the step is a jump.
  """
  numbers = jnp.arange(n).reshape(*[1] * i.ndim, n, *[1] * (table.ndim - 1))
  mask = i.reshape(*i.shape, *[1] * table.ndim) == numbers
  entries = table.reshape(*[1] * i.ndim, *table.shape)
  return jnp.sum(jnp.where(mask, entries, 0), axis=i.ndim)


@operation(3)
def embedding(d: Draft) -> None:
  """Rows of a table, by integers of the inputs or of the network."""
  i = d.value('i')
  index = d.values[i]
  n, out = max(index.bound, 2), d.one_of(WIDTHS)
  w = d.kernel((n, out))
  name = d.one_of(['take', 'index', 'one_hot'])

  def run(b: int, u: Any, i: Array) -> Array:
    if name == 'take':
      return jnp.take(u[w], i, axis=0)
    if name == 'index':
      return u[w][i]
    return chosen(i, n, u[w])

  d.do(f'{name}({{1}}, {{0}})', run, [i], Value((*index.axes, (out,))), [w])


@operation(2)
def routed(d: Draft) -> None:
  """Each sample goes through the matrix that an integer chooses."""
  i = d.value('i')
  index = d.values[i]
  found = [
    x
    for x, value in enumerate(d.values)
    if value.kind == 'f' and value.axes[:-1] == index.axes
  ]
  x = d.one_of(found[::-1])
  value = d.values[x]
  if len(value.axes) - 1 not in value.features:
    raise UnfitError
  n, out = max(index.bound, 2), d.one_of(WIDTHS)
  w = d.kernel((n, value.length(len(value.axes) - 1), out))
  name = d.one_of(['rows', 'one_hot'])

  def run(b: int, u: Any, x: Array, i: Array) -> Array:
    if name == 'rows':
      return jnp.einsum('...f,...fo->...o', x, u[w][i])
    return jnp.einsum('...f,...fo->...o', x, chosen(i, n, u[w]))

  made = value.with_axis(len(value.axes) - 1, out)
  d.do(f'{{0}} @ {{2}}[{{1}}] by {name}', run, [x, i], made, [w])


@operation()
def stepped(d: Draft) -> None:
  """A loop over integers: `while_loop` needs no derivative here."""
  i = d.value('i')
  index = d.values[i]
  n = max(index.bound, 2)

  def run(b: int, u: Any, i: Array) -> Array:
    def body(state: tuple[Array, Array]) -> tuple[Array, Array]:
      step, i = state
      return step + 1, (3 * i + step) % n

    return jax.lax.while_loop(lambda s: s[0] < 3, body, (jnp.asarray(1), i))[1]

  made = index._replace(bound=n)
  d.do('while_loop(..., {0})', run, [i], made, passive=True)


@operation()
def dynamic_row(d: Draft) -> None:
  """`vmap` of a dynamic index: each sample reads where its integer says."""
  i = d.value('i', lambda v: v.axes == ((B,),))
  found = [
    x
    for x, value in enumerate(d.values)
    if value.kind == 'f'
    and is_pure(value)
    and value.length(value.features[-1]) >= d.values[i].bound
  ]
  x = d.one_of(found[::-1])
  value = d.values[x]
  axis, at = value.features[-1], value.batch_axis
  inner = axis - (axis > at)

  def one(x: Array, i: Array) -> Array:
    return jax.lax.dynamic_index_in_dim(x, i, inner, keepdims=False)

  made = value.without(axis)
  out = made.batch_axis
  d.do(
    f'vmap(dynamic_index_in_dim)({{0}}, {{1}}) along {axis}',
    lambda b, u, x, i: jax.vmap(one, (at, 0), out)(x, i),
    [x, i],
    made,
  )
