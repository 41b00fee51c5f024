"""Rows: chains of plain functions, and ways of writing them."""

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
  cauchy,
  cross_entropy,
  layer,
  log_cosh,
  row,
  soft_cross_entropy,
  wb,
)
from oracle import Stage


@row
def mlp(r: Draw) -> Problem:
  params = {'l1': r.dense(3, 4), 'l2': r.dense(4, 2)}

  def apply_fn(p: Tree, x: Tree) -> jax.Array:
    return affine(p['l2'], layer(p['l1'], x))

  chain = (
    Stage(wb('l1'), lambda x, u: layer(u, x)),
    Stage(wb('l2'), lambda h, u: affine(u, h)),
  )
  return by_squares(apply_fn, params, r(BATCH, 3), chain)


@row
def one_sample(r: Draw) -> Problem:
  same = mlp(r)
  return same._replace(inputs=same.inputs[:1], targets=same.targets[:1])


@row
def list_of_tuples(r: Draw) -> Problem:
  params = [(r(3, 4), r(4)), (r(4, 3), r(3)), (r(3, 3), r(3))]

  def one(u: Tree, x: jax.Array) -> jax.Array:
    return affine({'w': u['0'], 'b': u['1']}, x)

  def apply_fn(p: Tree, x: Tree) -> jax.Array:
    for w, b in p[:-1]:
      x = layer({'w': w, 'b': b}, x)
    return affine({'w': p[-1][0], 'b': p[-1][1]}, x)

  chain = (
    Stage(('0/0', '0/1'), lambda x, u: jnp.tanh(one(u, x))),
    Stage(('1/0', '1/1'), lambda x, u: jnp.tanh(one(u, x))),
    Stage(('2/0', '2/1'), lambda x, u: one(u, x)),
  )
  inputs, targets = r(BATCH, 3), jax.nn.softmax(r(BATCH, 3))
  known = 'softmax_cross_entropy'
  return Problem(
    apply_fn, params, inputs, targets, chain, soft_cross_entropy, known
  )


@row
def root_leaves(r: Draw) -> Problem:
  params = {'v': r(4, 2), 'w': r(3, 4)}
  chain = (
    Stage(('w',), lambda x, u: jnp.tanh(x @ u['w'])),
    Stage(('v',), lambda h, u: h @ u['v']),
  )
  return by_squares(
    lambda p, x: jnp.tanh(x @ p['w']) @ p['v'], params, r(BATCH, 3), chain
  )


@row
def relu(r: Draw) -> Problem:
  params = {name: r.dense(4, 4) for name in ('l1', 'l2', 'l3')}

  def apply_fn(p: Tree, x: Tree) -> jax.Array:
    h = jax.nn.relu(affine(p['l1'], x))
    h = jax.nn.relu(affine(p['l2'], h)) + h
    return affine(p['l3'], h)

  def first(x: jax.Array, u: Tree) -> jax.Array:
    h = affine(u, x)
    return jnp.where(h > 0, h, 0)

  chain = (
    Stage(wb('l1'), first),
    Stage(wb('l2'), lambda h, u: first(h, u) + h),
    Stage(wb('l3'), lambda h, u: affine(u, h)),
  )
  inputs, labels = r(BATCH, 4), r.labels(4)
  known = 'softmax_cross_entropy'
  return Problem(apply_fn, params, inputs, labels, chain, cross_entropy, known)


@row
def scalar_output_log_cosh(r: Draw) -> Problem:
  params = {'l1': r.dense(3, 4), 'l2': r.dense(4, 1)}
  chain = (
    Stage(wb('l1'), lambda x, u: layer(u, x)),
    Stage(wb('l2'), lambda h, u: affine(u, h)[0]),
  )

  def apply_fn(p: Tree, x: Tree) -> jax.Array:
    return jnp.squeeze(affine(p['l2'], layer(p['l1'], x)), 1)

  return Problem(apply_fn, params, r(BATCH, 3), r(BATCH), chain, log_cosh)


@row
def not_convex(r: Draw) -> Problem:
  same = mlp(r)
  return same._replace(phi=cauchy, known=None, rate=0.02)


@row
def normalised(r: Draw) -> Problem:
  params = {
    'l1': r.dense(3, 4),
    'norm': {'scale': 1 + r(4), 'offset': r(4)},
    'l2': r.dense(4, 2),
  }

  def whiten(x: jax.Array) -> jax.Array:
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-3)

  def apply_fn(p: Tree, x: Tree) -> jax.Array:
    h = whiten(affine(p['l1'], x)) * p['norm']['scale'][None]
    return affine(p['l2'], jnp.tanh(h + p['norm']['offset'][None]))

  def norm(h: jax.Array, u: Tree) -> jax.Array:
    return jnp.tanh(h * u['scale'] + u['offset'])

  chain = (
    Stage(wb('l1'), lambda x, u: whiten(affine(u, x))),
    Stage(('norm/scale', 'norm/offset'), norm),
    Stage(wb('l2'), lambda h, u: affine(u, h)),
  )
  problem = by_squares(apply_fn, params, r(BATCH, 3), chain)
  return problem._replace(rate=0.01)


@row
def jit_and_checkpoint(r: Draw) -> Problem:
  params = {f'l{i}': r.dense(3, 3) for i in range(5)}

  @jax.jit
  def two(p: Tree, x: jax.Array) -> jax.Array:
    return x + affine(p['l1'], jax.jit(layer)(p['l0'], x))

  @jax.checkpoint
  def also_two(p: Tree, x: jax.Array) -> jax.Array:
    return layer(p['l3'], layer(p['l2'], x))

  def apply_fn(p: Tree, x: Tree) -> jax.Array:
    return affine(p['l4'], jax.jit(also_two)(p, two(p, x)))

  chain = (
    Stage(wb('l0'), lambda x, u: {'h': layer(u, x), 'x': x}),
    Stage(wb('l1'), lambda c, u: c['x'] + affine(u, c['h'])),
    Stage(wb('l2'), lambda h, u: layer(u, h)),
    Stage(wb('l3'), lambda h, u: layer(u, h)),
    Stage(wb('l4'), lambda h, u: affine(u, h)),
  )
  return by_squares(apply_fn, params, r(BATCH, 3), chain)


@row
def embedding_twice(r: Draw) -> Problem:
  """Integer inputs which are still needed after the first control."""
  params = {
    'a': {'table': r(5, 2)},
    'b': {'table': r(5, 2)},
    'z': r.dense(6, 2),
  }
  tokens = jnp.asarray(r.rng.integers(0, 5, (BATCH, 3)))

  def apply_fn(p: Tree, x: Tree) -> jax.Array:
    h = jnp.tanh(jnp.take(p['a']['table'], x, axis=0))
    h = h * jnp.take(p['b']['table'], x, axis=0)
    return affine(p['z'], h.reshape(len(x), 6))

  def first(x: jax.Array, u: Tree) -> Tree:
    return {'h': jnp.tanh(x @ u['table']), 'x': x}

  def second(c: Tree, u: Tree) -> jax.Array:
    return (c['h'] * (c['x'] @ u['table'])).reshape(6)

  chain = (
    Stage(('a/table',), first),
    Stage(('b/table',), second),
    Stage(wb('z'), lambda h, u: affine(u, h)),
  )
  # One-hot rows stand for the integers, which have no derivative.
  start = jnp.eye(5)[tokens]
  return by_squares(apply_fn, params, tokens, chain)._replace(start=start)
