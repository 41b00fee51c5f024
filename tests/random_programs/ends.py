"""Both ends of a program: its inputs, and its outputs with their loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import networks
import numpy as np
from drafts import Atom, B, Draft, Value, rows

Tree = Any
Array = jax.Array


class Loss(NamedTuple):
  """A loss of one sample: `phi(output, target)`, pytrees of one structure.

  Attributes:
    name: that of the library's own loss, where it has this one.
    phi: the function.
  """

  name: str
  phi: Callable[[Tree, Tree], Array]


def _squares(output: Tree, target: Tree) -> Array:
  parts = jax.tree.map(
    lambda o, t: 0.5 * jnp.sum(jnp.abs(o - t) ** 2), output, target
  )
  return sum(jax.tree.leaves(parts))


def _log_cosh(output: Tree, target: Tree) -> Array:
  parts = jax.tree.map(
    lambda o, t: jnp.sum(jnp.log(jnp.cosh(o - t))), output, target
  )
  return sum(jax.tree.leaves(parts))


def _bent(output: Tree, target: Tree) -> Array:
  """Complex outputs: neither part is treated like the other."""
  parts = jax.tree.map(
    lambda o, t: (
      jnp.sum(jnp.log(jnp.cosh(jnp.real(o - t))))
      + 0.3 * jnp.sum(jnp.imag(o - t) ** 2)
    ),
    output,
    target,
  )
  return sum(jax.tree.leaves(parts))


def _cauchy(output: Tree, target: Tree) -> Array:
  parts = jax.tree.map(networks.cauchy, output, target)
  return sum(jax.tree.leaves(parts))


SQUARED = Loss('squared_error', networks.squared)
SOFTMAX = Loss('softmax_cross_entropy', networks.soft_cross_entropy)
SQUARES = Loss('squares', _squares)
LOG_COSH = Loss('log_cosh', _log_cosh)
CAUCHY = Loss('cauchy', _cauchy)
BENT = Loss('bent', _bent)


def entries_of(d: Draft) -> tuple[dict[str, int], bool]:
  """Features, and often something beside them."""
  main = d.one_of(
    [[3], [3, 2], [2, 3], [4], [4, 2], [3, 3], [2, 2, 2], [3, 2, 2]]
  )
  entries = {'x': Value(((B,), *((n,) for n in main)))}
  beside = d.one_of(
    ['', '', '', 'ids', 'second', 'id', 'mask', 'spectrum', 'tokens', 'nothing']
  )
  time = main[:1] if len(main) > 1 else []
  entries |= {
    'ids': {'ids': Value(((B,), *((n,) for n in time)), 'i', 3)},
    'id': {'id': Value(((B,),), 'i', 2)},
    'tokens': {'tokens': Value(((B,), (3,)), 'i', 4)},
    'mask': {'mask': Value(((B,), *((n,) for n in main)), '?')},
    'spectrum': {'z': Value(((B,), (2,)), 'c')},
    'second': {'y': Value(((B,), *((n,) for n in main)))},
    'nothing': {'extra': Value(((B,), (0,)))},
  }.get(beside, {})
  # The features come last: they are what the first operation reads.
  names = list(entries)[::-1]
  d.values += [entries[name] for name in names]
  if 'extra' in entries:
    i, j = names.index('x'), names.index('extra')
    if len(main) == 1:
      d.do(
        'concatenate([{0}, {1}], 1)',
        lambda b, u, x, extra: jnp.concatenate([x, extra], 1),
        [i, j],
        entries['x'],
      )
    d.consumed.add(j)
  return {name: names.index(name) for name in names}, len(names) == 1


def exits_of(d: Draft) -> tuple[dict[str, int], bool, Loss]:
  """Outputs of what nobody has read, and a loss for them."""
  inputs = {i for i, v in enumerate(d.values)} - {
    i for atom in d.atoms for i in atom.makes
  }
  left = [
    i
    for i, v in enumerate(d.values)
    if v.kind in 'fc' and i not in d.consumed and i not in inputs
  ]
  if not left:  # integers alone, or nothing was done
    left = [i for i, v in enumerate(d.values) if v.kind in 'fc' and v.size][-1:]
  style = d.one_of(['joined', 'joined', 'apart', 'complex'])
  module = 'head'
  complex_out = style == 'complex' and d.seldom(4)
  if style == 'apart' and len(left) > 1:
    exits = {
      f'o{n}': _to_outputs(d, [i], f'{module}{n}', False)
      for n, i in enumerate(left[:2])
    }
    if left[2:]:
      exits['o2'] = _to_outputs(d, left[2:], f'{module}2', False)
    return exits, False, d.one_of([SQUARES, LOG_COSH])
  out = _to_outputs(d, left, module, complex_out)
  if complex_out:
    return {'o': out}, True, d.one_of([SQUARES, BENT])
  loss = d.one_of([SQUARED, SOFTMAX, LOG_COSH, CAUCHY])
  return {'o': out}, True, loss


def _to_outputs(
  d: Draft, found: list[int], module: str, complex_out: bool
) -> int:
  """A layer of two or three outputs on rows of all numbers found."""
  values = [d.values[i] for i in found]
  size = sum(v.size * (2 if v.kind == 'c' else 1) for v in values)

  def join(b: int, u: Any, *xs: Array) -> Array:
    parts = []
    for value, x in zip(values, xs, strict=True):
      r = rows(value, b, x)
      parts += [r.real, r.imag] if value.kind == 'c' else [r]
    joined = jnp.concatenate(parts, axis=1)
    if size <= 12:
      return joined
    # Wide rows are folded by fixed numbers, which keeps the head small.
    angles = np.arange(size * 8).reshape(size, 8)
    return joined @ jnp.asarray(np.cos(1.7 * angles) / np.sqrt(size / 4))

  width = size if size <= 12 else 8
  names = ', '.join(f'{{{i}}}' for i in range(len(found)))
  largest = max(width, 1)
  joined = len(d.values)
  d.values.append(Value(((B,), (largest,))))
  d.atoms.append(
    Atom(
      f'v{joined} = rows({names.format(*(f"v{i}" for i in found))})  '
      f'# {d.values[joined]}',
      lambda b, u, *xs: (join(b, u, *xs),),
      tuple(found),
      (joined,),
    )
  )
  out = d.one_of([2, 3, 2])
  kind = 'c' if complex_out else 'f'
  w = d.leaf(module, 'w', (largest, out), kind, 1.2 / np.sqrt(largest))
  return d.do(
    '{0} @ {1}',
    lambda b, u, x: x @ u[w],
    [joined],
    Value(((B,), (out,)), kind),
    [w],
  )
