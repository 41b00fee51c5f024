"""What a row of the support table is, and the pieces to write one.

Nothing here imports the library, so that the table prints from anywhere.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from networks import Draw

Tree = Any
BATCH = 3


class Network(NamedTuple):
  """A network and its data.

  Attributes:
    apply_fn: `(params, inputs) -> outputs`, or in Flax's own words with
      `rngs=` and `mutable=` where `options` ask for them.
    params: The parameters, float64.
    inputs: A batch.
    targets: A batch; one entry a sample.
    loss: Its name in `gtddp_jax.losses`.
    options: Keyword arguments of `trace`.
  """

  apply_fn: Callable[..., Tree]
  params: Tree
  inputs: Tree
  targets: Tree
  loss: str
  options: dict[str, Any]

  def outputs(self, params: Tree, inputs: Tree) -> Tree:
    """The plain function: statistics and keys are those of the options."""
    if not self.options.keys() - {'owner'}:
      return self.apply_fn(params, inputs)
    variables = {**params, **self.options.get('collections', {})}
    words = {k: v for k, v in self.options.items() if k in ('rngs', 'mutable')}
    outputs = self.apply_fn(variables, inputs, **words)
    return outputs[0] if 'mutable' in words else outputs


class Case(NamedTuple):
  """A row: what the table says of a network, and how to build it.

  Attributes:
    name: What the network is.
    framework: 'linen' or 'nnx'.
    stages: How many stages of each kind it has, in the table's words.
    independent: Whether samples do not influence each other.
    note: A short text for the table.
    tolerance: Within which a step equals that of the dense recursion.
    network: Builds the network, once.
  """

  name: str
  framework: str
  stages: str
  independent: bool
  note: str
  tolerance: float
  network: Callable[[], Network]


TABLE: dict[tuple[str, str], Case] = {}


def row(
  name: str,
  framework: str,
  stages: str,
  build: Callable[[Draw], Network],
  *,
  independent: bool = True,
  note: str = '',
  tolerance: float = 1e-9,
) -> None:
  """Adds a network to the table; its numbers are seeded by its name."""
  seed = zlib.crc32(f'{name} {framework}'.encode())
  network = functools.cache(lambda: build(Draw(seed)))
  assert (name, framework) not in TABLE
  TABLE[name, framework] = Case(
    name, framework, stages, independent, note, tolerance, network
  )


def draw_inputs(r: Draw, shape: tuple[int, ...], vocabulary: int) -> jax.Array:
  """A batch of numbers, or of tokens where there is a vocabulary."""
  if vocabulary:
    return jnp.asarray(r.rng.integers(0, vocabulary, (BATCH, *shape)))
  return r(BATCH, *shape)


def draw_params(r: Draw, shapes: Tree) -> Tree:
  """Parameters of sensible size: scales near one, kernels by their fan-in."""

  def leaf(path: tuple[Any, ...], shape: jax.ShapeDtypeStruct) -> jax.Array:
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    numbers = r(*shape.shape)
    if 'scale' in name.removesuffix('/value').split('/')[-1]:
      return 1 + 0.3 * numbers
    if len(shape.shape) > 1:
      return 1.5 * numbers / math.sqrt(math.prod(shape.shape[:-1]))
    return 0.5 * numbers

  return jax.tree_util.tree_map_with_path(leaf, shapes)


def with_targets(
  r: Draw,
  apply_fn: Callable[..., Tree],
  params: Tree,
  inputs: Tree,
  options: dict[str, Any],
) -> Network:
  """Labels where the output is a row of scores, else numbers like it."""
  network = Network(apply_fn, params, inputs, None, '', options)
  shape = jax.eval_shape(network.outputs, params, inputs).shape
  if len(shape) == 2:
    targets = jnp.asarray(r.rng.integers(0, shape[1], BATCH))
    return network._replace(targets=targets, loss='softmax_cross_entropy')
  targets = 0.3 * r(*shape)
  return network._replace(targets=targets, loss='squared_error')
