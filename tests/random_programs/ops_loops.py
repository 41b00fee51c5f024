"""Operations that run a body several times: `scan` and `fori_loop`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from drafts import WIDTHS, Draft, UnfitError
from ops import has_features, has_two, operation

Array = jax.Array


@operation(4)
def recurrent(d: Draft) -> None:
  """A cell over time; the carry may hold a counter or a time as well."""
  x = d.value('f', has_two)
  value = d.values[x]
  feature, time = value.features[:2]
  if d.seldom(3):
    feature, time = time, feature
  n, h = value.length(feature), d.one_of(WIDTHS)
  carry = d.one_of(['plain', 'counter', 'time', 'largest'])
  style = d.one_of(['last', 'all', 'reverse', 'learned_start'])
  module = d.module()
  wx, wh = d.leaf(module, 'x', (n, h)), d.leaf(module, 'h', (h, h), scale=0.5)
  leaves = [wx, wh]
  if style == 'learned_start':
    leaves.append(d.leaf(module, 'start', (h,)))

  def run(b: int, u: Any, x: Array) -> Array:
    xs = jnp.moveaxis(x, (time, feature), (0, -1))
    shape = (*xs.shape[1:-1], h)
    start = jnp.zeros(shape)
    if style == 'learned_start':
      start = jnp.broadcast_to(u[leaves[2]], shape)

    def step(state: Any, x: Array) -> tuple[Any, Array]:
      h, extra = state
      drive = h @ u[wh] + x @ u[wx]
      if carry == 'counter':
        drive, extra = drive / (1 + extra), extra + 1
      elif carry == 'time':
        drive, extra = drive + jnp.sin(extra), extra + 0.3
      h = jnp.tanh(drive)
      if carry == 'largest':
        extra = jnp.maximum(extra, h)
      return (h, extra), h

    extra = {'counter': jnp.asarray(0), 'largest': jnp.full(shape, -1.0)}.get(
      carry, jnp.asarray(0.0)
    )
    (last, extra), ys = jax.lax.scan(
      step, (start, extra), xs, reverse=style == 'reverse'
    )
    if style in ('all', 'reverse'):
      return ys
    return last + extra if carry == 'largest' else last

  rest = [a for i, a in enumerate(value.axes) if i not in (time, feature)]
  front = [value.axes[time]] if style in ('all', 'reverse') else []
  d.do(
    f'scan of a cell ({carry}, {style}) over {{0}} along {time}'
    f' with {", ".join(leaves)}',
    run,
    [x],
    value._replace(axes=(*front, *rest, (h,))),
    leaves,
  )


@operation(2)
def scanned(d: Draft) -> None:
  """A scan without parameters, over time or over samples."""
  x = d.value('f', has_features)
  value = d.values[x]
  style = d.one_of(['time', 'samples', 'vmap'])
  if style != 'time' and not value.pure:
    raise UnfitError
  axis = d.one_of(value.features)

  def over_time(x: Array, axis: int) -> Array:
    xs = jnp.moveaxis(x, axis, 0)

    def step(state: tuple[Array, Array], x: Array) -> Any:
      h, i = state
      h = jnp.tanh(0.5 * h + x)
      return (h, i + 1), h * (1 + 0.2 * i)

    start = jnp.zeros_like(xs[0]), jnp.asarray(0)
    return jnp.moveaxis(jax.lax.scan(step, start, xs)[1], 0, axis)

  at = value.batch_axis
  inner = axis - (axis > at)

  def run(b: int, u: Any, x: Array) -> Array:
    if style == 'time':
      return over_time(x, axis)
    if style == 'vmap':
      return jax.vmap(lambda x: over_time(x, inner), at, at)(x)
    rows = jnp.moveaxis(x, at, 0)
    _, ys = jax.lax.scan(lambda _, x: ((), over_time(x, inner)), (), rows)
    return jnp.moveaxis(ys, 0, at)

  d.do(f'scan by {style} over {{0}} along {axis}', run, [x], value)


@operation(3)
def repeated_layer(d: Draft) -> None:
  """One layer several times by `fori_loop`, a skip around the loop."""
  x = d.value('f', has_features)
  value = d.values[x]
  axis, n = value.features[0], value.length(value.features[0])
  style = d.one_of(['plain', 'residual', 'time', 'counter'])
  w = d.leaf(d.module(), 'w', (n, n), scale=0.6)

  def run(b: int, u: Any, x: Array) -> Array:
    start = jnp.moveaxis(x, axis, -1)

    def body(i: Array, state: Any) -> Any:
      h, t = state
      change = jnp.tanh(h @ u[w] + 0.1 * t)
      if style == 'counter':
        change = change / (1 + i)
      return (h + 0.3 * change if style != 'plain' else change), t + 0.5

    t = jnp.asarray(0.0)
    h, _ = jax.lax.fori_loop(0, 3, body, (start, t))
    return jnp.moveaxis(h, -1, axis)

  h = d.do(
    f'fori_loop(0, 3, {style} layer {{1}}, {{0}}) along {axis}',
    run,
    [x],
    value,
    [w],
  )
  if d.seldom(2):
    d.do('{0} + {1}', lambda b, u, x, y: x + y, [x, h], value)


@operation(2)
def stacked_layers(d: Draft) -> None:
  """A scan over the parameters of layers; the batch is in the carry."""
  x = d.value('f', has_features)
  value = d.values[x]
  axis, n = value.features[0], value.length(value.features[0])
  style = d.one_of(['plain', 'residual', 'outputs'])
  w = d.leaf(d.module(), 'w', (3, n, n), scale=0.6)

  def run(b: int, u: Any, x: Array) -> Array:
    start = jnp.moveaxis(x, axis, -1)

    def step(h: Array, w: Array) -> tuple[Array, Array]:
      new = jnp.tanh(h @ w)
      return (new if style == 'plain' else h + 0.5 * new), new

    last, news = jax.lax.scan(step, start, u[w])
    return jnp.moveaxis(news[-2] if style == 'outputs' else last, -1, axis)

  d.do(
    f'scan of {style} layers {{1}} over {{0}} along {axis}',
    run,
    [x],
    value,
    [w],
  )


@operation(2)
def looped(d: Draft) -> None:
  """A loop without parameters that reads by its counter, or branches."""
  x = d.value('f', has_features)
  value = d.values[x]
  axis = d.one_of(value.features)
  style = d.one_of(['reads', 'writes', 'ode', 'cond'])
  n = value.length(axis)

  def body(i: Array, state: Any) -> Any:
    x, h, t = state
    if style == 'reads':
      row = jax.lax.dynamic_index_in_dim(x, i, axis, keepdims=True)
      h = h + 0.5 * jnp.sin(row) * h
    elif style == 'writes':
      row = jax.lax.dynamic_index_in_dim(h, i, axis, keepdims=True)
      h = jax.lax.dynamic_update_slice_in_dim(h, jnp.tanh(row), i, axis)
    elif style == 'ode':
      h = h + 0.2 * jnp.sin(h + t)
    else:
      h = jax.lax.cond(i % 2 == 0, jnp.tanh, lambda h: h + 0.3 * x, h)
    return x, h, t + 0.2

  def run(b: int, u: Any, x: Array) -> Array:
    return jax.lax.fori_loop(0, n, body, (x, x, jnp.asarray(0.0)))[1]

  d.do(f'fori_loop(0, {n}, {style}, {{0}}) along {axis}', run, [x], value)
