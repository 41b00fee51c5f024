"""Rows: skips, branches, gates, and controls used more than once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from networks import (
  BATCH,
  Draw,
  Problem,
  Tree,
  affine,
  by_squares,
  layer,
  row,
  soft_cross_entropy,
  wb,
)
from oracle import Stage


@row
def identity_skip(r: Draw) -> Problem:
  params = {f'l{i}': r.dense(3, 3) for i in range(4)}

  def apply_fn(p: Tree, x: Tree) -> jax.Array:
    h = layer(p['l0'], x)
    h = h + affine(p['l2'], layer(p['l1'], h))
    return affine(p['l3'], jnp.tanh(h))

  def merge(c: Tree, u: Tree) -> jax.Array:
    return jnp.tanh(c['skip'] + affine(u, c['x']))

  chain = (
    Stage(wb('l0'), lambda x, u: layer(u, x)),
    Stage(wb('l1'), lambda h, u: {'x': layer(u, h), 'skip': h}),
    Stage(wb('l2'), merge),
    Stage(wb('l3'), lambda h, u: affine(u, h)),
  )
  return by_squares(apply_fn, params, r(BATCH, 3), chain)


@row
def projection_shortcut(r: Draw) -> Problem:
  params = {
    'l0': r.dense(3, 3),
    'l1': r.dense(3, 4),
    'l2': r.dense(4, 4),
    'p': r.dense(3, 4),
    'z': r.dense(4, 2),
  }

  def apply_fn(p: Tree, x: Tree) -> jax.Array:
    x = layer(p['l0'], x)
    main = affine(p['l2'], layer(p['l1'], x))
    return affine(p['z'], jnp.tanh(main + affine(p['p'], x)))

  chain = (
    Stage(wb('l0'), lambda x, u: layer(u, x)),
    Stage(wb('l1'), lambda x, u: {'h': layer(u, x), 'x': x}),
    Stage(wb('l2'), lambda c, u: {'h': affine(u, c['h']), 'x': c['x']}),
    Stage(wb('p'), lambda c, u: jnp.tanh(c['h'] + affine(u, c['x']))),
    Stage(wb('z'), lambda h, u: affine(u, h)),
  )
  return by_squares(apply_fn, params, r(BATCH, 3), chain)


@row
def nested_skips(r: Draw) -> Problem:
  params = {f'l{i}': r.dense(3, 3) for i in range(5)}

  def apply_fn(p: Tree, x: Tree) -> jax.Array:
    outer = layer(p['l0'], x)
    inner = layer(p['l1'], outer)
    inner = layer(p['l2'], inner) + inner
    outer = layer(p['l3'], inner) + outer
    return affine(p['l4'], outer)

  def inner(c: Tree, u: Tree) -> Tree:
    return {'h': layer(u, c['h']) + c['h'], 'outer': c['outer']}

  chain = (
    Stage(wb('l0'), lambda x, u: layer(u, x)),
    Stage(wb('l1'), lambda h, u: {'h': layer(u, h), 'outer': h}),
    Stage(wb('l2'), inner),
    Stage(wb('l3'), lambda c, u: layer(u, c['h']) + c['outer']),
    Stage(wb('l4'), lambda h, u: affine(u, h)),
  )
  inputs, labels = r(BATCH, 3), jax.nn.one_hot(r.labels(3), 3)
  known = 'softmax_cross_entropy'
  return Problem(
    apply_fn, params, inputs, labels, chain, soft_cross_entropy, known
  )


@row
def dense_block(r: Draw) -> Problem:
  params = {
    'a': r.dense(2, 2),
    'b': r.dense(4, 2),
    'c': r.dense(6, 2),
    'z': r.dense(8, 2),
  }

  def apply_fn(p: Tree, x: Tree) -> jax.Array:
    for name in 'abc':
      x = jnp.concatenate([x, layer(p[name], x)], axis=1)
    return affine(p['z'], x)

  def grow(x: jax.Array, u: Tree) -> jax.Array:
    return jnp.concatenate([x, layer(u, x)])

  chain = (
    *(Stage(wb(name), grow) for name in 'abc'),
    Stage(wb('z'), lambda x, u: affine(u, x)),
  )
  problem = by_squares(apply_fn, params, r(BATCH, 2), chain)
  return problem._replace(rate=0.01)


@row
def gate_of_two_inputs(r: Draw) -> Problem:
  params = {'a': r.dense(3, 3), 'b': r.dense(2, 3), 'z': r.dense(3, 2)}

  def apply_fn(p: Tree, x: Tree) -> jax.Array:
    gate = jax.nn.sigmoid(affine(p['a'], x['left']))
    return affine(p['z'], gate * layer(p['b'], x['right']))

  def first(x: Tree, u: Tree) -> Tree:
    gate = 1 / (1 + jnp.exp(-affine(u, x['left'])))
    return {'gate': gate, 'right': x['right']}

  chain = (
    Stage(wb('a'), first),
    Stage(wb('b'), lambda c, u: c['gate'] * layer(u, c['right'])),
    Stage(wb('z'), lambda h, u: affine(u, h)),
  )
  inputs = {'left': r(BATCH, 3), 'right': r(BATCH, 2)}
  return by_squares(apply_fn, params, inputs, chain)


@row
def early_feature(r: Draw) -> Problem:
  """A U-Net in one dimension: down, bottom, up, early feature put beside."""
  params = {
    'down': r.dense(4, 3),
    'low': r.dense(3, 2),
    'up': r.dense(2, 3),
    'z': r.dense(6, 4),
  }

  def apply_fn(p: Tree, x: Tree) -> jax.Array:
    early = layer(p['down'], x)
    late = layer(p['up'], layer(p['low'], early))
    return affine(p['z'], jnp.concatenate([late, early], axis=1))

  def up(c: Tree, u: Tree) -> jax.Array:
    return jnp.concatenate([layer(u, c['h']), c['early']])

  chain = (
    Stage(wb('down'), lambda x, u: layer(u, x)),
    Stage(wb('low'), lambda h, u: {'h': layer(u, h), 'early': h}),
    Stage(wb('up'), up),
    Stage(wb('z'), lambda h, u: affine(u, h)),
  )
  return by_squares(apply_fn, params, r(BATCH, 4), chain)


@row
def attention(r: Draw) -> Problem:
  params = {name: r.dense(2, 2) for name in 'qkvz'}

  def mix(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    return jax.nn.softmax(q @ jnp.swapaxes(k, -1, -2)) @ v

  def apply_fn(p: Tree, x: Tree) -> jax.Array:
    q, k, v = (affine(p[name], x) for name in 'qkv')
    return x + affine(p['z'], mix(q, k, v))

  def value(c: Tree, u: Tree) -> Tree:
    return {'x': c['x'], 'h': mix(c['q'], c['k'], affine(u, c['x']))}

  chain = (
    Stage(wb('q'), lambda x, u: {'x': x, 'q': affine(u, x)}),
    Stage(wb('k'), lambda c, u: {**c, 'k': affine(u, c['x'])}),
    Stage(wb('v'), value),
    Stage(wb('z'), lambda c, u: c['x'] + affine(u, c['h'])),
  )
  return by_squares(apply_fn, params, r(BATCH, 2, 2), chain)


# Shared controls: decided at the first use, part of the state afterwards.


@row
def shared_apart(r: Draw) -> Problem:
  params = {'a': r.dense(3, 3), 'b': r.dense(3, 3), 'z': r.dense(3, 2)}

  def apply_fn(p: Tree, x: Tree) -> jax.Array:
    h = layer(p['b'], layer(p['a'], x))
    return affine(p['z'], layer(p['a'], h))

  chain = (
    Stage(wb('a'), lambda x, u: {'h': layer(u, x), 'a': u}),
    Stage(wb('b'), lambda c, u: layer(c['a'], layer(u, c['h']))),
    Stage(wb('z'), lambda h, u: affine(u, h)),
  )
  return by_squares(apply_fn, params, r(BATCH, 3), chain)


@row
def shared_in_a_row(r: Draw) -> Problem:
  params = {'a': r.dense(3, 3), 'z': r.dense(3, 2)}
  chain = (
    Stage(wb('a'), lambda x, u: layer(u, layer(u, x))),
    Stage(wb('z'), lambda h, u: affine(u, h)),
  )
  return by_squares(
    lambda p, x: affine(p['z'], layer(p['a'], layer(p['a'], x))),
    params,
    r(BATCH, 3),
    chain,
  )


@row
def tied_transpose(r: Draw) -> Problem:
  params = {'a': r.dense(3, 2), 'b': r.dense(2, 2)}

  def apply_fn(p: Tree, x: Tree) -> jax.Array:
    return layer(p['b'], layer(p['a'], x)) @ p['a']['w'].T

  chain = (
    Stage(wb('a'), lambda x, u: {'h': layer(u, x), 'w': u['w']}),
    Stage(wb('b'), lambda c, u: layer(u, c['h']) @ c['w'].T),
  )
  return by_squares(apply_fn, params, r(BATCH, 3), chain)


@row
def leaf_used_late(r: Draw) -> Problem:
  """A leaf of `a` that is first read after `b` was decided: it comes last."""
  params = {'a': r.dense(3, 3), 'b': r.dense(3, 3)}

  def apply_fn(p: Tree, x: Tree) -> jax.Array:
    h = layer(p['b'], jnp.tanh(x @ p['a']['w']))
    return h * p['a']['b'][None]

  chain = (
    Stage(('a/w',), lambda x, u: jnp.tanh(x @ u['w'])),
    Stage(wb('b'), lambda h, u: layer(u, h)),
    Stage(('a/b',), lambda h, u: h * u['b']),
  )
  return by_squares(apply_fn, params, r(BATCH, 3), chain)
