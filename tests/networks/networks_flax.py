"""Rows: Flax modules, linen and nnx, convolutions among them."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from networks import (
  BATCH,
  Draw,
  Problem,
  Tree,
  affine,
  by_squares,
  cross_entropy,
  row,
)
from oracle import Stage


def module(name: str) -> tuple[str, ...]:
  return f'{name}/kernel', f'{name}/bias'


def dense(u: Tree, x: jax.Array) -> jax.Array:
  return affine({'w': u['kernel'], 'b': u['bias']}, x)


def convolve(u: Tree, x: jax.Array, stride: int = 1) -> jax.Array:
  """Convolves one image (H, W, C) by gathering its patches."""
  weight = u['kernel']
  pads, counts = [], []
  for length, size in zip(x.shape, weight.shape[:2], strict=False):
    count = -(-length // stride)
    missing = max((count - 1) * stride + size - length, 0)
    pads.append((missing // 2, missing - missing // 2))
    counts.append(count)
  x = jnp.pad(x, (*pads, (0, 0)))
  height, width = weight.shape[:2]
  patches = jnp.stack(
    [
      x[i * stride : i * stride + height, j * stride : j * stride + width]
      for i in range(counts[0])
      for j in range(counts[1])
    ]
  )
  out = jnp.einsum('pklc,klcd->pd', patches, weight)
  if 'bias' in u:
    out = out + jnp.broadcast_to(u['bias'], out.shape)
  return out.reshape(*counts, -1)


def convolve_line(u: Tree, x: jax.Array, stride: int = 1) -> jax.Array:
  """Convolves one sequence (L, C)."""
  u = {**u, 'kernel': u['kernel'][:, None]}
  return convolve(u, x[:, None], stride)[:, 0]


def init(net: nn.Module, r: Draw, inputs: jax.Array) -> Tree:
  """Parameters of the net, biases included, drawn from the row's numbers."""
  return r.like(jax.eval_shape(net.init, jax.random.key(0), inputs))


@row
def linen_mlp(r: Draw) -> Problem:
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
      x = jnp.tanh(nn.Dense(4)(x))
      x = jnp.tanh(nn.Dense(3)(x))
      return nn.Dense(3)(x)

  inputs = r(BATCH, 3)
  chain = (
    Stage(module('params/Dense_0'), lambda x, u: jnp.tanh(dense(u, x))),
    Stage(module('params/Dense_1'), lambda x, u: jnp.tanh(dense(u, x))),
    Stage(module('params/Dense_2'), lambda x, u: dense(u, x)),
  )
  return Problem(
    Net().apply,
    init(Net(), r, inputs),
    inputs,
    r.labels(3),
    chain,
    cross_entropy,
    'softmax_cross_entropy',
  )


@row
def linen_nested_modules(r: Draw) -> Problem:
  """A module with a parameter of its own around a child, used twice."""

  class Scaled(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
      scale = self.param('scale', nn.initializers.ones, (3,))
      return jnp.tanh(nn.Dense(3)(x)) * scale[None]

  class Net(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
      x = Scaled()(x)
      x = Scaled()(x)
      return nn.Dense(2)(x)

  def block(name: str) -> tuple[Stage, ...]:
    return (
      Stage(module(f'{name}/Dense_0'), lambda x, u: jnp.tanh(dense(u, x))),
      Stage((f'{name}/scale',), lambda x, u: x * u['scale']),
    )

  inputs = r(BATCH, 3)
  chain = (
    *block('params/Scaled_0'),
    *block('params/Scaled_1'),
    Stage(module('params/Dense_0'), lambda x, u: dense(u, x)),
  )
  return by_squares(Net().apply, init(Net(), r, inputs), inputs, chain)


@row
def strided_convolutions(r: Draw) -> Problem:
  """A residual block of sequences whose shortcut is a strided projection."""

  class Net(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
      x = jnp.tanh(nn.Conv(2, (3,))(x))
      h = jnp.tanh(nn.Conv(3, (3,), strides=2)(x))
      h = nn.Conv(3, (3,))(h)
      h = h + nn.Conv(3, (1,), strides=2, use_bias=False)(x)
      return nn.Dense(3)(jnp.mean(jnp.tanh(h), axis=1))

  def second(x: jax.Array, u: Tree) -> Tree:
    return {'h': jnp.tanh(convolve_line(u, x, 2)), 'x': x}

  def shortcut(c: Tree, u: Tree) -> jax.Array:
    h = c['h'] + convolve_line(u, c['x'], 2)
    return jnp.mean(jnp.tanh(h), axis=0)

  inputs = r(BATCH, 4, 2)
  chain = (
    Stage(module('params/Conv_0'), lambda x, u: jnp.tanh(convolve_line(u, x))),
    Stage(module('params/Conv_1'), second),
    Stage(
      module('params/Conv_2'),
      lambda c, u: {'h': convolve_line(u, c['h']), 'x': c['x']},
    ),
    Stage(('params/Conv_3/kernel',), shortcut),
    Stage(module('params/Dense_0'), lambda h, u: dense(u, h)),
  )
  return Problem(
    Net().apply,
    init(Net(), r, inputs),
    inputs,
    r.labels(3),
    chain,
    cross_entropy,
    'softmax_cross_entropy',
  )


@row
def images(r: Draw) -> Problem:
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
      x = jnp.tanh(nn.Conv(2, (3, 3), strides=2)(x))
      x = x + jnp.tanh(nn.Conv(2, (2, 2))(x))
      return nn.Dense(2)(x.reshape(len(x), -1))

  inputs = r(BATCH, 3, 4, 1)
  chain = (
    Stage(module('params/Conv_0'), lambda x, u: jnp.tanh(convolve(u, x, 2))),
    Stage(
      module('params/Conv_1'),
      lambda x, u: (x + jnp.tanh(convolve(u, x))).reshape(-1),
    ),
    Stage(module('params/Dense_0'), lambda h, u: dense(u, h)),
  )
  problem = by_squares(Net().apply, init(Net(), r, inputs), inputs, chain)
  return problem._replace(rate=0.01)


class _TwoLayers(nnx.Module):
  def __init__(self, rngs: nnx.Rngs):
    self.first = nnx.Linear(3, 4, rngs=rngs)
    self.second = nnx.Linear(4, 2, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.second(jnp.tanh(self.first(x)))


_TWO_STAGES = (
  Stage(module('first'), lambda x, u: jnp.tanh(dense(u, x))),
  Stage(module('second'), lambda h, u: dense(u, h)),
)


@row
def nnx_state(r: Draw) -> Problem:
  graph, state = nnx.split(_TwoLayers(nnx.Rngs(0)))

  def apply_fn(p: Tree, x: jax.Array) -> jax.Array:
    return nnx.merge(graph, p)(x)

  return by_squares(apply_fn, r.like(state), r(BATCH, 3), _TWO_STAGES)


@row
def nnx_pure_dict(r: Draw) -> Problem:
  graph, state = nnx.split(_TwoLayers(nnx.Rngs(0)))

  def apply_fn(p: Tree, x: jax.Array) -> jax.Array:
    filled = nnx.clone(state)
    nnx.replace_by_pure_dict(filled, p)
    return nnx.merge(graph, filled)(x)

  params = r.like(nnx.to_pure_dict(state))
  return by_squares(apply_fn, params, r(BATCH, 3), _TWO_STAGES)
