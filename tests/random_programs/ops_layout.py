"""Operations that move axes: time first, features first, merged with others.

None of them changes a number.
"""

from __future__ import annotations

import jax.numpy as jnp
from drafts import Axis, B, Draft, UnfitError, Value
from ops import operation


@operation(4)
def move_axis(d: Draft) -> None:
  """One axis to the front, or anywhere."""
  x = d.value('fci?', lambda v: len(v.axes) > 1)
  value = d.values[x]
  n = len(value.axes)
  source = d.one_of([*range(n)][::-1])
  target = d.one_of([i for i in range(n) if i != source])
  axes = list(value.axes)
  axes.insert(target, axes.pop(source))
  d.do(
    f'moveaxis({{0}}, {source}, {target})',
    lambda b, u, x: jnp.moveaxis(x, source, target),
    [x],
    value._replace(axes=tuple(axes)),
  )


@operation(2)
def transpose(d: Draft) -> None:
  x = d.value('fc', lambda v: len(v.axes) > 1)
  value = d.values[x]
  order = [*range(len(value.axes))][::-1]
  if d.seldom(2):
    order = order[1:] + order[:1]
  d.do(
    f'transpose({{0}}, {order})',
    lambda b, u, x: jnp.transpose(x, order),
    [x],
    value._replace(axes=tuple(value.axes[i] for i in order)),
  )


def _reshape(d: Draft, x: int, axes: tuple[Axis, ...]) -> None:
  value = d.values[x]._replace(axes=axes)
  said = ', '.join('*'.join(map(str, axis)) for axis in axes)
  d.do(
    f'{{0}}.reshape({said})',
    lambda b, u, x: x.reshape(value.shape(b)),
    [x],
    value,
  )


@operation(5)
def merge(d: Draft) -> None:
  """Two neighbours become one axis, the batch with others as well."""
  x = d.value('fci', lambda v: len(v.axes) > 1)
  axes = d.values[x].axes
  at = d.one_of(range(len(axes) - 1))
  merged = axes[at] + axes[at + 1]
  if B not in merged:
    merged = (Value((merged,)).length(0),)
  _reshape(d, x, (*axes[:at], merged, *axes[at + 2 :]))


@operation(4)
def split_merged(d: Draft) -> None:
  """The batch gets an axis of its own again, or a smaller one."""
  x = d.value('fci', lambda v: not v.pure)
  value = d.values[x]
  at = value.batch_axis
  axis = value.axes[at]
  where = axis.index(B)
  cuts = sorted({where, where + 1} - {0, len(axis)})
  cut = d.one_of(cuts)
  parts = (axis[:cut], axis[cut:])
  _reshape(d, x, (*value.axes[:at], *parts, *value.axes[at + 1 :]))


@operation()
def split_axis(d: Draft) -> None:
  """Heads: one axis of features becomes two."""
  x = d.value('fc', lambda v: any(v.length(i) == 4 for i in v.features))
  value = d.values[x]
  at = d.one_of([i for i in value.features if value.length(i) == 4])
  _reshape(d, x, (*value.axes[:at], (2,), (2,), *value.axes[at + 1 :]))


@operation()
def one_axis_more(d: Draft) -> None:
  """An axis of size one, or none of them."""
  x = d.value('fc')
  value = d.values[x]
  ones = [i for i in value.features if value.length(i) == 1]
  if ones:
    _reshape(d, x, value.without(ones[0]).axes)
    return
  at = d.one_of(range(len(value.axes) + 1))
  d.do(
    f'expand_dims({{0}}, {at})',
    lambda b, u, x: jnp.expand_dims(x, at),
    [x],
    value.inserted(at, 1),
  )


@operation(2)
def repeated(d: Draft) -> None:
  """Copies on an axis of their own, or merged with the batch."""
  x = d.value('fc')
  value = d.values[x]
  style = d.one_of(['broadcast', 'stack', 'repeat', 'tile'])
  at = d.one_of(range(len(value.axes) + 1))
  if style == 'broadcast':
    made = value.inserted(at, 2)
    d.do(
      f'broadcast(expand_dims({{0}}, {at}), 2 along {at})',
      lambda b, u, x: jnp.broadcast_to(jnp.expand_dims(x, at), made.shape(b)),
      [x],
      made,
    )
  elif style == 'stack':
    d.do(
      f'stack([{{0}}, 0.5 * {{0}}, -{{0}}], {at})',
      lambda b, u, x: jnp.stack([x, 0.5 * x, -x], at),
      [x],
      value.inserted(at, 3),
    )
  else:
    at = value.batch_axis
    axis = value.axes[at]
    axis = (*axis, 2) if style == 'repeat' else (2, *axis)
    axes = (*value.axes[:at], axis, *value.axes[at + 1 :])
    times = [2 if i == at else 1 for i in range(len(axes))]
    d.do(
      f'repeat({{0}}, 2, {at})'
      if style == 'repeat'
      else f'tile({{0}}, {times})',
      lambda b, u, x: (
        jnp.repeat(x, 2, at) if style == 'repeat' else jnp.tile(x, times)
      ),
      [x],
      value._replace(axes=axes),
    )


@operation()
def two_views(d: Draft) -> None:
  """Two values one behind the other along the batch, as two augmentations."""
  x = d.value('f')
  y, order = d.like(x)
  value = d.values[x]
  at = value.batch_axis
  axes = (*value.axes[:at], (2, *value.axes[at]), *value.axes[at + 1 :])
  d.do(
    f'concatenate([{{0}}, {{1}}.transpose{tuple(order)}], {at})',
    lambda b, u, x, y: jnp.concatenate([x, jnp.transpose(y, order)], at),
    [x, y],
    value._replace(axes=axes),
  )


@operation()
def apart_again(d: Draft) -> None:
  """The views are split and meet."""
  x = d.value('f', lambda v: v.axes[v.batch_axis][:1] == (2,))
  value = d.values[x]
  at = value.batch_axis
  if len(value.axes[at]) < 2:
    raise UnfitError
  axes = (*value.axes[:at], value.axes[at][1:], *value.axes[at + 1 :])

  def run(b: int, u: dict, x: jnp.ndarray) -> jnp.ndarray:
    left, right = jnp.split(x, 2, at)
    return left * jnp.tanh(right)

  d.do(
    f'left * tanh(right) of split({{0}}, 2, {at})',
    run,
    [x],
    value._replace(axes=axes),
  )
