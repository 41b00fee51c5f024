"""The networks of the experiments, in plain Flax.

They know nothing of the optimizers. A projection shortcut is computed after
its main path, so that in program order its parameters are decided next to the
merge, where later states are known, and not at the fork.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import ml_collections

ACTIVATIONS = {'relu': nn.relu, 'tanh': nn.tanh}
NORMS = ('none', 'layer')
MODELS = ('resnet', 'mlp')


class Normalized(nn.Module):
  """Layer normalisation over features, or nothing."""

  norm: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps ``[B, ..., F]`` to the same shape."""
    return nn.LayerNorm()(x) if self.norm == 'layer' else x


class ResidualBlock(nn.Module):
  """Two 3x3 convolutions and a shortcut.

  The shortcut is the identity; where the number of channels changes, the block
  halves the image and the shortcut is a 1x1 convolution.
  """

  width: int
  activation: str
  norm: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps ``[B, H, W, C]`` to ``[B, H, W, C]`` or ``[B, H/2, W/2, width]``."""
    act = ACTIVATIONS[self.activation]
    changes = x.shape[-1] != self.width
    strides = (2, 2) if changes else (1, 1)
    h = nn.Conv(self.width, (3, 3), strides, name='conv_1')(x)
    h = act(Normalized(self.norm, name='norm_1')(h))
    h = nn.Conv(self.width, (3, 3), name='conv_2')(h)
    h = Normalized(self.norm, name='norm_2')(h)
    if changes:
      x = nn.Conv(self.width, (1, 1), strides, name='projection')(x)
    return act(h + x)


class ResNet(nn.Module):
  """A stem convolution, residual blocks and a linear layer."""

  widths: tuple[int, ...]
  classes: int
  activation: str
  norm: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps images ``[B, H, W, C]`` to logits ``[B, classes]``."""
    x = nn.Conv(self.widths[0], (3, 3), name='stem')(x)
    x = Normalized(self.norm, name='stem_norm')(x)
    x = ACTIVATIONS[self.activation](x)
    for number, width in enumerate(self.widths, start=1):
      block = ResidualBlock(
        width, self.activation, self.norm, name=f'block_{number}'
      )
      x = block(x)
    return nn.Dense(self.classes, name='linear')(x.reshape(x.shape[0], -1))


class MLP(nn.Module):
  """Fully connected layers."""

  widths: tuple[int, ...]
  classes: int
  activation: str
  norm: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps ``[B, ...]`` to logits ``[B, classes]``."""
    x = x.reshape(x.shape[0], -1)
    for number, width in enumerate(self.widths, start=1):
      x = nn.Dense(width, name=f'hidden_{number}')(x)
      x = Normalized(self.norm, name=f'norm_{number}')(x)
      x = ACTIVATIONS[self.activation](x)
    return nn.Dense(self.classes, name='linear')(x)


def build(config: ml_collections.ConfigDict, classes: int) -> nn.Module:
  """Returns the network that the ``model`` section of a config describes."""
  kind = {'resnet': ResNet, 'mlp': MLP}[config.name]
  return kind(config.widths, classes, config.activation, config.norm)
