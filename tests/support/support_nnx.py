"""Rows of the support table: Flax nnx.

A row is a module that makes itself from `rngs`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from networks import Draw
from support_case import (
  Network,
  Tree,
  draw_inputs,
  draw_params,
  row,
  with_targets,
)

Net = type[nnx.Module]
IMAGE = 6, 6, 2


def module(
  name: str,
  shape: tuple[int, ...],
  stages: str,
  *,
  vocabulary: int = 0,
  dropout: bool = False,
  mutable: bool = False,
  owner: Any = None,
  **case: Any,
) -> Callable[[Net], Net]:
  """Adds the network whose class is decorated; inputs have this shape."""

  def add(net: Net) -> Net:
    def build(r: Draw) -> Network:
      inputs = draw_inputs(r, shape, vocabulary)
      definition, weights, rest = nnx.split(
        nnx.eval_shape(lambda: net(nnx.Rngs(0))), nnx.Param, ...
      )
      params: Tree = draw_params(r, weights)
      options: dict[str, Any] = {'owner': owner} if owner else {}
      if jax.tree.leaves(rest):
        stats = jax.tree.map(lambda s: 1 + 0.1 * r(*s.shape), rest)
        options['collections'] = {'stats': stats}
      if mutable:
        options['mutable'] = ['stats']
      if dropout:
        options['rngs'] = {'dropout': jax.random.key(1)}
      apply_fn = plain(definition)
      if options.keys() - {'owner'}:
        apply_fn, params = in_flax_words(definition), {'params': params}
      return with_targets(r, apply_fn, params, inputs, options)

    row(name, 'nnx', stages, build, **case)
    return net

  return add


def plain(definition: Any) -> Callable[[Tree, Tree], Tree]:
  """The module as a function of parameters and inputs."""
  return lambda params, inputs: nnx.merge(definition, params)(inputs)


def in_flax_words(definition: Any) -> Callable[..., Tree]:
  """The module with the signature of linen's `apply`."""

  def apply_fn(
    variables: Tree, inputs: Tree, rngs: Any = None, mutable: Any = False
  ) -> Tree:
    # A module changes its statistics in place: it is given new variables.
    stats = jax.tree.map(jnp.asarray, variables.get('stats', nnx.State({})))
    net = nnx.merge(definition, variables['params'], stats)
    outputs = net(inputs, nnx.Rngs(**rngs)) if rngs else net(inputs)
    if not mutable:
      return outputs
    return outputs, {'stats': nnx.state(net, nnx.BatchStat)}

  return apply_fn


def conv(
  fan_in: int, features: int, rngs: nnx.Rngs, size: int = 3, stride: int = 1
) -> nnx.Conv:
  return nnx.Conv(fan_in, features, (size, size), stride, rngs=rngs)


