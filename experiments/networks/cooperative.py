"""The paper's network of cooperative blocks: two players, one payoff.

The players of a block are two layers that see the same input and whose outputs
are added, so that what is best for one depends on the other.
"""

from __future__ import annotations

import flax.linen as nn
import jax

from experiments.networks.layers import Style


class CooperativeConv(nn.Module):
  """Two convolutions of one input, added; the activation comes after."""

  width: int
  kernels: tuple[int, int]
  stride: int = 1
  style: Style = Style()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps ``[B, H, W, C]`` to ``[B, H/stride, W/stride, width]``."""
    style, (one, other) = self.style, self.kernels
    h = style.conv(self.width, one, self.stride, name='player_1')(x)
    h = h + style.conv(self.width, other, self.stride, name='player_2')(x)
    return style.act(style.normalize(h, train, 'norm'))


class CooperativeDense(nn.Module):
  """Two fully connected layers of one input, added; then the activation."""

  width: int
  style: Style = Style()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps ``[B, F]`` to ``[B, width]``."""
    style = self.style
    h = nn.Dense(self.width, use_bias=style.bias, name='player_1')(x)
    h = h + nn.Dense(self.width, use_bias=style.bias, name='player_2')(x)
    return style.act(style.normalize(h, train, 'norm'))


class CooperativeNet(nn.Module):
  """Convolutional blocks, one fully connected block, one linear layer."""

  # channels of the convolutional blocks, all but the first of which halve the
  # image
  widths: tuple[int, ...]
  units: int  # of the fully connected block
  kernels: tuple[int, int]  # height and width of the kernels of the two players
  classes: int  # how many logits
  style: Style = Style()  # of the layers

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps images ``[B, H, W, C]`` to logits ``[B, classes]``."""
    for number, width in enumerate(self.widths, start=1):
      block = CooperativeConv(
        width,
        self.kernels,
        1 if number == 1 else 2,
        self.style,
        name=f'block_{number}',
      )
      x = block(x, train)
    x = x.reshape(x.shape[0], -1)
    x = CooperativeDense(self.units, self.style, name='dense_block')(x, train)
    return nn.Dense(self.classes, name='linear')(x)
