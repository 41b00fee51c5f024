"""Networks of tokens: ViT and MLP-Mixer.

Both cut the image into square patches, keep one row of features for each, and
take the mean over all of them at the end.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.networks.layers import Style

_EXPAND = 4  # hidden units of an MLP over features, per feature
_TOKENS = 2  # features per hidden unit of an MLP over tokens


class Positions(nn.Module):
  """Adds a learned row to each token."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps ``[B, T, F]`` to the same shape."""
    normal = nn.initializers.normal(0.02)
    return x + self.param('embedding', normal, (1, *x.shape[1:]), jnp.float32)


class FeedForward(nn.Module):
  """One hidden layer over the last axis, which keeps its size."""

  hidden: int
  style: Style = Style()

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps ``[..., F]`` to the same shape."""
    h = self.style.act(nn.Dense(self.hidden, name='hidden')(x))
    return nn.Dense(x.shape[-1], name='out')(h)


class AttentionBlock(nn.Module):
  """Attention over tokens, then an MLP over features, each beside a skip."""

  heads: int
  style: Style = Style()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps ``[B, T, F]`` to the same shape."""
    h = self.style.normalize(x, train, 'norm_1')
    x = x + nn.MultiHeadDotProductAttention(self.heads, name='attention')(h)
    h = self.style.normalize(x, train, 'norm_2')
    hidden = _EXPAND * x.shape[-1]
    return x + FeedForward(hidden, self.style, name='features')(h)


class MixerBlock(nn.Module):
  """An MLP over tokens, then one over features, each beside a skip."""

  style: Style = Style()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps ``[B, T, F]`` to the same shape."""
    width = x.shape[-1]
    h = jnp.swapaxes(self.style.normalize(x, train, 'norm_1'), 1, 2)
    hidden = max(1, width // _TOKENS)
    h = FeedForward(hidden, self.style, name='tokens')(h)
    x = x + jnp.swapaxes(h, 1, 2)
    h = self.style.normalize(x, train, 'norm_2')
    hidden = _EXPAND * width
    return x + FeedForward(hidden, self.style, name='features')(h)


class ViT(nn.Module):
  """Vision transformer of Dosovitskiy et al., without a class token."""

  width: int  # features of a token; a multiple of ``heads``
  depth: int  # how many blocks
  heads: int  # of the attention
  patch: int  # pixels along each side of a patch
  classes: int  # how many logits
  style: Style = Style()  # of the layers

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps images ``[B, H, W, C]`` to logits ``[B, classes]``."""
    x = Positions(name='positions')(_patches(x, self.width, self.patch))
    for number in range(1, self.depth + 1):
      block = AttentionBlock(self.heads, self.style, name=f'block_{number}')
      x = block(x, train)
    return _head(x, train, self.classes, self.style)


class Mixer(nn.Module):
  """MLP-Mixer of Tolstikhin et al.; attributes as in ``ViT``."""

  width: int
  depth: int
  patch: int
  classes: int
  style: Style = Style()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps images ``[B, H, W, C]`` to logits ``[B, classes]``."""
    x = _patches(x, self.width, self.patch)
    for number in range(1, self.depth + 1):
      x = MixerBlock(self.style, name=f'block_{number}')(x, train)
    return _head(x, train, self.classes, self.style)


def _patches(x: jax.Array, width: int, patch: int) -> jax.Array:
  """Maps ``[B, H, W, C]`` to ``[B, T, width]``; called within a module."""
  size = (patch, patch)
  x = nn.Conv(width, size, size, padding='VALID', name='patches')(x)
  return x.reshape(x.shape[0], -1, width)


def _head(x: jax.Array, train: bool, classes: int, style: Style) -> jax.Array:
  """Maps ``[B, T, F]`` to logits; called within a module."""
  x = style.normalize(x, train, 'norm')
  return nn.Dense(classes, name='linear')(jnp.mean(x, axis=1))