class Head(nnx.Module):
  """Scores from the mean over all places."""

  def __init__(self, fan_in: int, rngs: nnx.Rngs):
    self.dense = nnx.Linear(fan_in, 3, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.dense(jnp.mean(x, axis=tuple(range(1, x.ndim - 1))))


@module('MLP', (4,), '3 dense')
class Mlp(nnx.Module):
  def __init__(self, rngs: nnx.Rngs):
    self.first = nnx.Linear(4, 5, rngs=rngs)
    self.second = nnx.Linear(5, 4, rngs=rngs)
    self.third = nnx.Linear(4, 3, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.third(nnx.relu(self.second(nnx.relu(self.first(x)))))


@module('Gated linear unit', (4,), '4 dense')
class Glu(nnx.Module):
  def __init__(self, rngs: nnx.Rngs):
    self.first = nnx.Linear(4, 4, rngs=rngs)
    self.value = nnx.Linear(4, 5, rngs=rngs)
    self.gate = nnx.Linear(4, 5, rngs=rngs)
    self.last = nnx.Linear(5, 3, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    x = self.first(x)
    return self.last(self.value(x) * nnx.sigmoid(self.gate(x)))


@module('Squeeze-and-excite', IMAGE, '2 conv, 3 dense')
class SqueezeExcite(nnx.Module):
  def __init__(self, rngs: nnx.Rngs):
    self.first = conv(2, 3, rngs)
    self.squeeze = nnx.Linear(3, 2, rngs=rngs)
    self.excite = nnx.Linear(2, 3, rngs=rngs)
    self.second = conv(3, 2, rngs)
    self.head = Head(2, rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    x = nnx.relu(self.first(x))
    gate = nnx.relu(self.squeeze(jnp.mean(x, axis=(1, 2))))
    gate = nnx.sigmoid(self.excite(gate))
    return self.head(nnx.relu(self.second(x * gate[:, None, None, :])))


def attend(
  query: jax.Array, key: jax.Array, value: jax.Array, **_: Any
) -> jax.Array:
  """Attention in the precision of its inputs."""
  scores = jnp.einsum('bqhd,bkhd->bhqk', query, key) / query.shape[-1] ** 0.5
  return jnp.einsum('bhqk,bkhd->bqhd', nnx.softmax(scores), value)


class Attend(nnx.Module):
  """Attention and an MLP, each after a LayerNorm and beside a skip."""

  def __init__(self, width: int, rngs: nnx.Rngs, **options: Any):
    self.norm1 = nnx.LayerNorm(width, rngs=rngs)
    self.attention = nnx.MultiHeadAttention(
      2, width, decode=False, rngs=rngs, **options
    )
    self.norm2 = nnx.LayerNorm(width, rngs=rngs)
    self.first = nnx.Linear(width, 5, rngs=rngs)
    self.second = nnx.Linear(5, width, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    x = x + self.attention(self.norm1(x))
    return x + self.second(nnx.gelu(self.first(self.norm2(x))))


@module('Transformer block', (3, 4), '7 dense, 2 generic')
class Transformer(nnx.Module):
  def __init__(self, rngs: nnx.Rngs):
    self.block = Attend(4, rngs, attention_fn=attend)
    self.head = Head(4, rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.head(self.block(x))


# With the attention function of nnx, whose softmax is in float32.
@module('ViT', IMAGE, '1 conv, 7 dense, 4 generic', tolerance=1e-7)
class Vit(nnx.Module):
  def __init__(self, rngs: nnx.Rngs):
    self.patches = nnx.Conv(2, 4, (3, 3), (3, 3), rngs=rngs)
    self.positions = nnx.Param(jnp.zeros((1, 4, 4)))
    self.block = Attend(4, rngs)
    self.norm = nnx.LayerNorm(4, rngs=rngs)
    self.head = Head(4, rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    x = self.patches(x).reshape(len(x), -1, 4)
    x = self.block(x + self.positions[...])
    return self.head(self.norm(x))


@module('MLP-Mixer', IMAGE, '1 conv, 5 dense, 2 generic')
class Mixer(nnx.Module):
  def __init__(self, rngs: nnx.Rngs):
    self.patches = nnx.Conv(2, 3, (3, 3), (3, 3), rngs=rngs)
    self.norm1 = nnx.LayerNorm(3, rngs=rngs)
    self.tokens1 = nnx.Linear(4, 5, rngs=rngs)
    self.tokens2 = nnx.Linear(5, 4, rngs=rngs)
    self.norm2 = nnx.LayerNorm(3, rngs=rngs)
    self.channels1 = nnx.Linear(3, 5, rngs=rngs)
    self.channels2 = nnx.Linear(5, 3, rngs=rngs)
    self.head = Head(3, rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    x = self.patches(x).reshape(len(x), -1, 3)
    h = jnp.swapaxes(self.norm1(x), 1, 2)
    h = self.tokens2(nnx.gelu(self.tokens1(h)))
    x = x + jnp.swapaxes(h, 1, 2)
    h = nnx.gelu(self.channels1(self.norm2(x)))
    return self.head(x + self.channels2(h))


@module('Recurrent cell, unrolled', (3, 2), '2 dense, 1 generic')
class Recurrent(nnx.Module):
  def __init__(self, rngs: nnx.Rngs):
    self.cell = nnx.GRUCell(2, 3, rngs=rngs)
    self.head = nnx.Linear(3, 3, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    h = jnp.zeros((len(x), 3))
    for t in range(x.shape[1]):
      h, _ = self.cell(h, x[:, t])
    return self.head(h)


class Block(nnx.Module):
  """Two layers beside a skip; also the body of a scan."""

  def __init__(self, rngs: nnx.Rngs):
    self.first = nnx.Linear(3, 4, rngs=rngs)
    self.second = nnx.Linear(4, 3, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    return x + self.second(jnp.tanh(self.first(x)))


def by_top_module(path: tuple[Any, ...]) -> Any:
  return path[:1]


@module('Scan over blocks', (3,), '1 dense, 1 generic', owner=by_top_module)
class Scanned(nnx.Module):
  def __init__(self, rngs: nnx.Rngs):
    @nnx.split_rngs(splits=2)
    @nnx.vmap
    def stack(rngs: nnx.Rngs) -> Block:
      return Block(rngs)

    self.blocks = stack(rngs)
    self.head = nnx.Linear(3, 3, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    def run(x: jax.Array, block: Block) -> jax.Array:
      return block(x)

    return self.head(run(x, self.blocks))


@module('Remat', (3,), '5 dense')
class Remat(nnx.Module):
  def __init__(self, rngs: nnx.Rngs):
    self.first = Block(rngs)
    self.second = Block(rngs)
    self.head = nnx.Linear(3, 3, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    again = nnx.remat(lambda block, x: block(x))
    return self.head(again(self.second, again(self.first, x)))


@module('GroupNorm', IMAGE, '1 conv, 1 dense, 1 generic')
class GroupNorm(nnx.Module):
  def __init__(self, rngs: nnx.Rngs):
    self.conv = conv(2, 4, rngs)
    self.norm = nnx.GroupNorm(4, 2, rngs=rngs)
    self.head = Head(4, rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.head(nnx.relu(self.norm(self.conv(x))))


@module('Embedding', (4,), '2 dense, 1 embedding', vocabulary=5)
class Embedding(nnx.Module):
  def __init__(self, rngs: nnx.Rngs):
    self.embed = nnx.Embed(5, 3, rngs=rngs)
    self.dense = nnx.Linear(3, 4, rngs=rngs)
    self.head = Head(4, rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.head(nnx.relu(self.dense(self.embed(x))))


@module('Tied weights', (4,), '1 dense, 1 embedding', vocabulary=5)
class Tied(nnx.Module):
  def __init__(self, rngs: nnx.Rngs):
    self.embed = nnx.Embed(5, 3, rngs=rngs)
    self.dense = nnx.Linear(3, 3, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    x = nnx.relu(self.dense(self.embed(x)))
    return self.embed.attend(jnp.mean(x, axis=1))


@module('Dropout', (4,), '3 dense', dropout=True)
class Dropout(nnx.Module):
  def __init__(self, rngs: nnx.Rngs):
    self.first = nnx.Linear(4, 5, rngs=rngs)
    self.second = nnx.Linear(5, 5, rngs=rngs)
    self.third = nnx.Linear(5, 3, rngs=rngs)
    self.drop = nnx.Dropout(0.4)

  def __call__(self, x: jax.Array, rngs: nnx.Rngs) -> jax.Array:
    x = self.drop(nnx.relu(self.first(x)), rngs=rngs)
    x = self.drop(nnx.relu(self.second(x)), rngs=rngs)
    return self.third(x)


class Normalised(nnx.Module):
  def __init__(self, running: bool, rngs: nnx.Rngs):
    self.conv1 = conv(2, 3, rngs)
    self.norm1 = nnx.BatchNorm(3, use_running_average=running, rngs=rngs)
    self.conv2 = conv(3, 3, rngs)
    self.norm2 = nnx.BatchNorm(3, use_running_average=running, rngs=rngs)
    self.head = Head(3, rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    x = nnx.relu(self.norm1(self.conv1(x)))
    return self.head(nnx.relu(self.norm2(self.conv2(x))))


@module(
  'BatchNorm, training',
  IMAGE,
  '2 conv, 1 dense, 2 generic',
  mutable=True,
  independent=False,
)
class BatchNorm(Normalised):
  def __init__(self, rngs: nnx.Rngs):
    super().__init__(False, rngs)


@module('BatchNorm, running statistics', IMAGE, '2 conv, 1 dense, 2 generic')
class RunningBatchNorm(Normalised):
  def __init__(self, rngs: nnx.Rngs):
    super().__init__(True, rngs)
