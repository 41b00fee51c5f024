"""Networks whose players meet in one add."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from kronecker_cases import Case, draw, parameters
from oracle_recursion import Decision

BATCH = 7


def dense() -> Case:
  """A main path of two layers and a projection without bias."""

  def both(c: Any, layer: Callable) -> jax.Array:
    return jnp.tanh(layer('main', c['h']) + layer('side', c['x']))

  start = (
    Decision(
      ('first',), lambda x, layer: {'h': jnp.tanh(layer('first', x)), 'x': x}
    ),
  )
  apart = (
    Decision(
      ('main',), lambda c, layer: {'h': layer('main', c['h']), 'x': c['x']}
    ),
    Decision(
      ('side',), lambda c, layer: jnp.tanh(c['h'] + layer('side', c['x']))
    ),
  )
  end = (Decision(('end',), lambda h, layer: layer('end', h)),)
  shapes = {'first': (2, 4), 'main': (4, 3), 'side': (2, 3), 'end': (3, 2)}
  return Case(
    (*start, *apart, *end),
    parameters(shapes, ['side']),
    draw(BATCH, 2),
    draw(BATCH, 2, seed=1),
    joint=(*start, Decision(('main', 'side'), both), *end),
  )


def early() -> Case:
  """The shortcut is computed first, and moves next to the merge."""

  def both(c: Any, layer: Callable) -> jax.Array:
    return jnp.tanh(layer('side', c['x']) + layer('main', c['h']))

  apart = (
    Decision(('side',), lambda x, layer: {'s': layer('side', x), 'x': x}),
    Decision(
      ('first',),
      lambda c, layer: {'s': c['s'], 'h': jnp.tanh(layer('first', c['x']))},
    ),
    Decision(
      ('main',), lambda c, layer: jnp.tanh(c['s'] + layer('main', c['h']))
    ),
  )
  first = Decision(
    ('first',), lambda x, layer: {'h': jnp.tanh(layer('first', x)), 'x': x}
  )
  end = Decision(('end',), lambda h, layer: layer('end', h))
  joint = (first, Decision(('side', 'main'), both), end)
  return dense()._replace(chain=(*apart, end), joint=joint)


def three() -> Case:
  """Three players in nested adds, two of the same input; labels."""

  def all_three(c: Any, layer: Callable) -> jax.Array:
    h = layer('a', c['h']) + layer('b', c['x'])
    return jnp.tanh(h + layer('c', c['x']))

  start = (
    Decision(
      ('first',), lambda x, layer: {'h': jnp.tanh(layer('first', x)), 'x': x}
    ),
  )
  apart = (
    Decision(('a',), lambda c, layer: {'s': layer('a', c['h']), 'x': c['x']}),
    Decision(
      ('b',), lambda c, layer: {'s': c['s'] + layer('b', c['x']), 'x': c['x']}
    ),
    Decision(('c',), lambda c, layer: jnp.tanh(c['s'] + layer('c', c['x']))),
  )
  end = (Decision(('end',), lambda h, layer: layer('end', h)),)
  shapes = {
    'first': (2, 3), 'a': (3, 2), 'b': (2, 2), 'c': (2, 2), 'end': (2, 3),
  }  # fmt: skip
  return Case(
    (*start, *apart, *end),
    parameters(shapes, ['a']),
    draw(BATCH, 2),
    draw(BATCH, 3, seed=1),
    joint=(*start, Decision(('a', 'b', 'c'), all_three), *end),
  )


def convolutions() -> Case:
  """A strided convolution and a projection of another kernel size, whose
  positions are aligned by the padding; one has an activation before the add."""

  def main(x: jax.Array, layer: Callable) -> jax.Array:
    return layer('main', x, (2, 2), ((1, 0), (1, 1)))

  def merge(h: jax.Array, g: jax.Array) -> jax.Array:
    return jnp.tanh(jnp.tanh(h) + g).reshape(len(h), -1)

  start = (Decision(('stem',), lambda x, layer: jnp.tanh(layer('stem', x))),)
  apart = (
    Decision(('main',), lambda x, layer: {'h': main(x, layer), 'x': x}),
    Decision(
      ('side',),
      lambda c, layer: merge(c['h'], layer('side', c['x'], (2, 2))),
    ),
  )
  both = Decision(
    ('main', 'side'),
    lambda x, layer: merge(main(x, layer), layer('side', x, (2, 2))),
  )
  end = (Decision(('end',), lambda h, layer: layer('end', h)),)
  shapes = {
    'stem': (2, 2, 1, 2), 'main': (3, 3, 2, 2), 'side': (1, 1, 2, 2),
    'end': (8, 2),
  }  # fmt: skip
  return Case(
    (*start, *apart, *end),
    parameters(shapes),
    draw(BATCH, 4, 4, 1),
    draw(BATCH, 2, seed=1),
    joint=(*start, both, *end),
  )


def coincident() -> Case:
  """Players of equal input and equal cotangent (Corollary 7)."""
  start = (Decision(('stem',), lambda x, layer: jnp.tanh(layer('stem', x))),)
  apart = (
    Decision(('u',), lambda x, layer: {'h': layer('u', x), 'x': x}),
    Decision(('v',), lambda c, layer: jnp.tanh(c['h'] + layer('v', c['x']))),
  )
  both = Decision(
    ('u', 'v'), lambda x, layer: jnp.tanh(layer('u', x) + layer('v', x))
  )
  end = (Decision(('end',), lambda h, layer: layer('end', h)),)
  shapes = {'stem': (2, 3), 'u': (3, 2), 'v': (3, 2), 'end': (2, 3)}
  return Case(
    (*start, *apart, *end),
    parameters(shapes),
    draw(BATCH, 2),
    draw(BATCH, 3, seed=1),
    joint=(*start, both, *end),
    coincide=True,
  )
