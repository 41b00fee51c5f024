"""Fully connected networks."""

from __future__ import annotations

import flax.linen as nn
import jax

from experiments.networks.layers import Style


class MLP(nn.Module):
  """Fully connected layers."""

  widths: tuple[int, ...]
  classes: int
  style: Style = Style()

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    """Maps ``[B, ...]`` to logits ``[B, classes]``."""
    style = self.style
    x = x.reshape(x.shape[0], -1)
    for number, width in enumerate(self.widths, start=1):
      x = nn.Dense(width, use_bias=style.bias, name=f'hidden_{number}')(x)
      x = style.act(style.normalize(x, train, f'norm_{number}'))
    return nn.Dense(self.classes, name='linear')(x)
