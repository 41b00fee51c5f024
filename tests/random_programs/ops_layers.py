"""Operations with parameters: one contraction each, and what belongs to it.

Each reads its kernel before anything that is not linear in its values; biases,
activations and normalisations are atoms of their own.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from drafts import WIDTHS, Draft, UnfitError
from ops import has_features, has_two, letters, operation
from ops_elementwise import REAL

Array = jax.Array


def activated(d: Draft, x: int) -> int:
  """Something that is not linear, most of the time."""
  name = d.one_of(['tanh', 'gelu', 'silu', 'sin', ''])
  if not name:
    return x
  f = REAL[name]
  return d.do(f'{name}({{0}})', lambda b, u, x: f(x), [x], d.values[x])


def biased(d: Draft, x: int, axis: int, kernel: str) -> int:
  """A bias along an axis, in the module of the kernel if that is new."""
  if not d.seldom(2):
    return x
  value = d.values[x]
  reads = [path for atom in d.atoms for path in atom.leaves]
  module = kernel.split('/')[0]
  if reads.count(kernel) > 1:
    module = d.module()
  path = d.leaf(module, f'b{len(d.leaves)}', (value.length(axis),), scale=0.4)
  shape = [1] * len(value.axes)
  shape[axis] = value.length(axis)
  d.do(
    f'{{0}} + {{1}}.reshape({shape})',
    lambda b, u, x: x + u[path].reshape(shape),
    [x],
    value,
    [path],
  )
  return len(d.values) - 1


@operation(14)
def dense(d: Draft) -> None:
  """One axis by a matrix, in the ways that people write it."""
  x = d.value('f', has_features)
  value = d.values[x]
  axis = d.one_of(value.features)
  n, out = value.length(axis), d.one_of(WIDTHS)
  style = d.one_of(
    ['matmul', 'transposed', 'einsum', 'front', 'in_place', 'vmap', 'flipped']
  )
  word, last = letters(value), len(value.axes) - 1
  w = d.kernel((out, n) if style in ('transposed', 'front') else (n, out))
  at = {'in_place': axis, 'front': 0, 'flipped': 0}.get(style, last)
  rest = value.without(axis)
  if style == 'einsum':
    at = d.one_of(range(len(value.axes)))
  rule = f'{word},{word[axis]}z->' + (
    word.replace(word[axis], '')[:at] + 'z' + word.replace(word[axis], '')[at:]
  )

  def run(b: int, u: Any, x: Array) -> Array:
    moved = jnp.moveaxis(x, axis, -1)
    if style == 'matmul':
      return moved @ u[w]
    if style == 'transposed':
      return moved @ u[w].T
    if style == 'front':
      return jnp.tensordot(u[w], x, ((1,), (axis,)))
    if style == 'flipped':
      return jnp.tensordot(u[w], x, ((0,), (axis,)))
    if style == 'in_place':
      return jnp.moveaxis(moved @ u[w], -1, axis)
    if style == 'vmap':
      return jax.vmap(lambda row: row @ u[w])(moved)
    return jnp.einsum(rule, x, u[w])

  if style == 'vmap' and len(value.axes) < 2:
    raise UnfitError
  h = d.do(
    f'{style}({{0}} along {axis}, {{1}}) to {at}',
    run,
    [x],
    rest.inserted(at, out),
    [w],
  )
  activated(d, biased(d, h, at, w))


@operation(3)
def several_axes(d: Draft) -> None:
  """`einsum` with a kernel of three or four axes."""
  x = d.value('f', lambda v: len(v.features) >= 2)
  value = d.values[x]
  first, second = value.features[:2]
  word = letters(value)
  style = d.one_of(['both', 'heads', 'each_its_own', 'both_to_two'])
  sizes = {word[i]: value.length(i) for i in (first, second)}
  sizes |= {'y': 2, 'z': d.one_of(WIDTHS)}
  f, s = word[first], word[second]
  kernel, out = {
    'both': (f + s + 'z', word.replace(f, '').replace(s, '') + 'z'),
    'heads': (f + 'yz', 'y' + word.replace(f, '') + 'z'),
    'each_its_own': (s + f + 'z', word.replace(f, 'z')),
    'both_to_two': (s + f + 'zy', word.replace(f, 'y').replace(s, 'z')),
  }[style]
  w = d.kernel([sizes[c] for c in kernel])
  axes = tuple(
    value.axes[word.index(c)] if c in word else (sizes[c],) for c in out
  )
  rule = f'{word},{kernel}->{out}'
  h = d.do(
    f"einsum('{rule}', {{0}}, {{1}})",
    lambda b, u, x: jnp.einsum(rule, x, u[w]),
    [x],
    value._replace(axes=axes),
    [w],
  )
  activated(d, h)


@operation(3)
def scale_and_shift(d: Draft) -> None:
  """A normalisation of features and its two vectors."""
  x = d.value('f', has_features)
  value = d.values[x]
  axis = value.features[0]
  n = value.length(axis)
  module = d.module()
  if not d.seldom(3):

    def norm(b: int, u: Any, x: Array) -> Array:
      x = x - jnp.mean(x, axis, keepdims=True)
      return x / jnp.sqrt(jnp.mean(x * x, axis, keepdims=True) + 0.1)

    x = d.do(f'normalised({{0}}, {axis})', norm, [x], value)
  g = d.leaf(module, 'g', (n,), scale=0.5, mean=1.0)
  c = d.leaf(module, 'c', (n,), scale=0.5)
  shape = [1] * len(value.axes)
  shape[axis] = n
  d.do(
    f'{{0}} * {{1}} + {{2}} along {axis}',
    lambda b, u, x: x * u[g].reshape(shape) + u[c].reshape(shape),
    [x],
    value,
    [g, c],
  )


@operation(3)
def convolution(d: Draft) -> None:
  """One or two axes of space, the axes of the value in any order."""
  x = d.value('f', lambda v: len(v.axes) in (3, 4) and len(v.features) > 1)
  value = d.values[x]
  batch, channel = value.batch_axis, d.one_of(value.features)
  space = [i for i in range(len(value.axes)) if i not in (batch, channel)]
  n, out = value.length(channel), d.one_of(WIDTHS)
  style = d.one_of(['same', 'valid', 'stride', 'dilated', 'groups', 'upward'])
  if style == 'valid' and any(value.length(i) < 2 for i in space):
    raise UnfitError
  if style == 'groups' and n % 2:
    raise UnfitError
  groups = 2 if style == 'groups' else 1
  out = 2 * out if groups == 2 and out % 2 else out
  marks = {batch: 'N', channel: 'C'} | dict(zip(space, 'HW', strict=False))
  spec = ''.join(marks[i] for i in range(len(value.axes)))
  taps = 'HW'[: len(space)]
  swapped = d.seldom(2)
  kernel_spec = 'OI' + taps if swapped else taps + 'IO'
  sizes = {'I': n // groups, 'O': out, 'H': 2, 'W': 2}
  w = d.kernel([sizes[c] for c in kernel_spec])
  out_spec = spec if not d.seldom(2) else spec[::-1]
  padding: Any = 'VALID' if style == 'valid' else 'SAME'
  if style == 'upward':
    padding = [(1, 1)] * len(space)
  options: dict[str, Any] = {
    'window_strides': (2 if style == 'stride' else 1,) * len(space),
    'padding': padding,
    'lhs_dilation': (2 if style == 'upward' else 1,) * len(space),
    'rhs_dilation': (2 if style == 'dilated' else 1,) * len(space),
    'dimension_numbers': (spec, kernel_spec, out_spec),
    'feature_group_count': groups,
  }

  def run(b: int, u: Any, x: Array) -> Array:
    return jax.lax.conv_general_dilated(x, u[w], **options)

  # Lengths of space as the operation itself has them.
  shapes = jax.eval_shape(
    lambda x, w: jax.lax.conv_general_dilated(x, w, **options),
    jax.ShapeDtypeStruct(value.shape(1), 'float64'),
    jax.ShapeDtypeStruct(d.leaves[w].shape, 'float64'),
  )
  made = tuple(
    value.axes[batch] if mark == 'N' else (shapes.shape[i],)
    for i, mark in enumerate(out_spec)
  )
  h = d.do(
    f'conv({{0}}, {{1}}, {spec}, {kernel_spec}, {out_spec}, {style})',
    run,
    [x],
    value._replace(axes=made),
    [w],
  )
  activated(d, biased(d, h, out_spec.index('C'), w))


@operation(3)
def attention(d: Draft) -> None:
  """Softmax attention along one axis, in the value's own layout."""
  x = d.value('f', has_two)
  value = d.values[x]
  feature, time = value.features[:2]
  n, word = value.length(feature), letters(value)
  t, f = word[time], word[feature]
  causal = d.seldom(3)
  own = d.seldom(2)
  module = d.module()
  made = []
  for name in 'qkv':
    if own and name != 'q':
      module = d.module()
    w = d.leaf(module, name, (n, 2))
    rule = f'{word},{f}z->{word.replace(f, "z")}'
    made.append(
      d.do(
        f"einsum('{rule}', {{0}}, {{1}})",
        lambda b, u, x, w=w, rule=rule: jnp.einsum(rule, x, u[w]),
        [x],
        value.with_axis(feature, 2),
        [w],
      )
    )
  rest = word.replace(t, '').replace(f, '')
  scores = f'{word},{word.replace(t, "z")}->{rest}{t}z'
  back = f'{rest}{t}z,{word.replace(t, "z")}->{word}'

  def mix(b: int, u: Any, q: Array, k: Array, v: Array) -> Array:
    s = jnp.einsum(scores, q, k)
    if causal:
      s = jnp.where(jnp.tril(jnp.ones(s.shape, bool)), s, -jnp.inf)
    return jnp.einsum(back, jax.nn.softmax(s), v)

  h = d.do(
    f'attention({{0}}, {{1}}, {{2}}) along {time}' + ', causal' * causal,
    mix,
    made,
    value.with_axis(feature, 2),
  )
  w = d.leaf(module, 'o', (2, n))
  rule = f'{word},{f}z->{word.replace(f, "z")}'
  y = d.do(
    f"einsum('{rule}', {{0}}, {{1}})",
    lambda b, u, x: jnp.einsum(rule, x, u[w]),
    [h],
    value,
    [w],
  )
  d.do('{0} + {1}', lambda b, u, x, y: x + y, [x, y], value)
