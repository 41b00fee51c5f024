"""What jax makes of a program, without the library."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from programs import Network

Array = jax.Array
Tree = Any


def gradients(network: Network, params: Tree, batch: tuple[Tree, Tree]) -> Tree:
  """Of the mean loss, by jax alone."""
  inputs, targets = batch

  def mean_loss(params: Tree) -> Array:
    outputs = network.apply(params, inputs)
    return jnp.mean(jax.vmap(network.loss.phi)(outputs, targets))

  return jax.grad(mean_loss)(params)


def error_of(network: Network) -> str:
  """The error of the network's gradient by jax alone; '' if there is none."""
  batch = network.inputs(), network.targets()
  try:
    run = jax.jit(lambda params: gradients(network, params, batch))
    jax.block_until_ready(run(network.params()))
  except Exception as error:
    return f'jax alone fails too: {type(error).__name__}: {error}'
  return ''
