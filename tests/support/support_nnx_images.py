"""Rows of the support table: convolutional networks in Flax nnx."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from support_nnx import IMAGE, Head, conv, module


@module('CNN', IMAGE, '2 conv, 1 dense')
class Cnn(nnx.Module):
  def __init__(self, rngs: nnx.Rngs):
    self.first = conv(2, 3, rngs)
    self.second = conv(3, 4, rngs)
    self.head = nnx.Linear(36, 3, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    x = nnx.max_pool(nnx.relu(self.first(x)), (2, 2), (2, 2))
    x = nnx.relu(self.second(x))
    return self.head(x.reshape(len(x), -1))


@module('ResNet, identity skip', IMAGE, '3 conv, 1 dense')
class Identity(nnx.Module):
  def __init__(self, rngs: nnx.Rngs):
    self.stem = conv(2, 2, rngs)
    self.first = conv(2, 2, rngs)
    self.second = conv(2, 2, rngs)
    self.head = Head(2, rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    x = nnx.relu(self.stem(x))
    x = nnx.relu(x + self.second(nnx.relu(self.first(x))))
    return self.head(x)


@module('ResNet, projection', IMAGE, '3 conv, 1 dense')
class Projection(nnx.Module):
  def __init__(self, rngs: nnx.Rngs):
    self.stem = conv(2, 2, rngs)
    self.main = conv(2, 3, rngs, 3, 2)
    self.shortcut = conv(2, 3, rngs, 1, 2)
    self.head = Head(3, rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    x = nnx.relu(self.stem(x))
    return self.head(nnx.relu(self.main(x) + self.shortcut(x)))


@module('ResNet, pre-activation', IMAGE, '3 conv, 1 dense, 2 generic')
class PreActivation(nnx.Module):
  def __init__(self, rngs: nnx.Rngs):
    self.stem = conv(2, 2, rngs)
    self.norm1 = nnx.GroupNorm(2, 1, rngs=rngs)
    self.conv1 = conv(2, 2, rngs)
    self.norm2 = nnx.GroupNorm(2, 1, rngs=rngs)
    self.conv2 = conv(2, 2, rngs)
    self.head = Head(2, rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    x = self.stem(x)
    h = self.conv1(nnx.relu(self.norm1(x)))
    return self.head(x + self.conv2(nnx.relu(self.norm2(h))))


@module('DenseNet', IMAGE, '3 conv, 1 dense')
class DenseNet(nnx.Module):
  def __init__(self, rngs: nnx.Rngs):
    self.first = conv(2, 2, rngs)
    self.second = conv(4, 2, rngs)
    self.third = conv(6, 2, rngs)
    self.head = Head(8, rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    for layer in (self.first, self.second, self.third):
      x = jnp.concatenate([x, nnx.relu(layer(x))], axis=-1)
    return self.head(x)


@module('Inception', IMAGE, '5 conv, 1 dense')
class Inception(nnx.Module):
  def __init__(self, rngs: nnx.Rngs):
    self.stem = conv(2, 2, rngs)
    self.narrow = conv(2, 1, rngs, 1)
    self.squeeze = conv(2, 1, rngs, 1)
    self.wide = conv(1, 2, rngs)
    self.pooled = conv(2, 1, rngs, 1)
    self.head = Head(4, rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    x = nnx.relu(self.stem(x))
    branches = [
      self.narrow(x),
      self.wide(nnx.relu(self.squeeze(x))),
      self.pooled(nnx.max_pool(x, (3, 3), (1, 1), 'SAME')),
    ]
    return self.head(nnx.relu(jnp.concatenate(branches, axis=-1)))


@module('U-Net', IMAGE, '4 conv')
class UNet(nnx.Module):
  def __init__(self, rngs: nnx.Rngs):
    self.fine = conv(2, 2, rngs)
    self.coarse = conv(2, 3, rngs)
    self.up = nnx.ConvTranspose(3, 2, (2, 2), (2, 2), rngs=rngs)
    self.last = conv(4, 1, rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    fine = nnx.relu(self.fine(x))
    coarse = nnx.relu(self.coarse(nnx.avg_pool(fine, (2, 2), (2, 2))))
    up = nnx.relu(self.up(coarse))
    return self.last(jnp.concatenate([fine, up], axis=-1))
