"""Residual networks: the paper's, and those of He et al. for small images.

A projection shortcut is computed after its main path (``Style.projection``,
'merge'), so that in program order its parameters are a control next to the
merge, where later states are known; or before it, at the fork ('fork').
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.networks.layers import Style

BOTTLENECK = 4  # a bottleneck block puts out so many times its width


class ResidualBlock(nn.Module):
  """Two 3x3 convolutions and a shortcut.

  The shortcut is the identity where the shape stays, else a 1x1 convolution.
  """

  width: int
  stride: int = 1
  style: Style = Style()
  normalized_shortcut: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps ``[B, H, W, C]`` to ``[B, H/stride, W/stride, width]``."""
    if self.style.projection == 'fork':
      shortcut = self._shortcut(x, train)
      return self.style.act(self._main(x, train) + shortcut)
    h = self._main(x, train)
    return self.style.act(h + self._shortcut(x, train))

  def _main(self, x: jax.Array, train: bool) -> jax.Array:
    style = self.style
    h = style.conv(self.width, 3, self.stride, name='conv_1')(x)
    h = style.act(style.normalize(h, train, 'norm_1'))
    h = style.conv(self.width, 3, name='conv_2')(h)
    return style.normalize(h, train, 'norm_2')

  def _shortcut(self, x: jax.Array, train: bool) -> jax.Array:
    style = self.style
    if self.stride != 1 or x.shape[-1] != self.width:
      x = style.conv(self.width, 1, self.stride, name='projection')(x)
      if self.normalized_shortcut:
        x = style.normalize(x, train, 'projection_norm')
    return x


class BottleneckBlock(nn.Module):
  """Convolutions 1x1, 3x3 and 1x1, and a shortcut as in ``ResidualBlock``."""

  width: int
  stride: int = 1
  style: Style = Style()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps ``[B, H, W, C]`` to ``[B, H/stride, W/stride, 4 width]``."""
    style, out = self.style, BOTTLENECK * self.width
    h = style.conv(self.width, 1, name='conv_1')(x)
    h = style.act(style.normalize(h, train, 'norm_1'))
    h = style.conv(self.width, 3, self.stride, name='conv_2')(h)
    h = style.act(style.normalize(h, train, 'norm_2'))
    h = style.conv(out, 1, name='conv_3')(h)
    h = style.normalize(h, train, 'norm_3')
    if self.stride != 1 or x.shape[-1] != out:
      x = style.conv(out, 1, self.stride, name='projection')(x)
      x = style.normalize(x, train, 'projection_norm')
    return style.act(h + x)


class ResNet(nn.Module):
  """The paper's: a stem convolution, residual blocks and a linear layer.

  Where the width changes, the block halves the image.
  """

  widths: tuple[int, ...]
  classes: int
  style: Style = Style()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps images ``[B, H, W, C]`` to logits ``[B, classes]``."""
    x = self.style.conv(self.widths[0], 3, name='stem')(x)
    x = self.style.act(self.style.normalize(x, train, 'stem_norm'))
    for number, width in enumerate(self.widths, start=1):
      stride = 1 if x.shape[-1] == width else 2
      name = f'block_{number}'
      x = ResidualBlock(width, stride, self.style, name=name)(x, train)
    return nn.Dense(self.classes, name='linear')(x.reshape(x.shape[0], -1))


class StagedResNet(nn.Module):
  """Of He et al., with the stem for small images: 3x3, without pooling.

  A stage is a run of blocks of one width, each but the first stage halving the
  image; then comes the mean over all places.
  """

  widths: tuple[int, ...]  # of the stages
  depths: tuple[int, ...]  # how many blocks each stage has
  bottleneck: bool  # whether the blocks are bottlenecks, as from ResNet-50 on
  classes: int  # how many logits
  style: Style = Style()  # of the layers

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps images ``[B, H, W, C]`` to logits ``[B, classes]``."""
    x = self.style.conv(self.widths[0], 3, name='stem')(x)
    x = self.style.act(self.style.normalize(x, train, 'stem_norm'))
    stages = zip(self.widths, self.depths, strict=True)
    for stage, (width, depth) in enumerate(stages, start=1):
      for number in range(1, depth + 1):
        stride = 2 if stage > 1 and number == 1 else 1
        x = self._block(width, stride, f'stage_{stage}_block_{number}')(
          x, train
        )
    return nn.Dense(self.classes, name='linear')(jnp.mean(x, axis=(1, 2)))

  def _block(self, width: int, stride: int, name: str) -> nn.Module:
    if self.bottleneck:
      return BottleneckBlock(width, stride, self.style, name=name)
    return ResidualBlock(
      width, stride, self.style, normalized_shortcut=True, name=name
    )
