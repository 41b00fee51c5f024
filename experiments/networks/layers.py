"""What the networks share: activations, normalization, layers in one style."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax

ACTIVATIONS = {'relu': nn.relu, 'tanh': nn.tanh, 'gelu': nn.gelu}
NORMS = ('none', 'layer', 'group', 'batch')
PROJECTIONS = ('merge', 'fork')


@dataclasses.dataclass(frozen=True)
class Style:
  """How the layers of one network are made."""

  activation: str = 'relu'  # a key of ``ACTIVATIONS``
  norm: str = 'none'  # one of ``NORMS``
  groups: int = 8  # of features; for ``'group'``
  decay: float = 0.9  # of the running statistics; for ``'batch'``
  # one of ``PROJECTIONS``: where a residual block calls that of its shortcut
  projection: str = 'merge'

  @property
  def bias(self) -> bool:
    """Whether a layer before a normalization has a bias.

    The mean of the batch is subtracted from it again: it would do nothing.
    """
    return self.norm != 'batch'

  def act(self, x: jax.Array) -> jax.Array:
    """Returns the activation of every number."""
    return ACTIVATIONS[self.activation](x)

  def normalize(self, x: jax.Array, train: bool, name: str) -> jax.Array:
    """Returns what a new submodule makes of ``[B, ..., F]``."""
    return Normalized(self, name=name)(x, train)

  def conv(
    self, width: int, size: int, stride: int = 1, name: str | None = None
  ) -> nn.Conv:
    """Returns a square convolution that a normalization follows."""
    return nn.Conv(
      width, (size, size), (stride, stride), use_bias=self.bias, name=name
    )


class Normalized(nn.Module):
  """A normalization over features, or nothing.

  Layer normalization is over the features of one place; group normalization
  over all places and a group of features; batch normalization over all places
  and samples.
  """

  style: Style

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps ``[B, ..., F]`` to the same shape."""
    match self.style.norm:
      case 'layer':
        return nn.LayerNorm()(x)
      case 'group':
        return nn.GroupNorm(self.style.groups)(x)
      case 'batch':
        return nn.BatchNorm(not train, momentum=self.style.decay)(x)
    return x
