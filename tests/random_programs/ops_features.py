"""Operations along axes of features, without parameters."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from drafts import WIDTHS, Draft, UnfitError
from ops import has_features, has_two, is_pure, letters, operation

Array = jax.Array


def normalised(x: Array, axis: int) -> Array:
  x = x - jnp.mean(x, axis, keepdims=True)
  return x / jnp.sqrt(jnp.mean(x * x, axis, keepdims=True) + 0.1)


KEPT: dict[str, Any] = {
  'softmax': jax.nn.softmax,
  'normalised': normalised,
  'log_softmax': jax.nn.log_softmax,
  'roll': lambda x, axis: jnp.roll(x, 1, axis),
  'flip': jnp.flip,
  'cumsum': jnp.cumsum,
  'cumprod': lambda x, axis: jnp.cumprod(x, axis),
  'cummax': lambda x, axis: jax.lax.cummax(x, axis),
  'cumlogsumexp': lambda x, axis: jax.lax.cumlogsumexp(x, axis, reverse=True),
  'sort': lambda x, axis: jnp.sort(x, axis),
  'diff_to_mean': lambda x, axis: x - jnp.mean(x, axis, keepdims=True),
  'rms': lambda x, axis: (
    x / jnp.sqrt(jnp.mean(x * x, axis, keepdims=True) + 0.1)
  ),
}
KEPT_COMPLEX = ('roll', 'flip', 'cumsum', 'diff_to_mean')
REDUCED: dict[str, Any] = {
  'sum': jnp.sum,
  'mean': jnp.mean,
  'max': jnp.max,
  'min': jnp.min,
  'prod': jnp.prod,
  'logsumexp': jax.nn.logsumexp,
  'var': jnp.var,
  'length': lambda x, axis: jnp.sqrt(jnp.sum(x * x, axis) + 0.1),
  'last': lambda x, axis: jnp.take(x, -1, axis),
}


@operation(5)
def along(d: Draft) -> None:
  x = d.value('fc', has_features)
  value = d.values[x]
  axis = d.one_of(value.features)
  names = [n for n in KEPT if value.kind == 'f' or n in KEPT_COMPLEX]
  name = d.one_of(names)
  f = KEPT[name]
  d.do(f'{name}({{0}}, {axis})', lambda b, u, x: f(x, axis=axis), [x], value)


@operation(2)
def reduced(d: Draft) -> None:
  x = d.value('f', has_features)
  value = d.values[x]
  axis = d.one_of(value.features)
  name = d.one_of(list(REDUCED))
  f = REDUCED[name]
  made = value.without(axis)
  d.do(f'{name}({{0}}, {axis})', lambda b, u, x: f(x, axis=axis), [x], made)


@operation(3)
def lengthened(d: Draft) -> None:
  """Padded, or joined with another value or with a part of itself."""
  x = d.value('fc', has_features)
  value = d.values[x]
  axis = d.one_of(value.features)
  name = d.one_of(['pad', 'concatenate', 'wrap', 'reflect', 'edge'])
  if name == 'concatenate':
    others = [
      y
      for y, other in enumerate(d.values)
      if y != x
      and other.kind == value.kind
      and len(other.axes) == len(value.axes)
      and axis in other.features
      and other.without(axis) == value.without(axis)
    ]
    y = d.one_of(others[::-1])
    length = value.length(axis) + d.values[y].length(axis)
    d.do(
      f'concatenate([{{0}}, {{1}}], {axis})',
      lambda b, u, x, y: jnp.concatenate([x, y], axis),
      [x, y],
      value.with_axis(axis, length),
    )
    return
  after = d.one_of([0, 1])
  widths = [(1, after) if i == axis else (0, 0) for i in range(len(value.axes))]
  mode = 'constant' if name == 'pad' else name
  if name == 'reflect' and value.length(axis) < 2:
    raise UnfitError
  d.do(
    f'pad({{0}}, {widths}, {mode!r})',
    lambda b, u, x: jnp.pad(x, widths, mode=mode),
    [x],
    value.with_axis(axis, value.length(axis) + 1 + after),
  )


@operation(3)
def shortened(d: Draft) -> None:
  """Slices, with steps and from behind, static and dynamic."""
  x = d.value('fc', lambda v: any(v.length(i) > 1 for i in v.features))
  value = d.values[x]
  axis = d.one_of([i for i in value.features if value.length(i) > 1])
  n = value.length(axis)
  name = d.one_of(['first', 'step', 'backward', 'dynamic', 'indexed'])
  if name in ('first', 'step', 'backward'):
    part = {'first': slice(0, n - 1), 'step': slice(0, n, 2)}.get(
      name, slice(n - 1, 0, -1)
    )
    index = tuple(
      part if i == axis else slice(None) for i in range(len(value.axes))
    )
    d.do(
      f'{{0}}[{part} along {axis}]',
      lambda b, u, x: x[index],
      [x],
      value.with_axis(axis, len(range(n)[part])),
    )
  elif name == 'dynamic':
    d.do(
      f'dynamic_slice_in_dim({{0}}, 1, {n - 1}, {axis})',
      lambda b, u, x: jax.lax.dynamic_slice_in_dim(
        x, jnp.asarray(1), n - 1, axis
      ),
      [x],
      value.with_axis(axis, n - 1),
    )
  else:
    places = np.array([n - 1, 0, n - 1][:2])
    d.do(
      f'take({{0}}, {places.tolist()}, {axis})',
      lambda b, u, x: jnp.take(x, places, axis),
      [x],
      value.with_axis(axis, len(places)),
    )


@operation(2)
def halves(d: Draft) -> None:
  """A gated linear unit, or a rotation of pairs."""
  x = d.value('f', lambda v: any(v.length(i) in (2, 4) for i in v.features))
  value = d.values[x]
  axis = d.one_of([i for i in value.features if value.length(i) in (2, 4)])
  name = d.one_of(['glu', 'rotated'])
  n = value.length(axis)

  def run(b: int, u: Any, x: Array) -> Array:
    left, right = jnp.split(x, 2, axis)
    if name == 'glu':
      return left * jax.nn.sigmoid(right)
    return jnp.concatenate([0.8 * left - 0.6 * right, left + right], axis)

  made = value.with_axis(axis, n // 2) if name == 'glu' else value
  d.do(f'{name} of split({{0}}, 2, {axis})', run, [x], made)


@operation()
def written(d: Draft) -> None:
  """A part is replaced, or added to: scatter and dynamic_update_slice."""
  x = d.value('f', has_features)
  value = d.values[x]
  axis = d.one_of(value.features)
  name = d.one_of(['set', 'add', 'update_slice'])

  def run(b: int, u: Any, x: Array) -> Array:
    y = jnp.moveaxis(x, axis, 0)
    if name == 'set':
      y = y.at[0].set(jnp.tanh(y[-1]))
    elif name == 'add':
      y = y.at[jnp.array([0, 0])].add(0.5 * y[-1:])
    else:
      y = jax.lax.dynamic_update_slice_in_dim(y, jnp.sin(y[:1]), 0, 0)
    return jnp.moveaxis(y, 0, axis)

  d.do(f'{{0}} with {name} along {axis}', run, [x], value)


@operation(3)
def fourier(d: Draft) -> None:
  """To frequencies."""
  x = d.value('fc', lambda v: any(v.length(i) > 1 for i in v.features))
  value = d.values[x]
  axis = d.one_of([i for i in value.features if value.length(i) > 1])
  n = value.length(axis)
  if value.kind == 'f' and not d.seldom(3):
    name, f, n = 'rfft', jnp.fft.rfft, n // 2 + 1
  else:
    name, f = 'fft', jnp.fft.fft
  d.do(
    f'{name}({{0}}, axis={axis})',
    lambda b, u, x: f(x, axis=axis),
    [x],
    value.with_axis(axis, n)._replace(kind='c'),
  )


@operation(3)
def fourier_back(d: Draft) -> None:
  """From frequencies."""
  z = d.value('c', lambda v: any(v.length(i) > 1 for i in v.features))
  value = d.values[z]
  axis = d.one_of([i for i in value.features if value.length(i) > 1])
  n = value.length(axis)
  if d.seldom(3):
    f: Any = lambda z: jnp.fft.ifft(z, axis=axis)  # noqa: E731
    made, name = value, 'ifft'
  else:
    n = 2 * (n - 1) + d.one_of([0, 1])
    f = lambda z: jnp.fft.irfft(z, n=n, axis=axis)  # noqa: E731
    made, name = value.with_axis(axis, n)._replace(kind='f'), f'irfft to {n}'
  d.do(f'{name}({{0}}, axis={axis})', lambda b, u, z: f(z), [z], made)


@operation(2)
def window(d: Draft) -> None:
  """Pooling along one axis."""
  x = d.value('f', lambda v: any(v.length(i) > 1 for i in v.features))
  value = d.values[x]
  axis = d.one_of([i for i in value.features if value.length(i) > 1])
  name = d.one_of(['sum', 'max'])
  step = d.one_of([1, 2])
  sizes = tuple(2 if i == axis else 1 for i in range(len(value.axes)))
  steps = tuple(step if i == axis else 1 for i in range(len(value.axes)))

  def run(b: int, u: Any, x: Array) -> Array:
    start, op = {
      'sum': (0.0, jax.lax.add),
      'max': (-jnp.inf, jax.lax.max),
    }[name]
    return jax.lax.reduce_window(x, start, op, sizes, steps, 'VALID')

  made = value.with_axis(axis, (value.length(axis) - 2) // step + 1)
  d.do(f'reduce_window({{0}}, {name}, 2, {step}, along {axis})', run, [x], made)


@operation(2)
def products(d: Draft) -> None:
  """Samples of two values by each other: all pairs along one axis."""
  x = d.value('fc', has_features)
  y, order = d.like(x)
  value = d.values[x]
  if d.values[y].kind != value.kind:
    raise UnfitError
  word = letters(value)
  axis = d.one_of(value.features)
  second = word.replace(word[axis], 'z')
  others = [i for i in value.features if i != axis]
  if others and d.seldom(2):  # summed over one of the others
    summed = d.one_of(others)
    out = word.replace(word[summed], 'z')
    made = value.with_axis(summed, value.length(axis))
  else:
    out = word + 'z'
    made = value._replace(axes=(*value.axes, value.axes[axis]))
  places = ''.join(second[order.index(i)] for i in range(len(order)))
  rule = f'{word},{places}->{out}'
  d.do(
    f"einsum('{rule}', {{0}}, {{1}})",
    lambda b, u, x, y: jnp.einsum(rule, x, 0.7 * y),
    [x, y],
    made,
  )


@operation()
def mixed_by_a_constant(d: Draft) -> None:
  """A fixed matrix along one axis: a resize, a positional filter."""
  x = d.value('fc', has_features)
  value = d.values[x]
  axis = d.one_of(value.features)
  n, out = value.length(axis), d.one_of(WIDTHS)
  matrix = np.cos(np.arange(n * out).reshape(n, out) + 0.3)
  if d.seldom(2) and value.kind == 'f':
    shape = value.with_axis(axis, out)
    d.do(
      f'image.resize({{0}}, {out} along {axis})',
      lambda b, u, x: jax.image.resize(x, shape.shape(b), 'linear'),
      [x],
      shape,
    )
    return
  d.do(
    f'{{0}} by a fixed matrix along {axis} to {out}',
    lambda b, u, x: jnp.moveaxis(jnp.moveaxis(x, axis, -1) @ matrix, -1, axis),
    [x],
    value.with_axis(axis, out),
  )


@operation()
def solved(d: Draft) -> None:
  """A small linear system for each sample."""
  x = d.value('f', has_two)
  value = d.values[x]
  first, second = value.features[:2]
  if value.length(first) > 3 or value.length(second) > 3:
    raise UnfitError

  def run(b: int, u: Any, x: Array) -> Array:
    y = jnp.moveaxis(x, (second, first), (-2, -1))
    gram = y @ jnp.swapaxes(y, -1, -2)
    gram = gram + jnp.broadcast_to(jnp.eye(y.shape[-2]), gram.shape)
    return jnp.moveaxis(jnp.linalg.solve(gram, y), (-2, -1), (second, first))

  d.do(f'solve(I + x x^T, x) of {{0}} in {second}, {first}', run, [x], value)


@operation()
def one_sample_at_a_time(d: Draft) -> None:
  """`vmap` or `lax.map` of a function of one sample, with a `cond` in it."""
  x = d.value('f', is_pure)
  value = d.values[x]
  name = d.one_of(['vmap', 'vmap_cond', 'map', 'map_cond'])
  at = value.batch_axis

  def one(x: Array) -> Array:
    if 'cond' not in name:
      return jnp.tanh(x) * jnp.mean(x)
    return jax.lax.cond(jnp.sum(x) > 0, jnp.tanh, lambda x: 0.5 * x, x)

  def run(b: int, u: Any, x: Array) -> Array:
    if name.startswith('vmap'):
      return jax.vmap(one, at, at)(x)
    return jnp.moveaxis(jax.lax.map(one, jnp.moveaxis(x, at, 0)), 0, at)

  d.do(f'{name}(one)({{0}}) along {at}', run, [x], value)
