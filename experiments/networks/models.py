"""The networks that a config can name, and how each is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn

from configs.schema import Config
from experiments.networks import cooperative, mlps, resnets, tokens
from experiments.networks.layers import Style


class Kind(NamedTuple):
  """A network, as a config names it."""

  # ``(model section, classes, style) -> module``
  build: Callable[[Any, int, Style], nn.Module]
  widths: int | None = None  # how many widths it takes; None for any number


def _staged(depths: tuple[int, ...], bottleneck: bool = False) -> Kind:
  return Kind(
    lambda c, classes, style: resnets.StagedResNet(
      c.widths, depths, bottleneck, classes, style
    ),
    widths=len(depths),
  )


MODELS = {
  'resnet': Kind(
    lambda c, classes, s: resnets.ResNet(c.widths, classes, s),
  ),
  'resnet18': _staged((2, 2, 2, 2)),
  'resnet34': _staged((3, 4, 6, 3)),
  'resnet50': _staged((3, 4, 6, 3), bottleneck=True),
  'cgb': Kind(
    lambda c, classes, style: cooperative.CooperativeNet(
      c.widths, c.units, c.kernels, classes, style
    ),
  ),
  'mlp': Kind(lambda c, classes, s: mlps.MLP(c.widths, classes, s)),
  'vit': Kind(
    lambda c, classes, style: tokens.ViT(
      c.widths[0], c.depth, c.heads, c.patch, classes, style
    ),
    widths=1,
  ),
  'mixer': Kind(
    lambda c, classes, style: tokens.Mixer(
      c.widths[0], c.depth, c.patch, classes, style
    ),
    widths=1,
  ),
}


def style(config: Config) -> Style:
  """Returns how the layers of a ``model`` section are made."""
  return Style(
    config.activation,
    config.norm,
    config.groups,
    config.decay,
    config.projection,
  )


def build(config: Config, classes: int) -> nn.Module:
  """Returns the network that the ``model`` section of a config describes.

  A module ``(images, train=False) -> logits``, as many as there are classes.
  """
  return MODELS[config.name].build(config, classes, style(config))
