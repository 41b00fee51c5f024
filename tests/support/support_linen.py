"""Rows of the support table: Flax linen.

A row is a function of the inputs, run inside a compact module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from networks import Draw
from support_case import (
  Network,
  draw_inputs,
  draw_params,
  row,
  with_targets,
)

Body = Callable[[jax.Array], jax.Array]
IMAGE = 6, 6, 2


class Net(nn.Module):
  """A function that calls modules, as a module."""

  body: Body

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return self.body(x)


def linen(
  name: str,
  shape: tuple[int, ...],
  stages: str,
  *,
  vocabulary: int = 0,
  dropout: bool = False,
  mutable: bool = False,
  owner: Any = None,
  **case: Any,
) -> Callable[[Body], Body]:
  """Adds the network whose body is decorated; inputs have this shape."""

  def add(body: Body) -> Body:
    def build(r: Draw) -> Network:
      net, inputs = Net(body), draw_inputs(r, shape, vocabulary)
      rngs = {'dropout': jax.random.key(1)} if dropout else {}
      shapes = dict(
        jax.eval_shape(net.init, {'params': jax.random.key(0), **rngs}, inputs)
      )
      params = {'params': draw_params(r, shapes.pop('params'))}
      options: dict[str, Any] = {'owner': owner} if owner else {}
      if dropout:
        options['rngs'] = rngs
      if shapes:
        options['collections'] = jax.tree.map(
          lambda s: 1 + 0.1 * r(*s.shape), shapes
        )
      if mutable:
        options['mutable'] = list(shapes)
      return with_targets(r, net.apply, params, inputs, options)

    row(name, 'linen', stages, build, **case)
    return body

  return add


def head(x: jax.Array, classes: int = 3) -> jax.Array:
  """Scores from the mean over all places."""
  return nn.Dense(classes)(jnp.mean(x, axis=tuple(range(1, x.ndim - 1))))


def conv(features: int, size: int = 3, stride: int = 1) -> nn.Conv:
  return nn.Conv(features, (size, size), stride)


@linen('MLP', (4,), '3 dense')
def mlp(x: jax.Array) -> jax.Array:
  x = nn.relu(nn.Dense(5)(x))
  x = nn.relu(nn.Dense(4)(x))
  return nn.Dense(3)(x)


@linen('CNN', IMAGE, '2 conv, 1 dense')
def cnn(x: jax.Array) -> jax.Array:
  x = nn.max_pool(nn.relu(conv(3)(x)), (2, 2), (2, 2))
  x = nn.relu(conv(4)(x))
  return nn.Dense(3)(x.reshape(len(x), -1))


@linen('ResNet, identity skip', IMAGE, '3 conv, 1 dense')
def identity(x: jax.Array) -> jax.Array:
  x = nn.relu(conv(2)(x))
  x = nn.relu(x + conv(2)(nn.relu(conv(2)(x))))
  return head(x)


@linen('ResNet, projection', IMAGE, '3 conv, 1 dense')
def projection(x: jax.Array) -> jax.Array:
  x = nn.relu(conv(2)(x))
  x = nn.relu(conv(3, 3, 2)(x) + conv(3, 1, 2)(x))
  return head(x)


@linen('ResNet, pre-activation', IMAGE, '3 conv, 1 dense, 2 generic')
def pre_activation(x: jax.Array) -> jax.Array:
  x = conv(2)(x)
  h = conv(2)(nn.relu(nn.GroupNorm(1)(x)))
  x = x + conv(2)(nn.relu(nn.GroupNorm(1)(h)))
  return head(x)


@linen('DenseNet', IMAGE, '3 conv, 1 dense')
def densenet(x: jax.Array) -> jax.Array:
  for _ in range(3):
    x = jnp.concatenate([x, nn.relu(conv(2)(x))], axis=-1)
  return head(x)


@linen('Inception', IMAGE, '5 conv, 1 dense')
def inception(x: jax.Array) -> jax.Array:
  x = nn.relu(conv(2)(x))
  narrow = conv(1, 1)(x)
  wide = conv(2)(nn.relu(conv(1, 1)(x)))
  pooled = conv(1, 1)(nn.max_pool(x, (3, 3), (1, 1), 'SAME'))
  return head(nn.relu(jnp.concatenate([narrow, wide, pooled], axis=-1)))


@linen('U-Net', IMAGE, '4 conv')
def unet(x: jax.Array) -> jax.Array:
  fine = nn.relu(conv(2)(x))
  coarse = nn.relu(conv(3)(nn.avg_pool(fine, (2, 2), (2, 2))))
  up = nn.relu(nn.ConvTranspose(2, (2, 2), (2, 2))(coarse))
  return conv(1)(jnp.concatenate([fine, up], axis=-1))


@linen('Gated linear unit', (4,), '4 dense')
def glu(x: jax.Array) -> jax.Array:
  x = nn.Dense(4)(x)
  x = nn.Dense(5)(x) * nn.sigmoid(nn.Dense(5)(x))
  return nn.Dense(3)(x)


@linen('Squeeze-and-excite', IMAGE, '2 conv, 3 dense')
def squeeze_excite(x: jax.Array) -> jax.Array:
  x = nn.relu(conv(3)(x))
  gate = nn.relu(nn.Dense(2)(jnp.mean(x, axis=(1, 2))))
  gate = nn.sigmoid(nn.Dense(3)(gate))
  return head(nn.relu(conv(2)(x * gate[:, None, None, :])))


def block(x: jax.Array) -> jax.Array:
  """Attention and an MLP, each after a LayerNorm and beside a skip."""
  width = x.shape[-1]
  x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
  h = nn.gelu(nn.Dense(5)(nn.LayerNorm()(x)))
  return x + nn.Dense(width)(h)


@linen('Transformer block', (3, 4), '7 dense, 2 generic')
def transformer(x: jax.Array) -> jax.Array:
  return head(block(x))


@linen('Recurrent cell, unrolled', (3, 2), '4 dense, 3 generic')
def recurrent(x: jax.Array) -> jax.Array:
  cell = nn.GRUCell(3)
  h = jnp.zeros((len(x), 3))
  for t in range(x.shape[1]):
    h, _ = cell(h, x[:, t])
  return nn.Dense(3)(h)


@linen(
  'Recurrent network',
  (3, 2),
  '1 dense, 1 generic',
  note='`nn.RNN`: its cell is one control for all steps',
)
def recurrent_network(x: jax.Array) -> jax.Array:
  return nn.Dense(3)(nn.RNN(nn.GRUCell(3, param_dtype=x.dtype))(x)[:, -1])


class Block(nn.Module):
  """Two layers beside a skip; also the body of a scan."""

  @nn.compact
  def __call__(self, x: jax.Array, _: None = None) -> tuple[jax.Array, None]:
    h = nn.Dense(x.shape[-1])(jnp.tanh(nn.Dense(4)(x)))
    return x + h, None


def by_top_module(path: tuple[Any, ...]) -> Any:
  return path[:2]


@linen(
  'Scan over blocks',
  (3,),
  '1 dense, 1 generic',
  owner=by_top_module,
  note='one control; needs `owner=` where a block has several modules',
)
def scanned(x: jax.Array) -> jax.Array:
  stack = nn.scan(Block, {'params': 0}, length=2, split_rngs={'params': True})
  return nn.Dense(3)(stack()(x)[0])


@linen('Remat', (3,), '5 dense', note='`nn.remat`, `nnx.remat`: expanded')
def remat(x: jax.Array) -> jax.Array:
  for _ in range(2):
    x, _ = nn.remat(Block)()(x)
  return nn.Dense(3)(x)


@linen('GroupNorm', IMAGE, '1 conv, 1 dense, 1 generic')
def group_norm(x: jax.Array) -> jax.Array:
  x = nn.relu(nn.GroupNorm(2)(conv(4)(x)))
  return head(x)


@linen('Embedding', (4,), '2 dense, 1 embedding', vocabulary=5)
def embedding(x: jax.Array) -> jax.Array:
  x = nn.Embed(5, 3)(x)
  return head(nn.relu(nn.Dense(4)(x)))


@linen('Tied weights', (4,), '1 dense, 1 embedding', vocabulary=5)
def tied(x: jax.Array) -> jax.Array:
  embed = nn.Embed(5, 3)
  x = nn.relu(nn.Dense(3)(embed(x)))
  return embed.attend(jnp.mean(x, axis=1))


@linen('Dropout', (4,), '3 dense', dropout=True, note='one key per step')
def dropout(x: jax.Array) -> jax.Array:
  x = nn.Dropout(0.4, deterministic=False)(nn.relu(nn.Dense(5)(x)))
  x = nn.Dropout(0.4, deterministic=False)(nn.relu(nn.Dense(5)(x)))
  return nn.Dense(3)(x)


def normalised(x: jax.Array, running: bool) -> jax.Array:
  for _ in range(2):
    x = nn.relu(nn.BatchNorm(running)(conv(3)(x)))
  return head(x)


@linen(
  'BatchNorm, training',
  IMAGE,
  '2 conv, 1 dense, 2 generic',
  mutable=True,
  independent=False,
  note="the batch's own statistics; new ones in `gt.collections(state)`",
)
def batch_norm(x: jax.Array) -> jax.Array:
  return normalised(x, False)


@linen('BatchNorm, running statistics', IMAGE, '2 conv, 1 dense, 2 generic')
def running_batch_norm(x: jax.Array) -> jax.Array:
  return normalised(x, True)
