"""Rows of the support table: networks of the experiments, very small."""

from __future__ import annotations

import jax
from support_linen import linen

from experiments.networks import cooperative, resnets, tokens
from experiments.networks.layers import Style

IMAGE = 4, 4, 1
LAYERS = Style('gelu', 'layer')


@linen('ResNet-18', IMAGE, '20 conv, 1 dense')
def resnet18(x: jax.Array) -> jax.Array:
  widths = depths = (2, 2, 2, 2)
  return resnets.StagedResNet(widths, depths, False, 3)(x)


@linen('ResNet-50, a block a stage', IMAGE, '17 conv, 1 dense')
def resnet50(x: jax.Array) -> jax.Array:
  widths = depths = (1, 1, 1, 1)
  return resnets.StagedResNet(widths, depths, True, 3)(x)


@linen('Cooperative blocks', IMAGE, '4 conv, 3 dense')
def cooperative_blocks(x: jax.Array) -> jax.Array:
  kernels = 3, 5
  return cooperative.CooperativeNet((2, 2), 3, kernels, 3, Style('tanh'))(x)


@linen('ViT', IMAGE, '1 conv, 7 dense, 4 generic')
def vit(x: jax.Array) -> jax.Array:
  return tokens.ViT(4, 1, 2, 2, 3, LAYERS)(x)


@linen('MLP-Mixer', IMAGE, '1 conv, 5 dense, 3 generic')
def mixer(x: jax.Array) -> jax.Array:
  return tokens.Mixer(4, 1, 2, 3, LAYERS)(x)
