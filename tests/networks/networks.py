"""What a row of the table of networks is, and the pieces to write one."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from oracle import Stage

Tree = Any
BATCH = 4


class Problem(NamedTuple):
  """A network, its data, and the same network as a chain of stages.

  Attributes:
    apply_fn: `(params, inputs) -> outputs`, batch leading.
    params: The parameters.
    inputs: A batch.
    targets: A batch; one entry a sample.
    chain: The stages for one sample.
    phi: `(output, target) -> loss` for one sample.
    known: The library's own name of `phi`, where it has one.
    start: The chain's first state where it is not `inputs` itself.
    rate: A rate of plain gradient descent at which nothing needs clamping.
  """

  apply_fn: Callable[[Tree, Tree], jax.Array]
  params: Tree
  inputs: Tree
  targets: jax.Array
  chain: tuple[Stage, ...]
  phi: Callable[[jax.Array, jax.Array], jax.Array]
  known: str | None = None
  start: Tree = None
  rate: float = 0.05

  def loss(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """The losses of a batch, of shape (B,)."""
    return jax.vmap(self.phi)(outputs, targets)

  def first_state(self) -> Tree:
    """What the chain starts from, batch leading."""
    return self.inputs if self.start is None else self.start


TABLE: dict[str, Callable[[], Problem]] = {}


class Draw:
  """Random numbers of one row, the same in every run."""

  def __init__(self, seed: int):
    self.rng = np.random.default_rng(seed)

  def __call__(self, *shape: int) -> jax.Array:
    return jnp.asarray(0.7 * self.rng.standard_normal(shape))

  def dense(self, fan_in: int, fan_out: int) -> dict[str, jax.Array]:
    return {'w': self(fan_in, fan_out), 'b': self(fan_out)}

  def like(self, tree: Tree) -> Tree:
    return jax.tree.map(lambda leaf: self(*leaf.shape), tree)

  def labels(self, count: int) -> jax.Array:
    return jnp.asarray(self.rng.integers(0, count, BATCH))


def row(build: Callable[[Draw], Problem]) -> Callable[[Draw], Problem]:
  """Adds a network to the table under its function's name."""
  seed = zlib.crc32(build.__name__.encode())
  TABLE[build.__name__] = functools.cache(lambda: build(Draw(seed)))
  return build


def squared(output: jax.Array, target: jax.Array) -> jax.Array:
  return 0.5 * jnp.sum((output - target) ** 2)


def cross_entropy(output: jax.Array, target: jax.Array) -> jax.Array:
  return -jnp.log(jnp.exp(output[target]) / jnp.sum(jnp.exp(output)))


def soft_cross_entropy(output: jax.Array, target: jax.Array) -> jax.Array:
  log_p = output - jnp.log(jnp.sum(jnp.exp(output)))
  return -jnp.sum(target * log_p)


def log_cosh(output: jax.Array, target: jax.Array) -> jax.Array:
  return jnp.sum(jnp.log(jnp.cosh(output - target)))


def cauchy(output: jax.Array, target: jax.Array) -> jax.Array:
  return jnp.sum(jnp.log(1 + 3 * (output - target) ** 2))


def by_squares(apply_fn: Any, params: Any, inputs: Any, chain: Any) -> Problem:
  """A regression problem whose targets are seeded by its output's shape."""
  shape = jax.eval_shape(apply_fn, params, inputs).shape
  targets = Draw(1000)(*shape)
  return Problem(
    apply_fn, params, inputs, targets, chain, squared, 'squared_error'
  )


def affine(u: dict[str, jax.Array], x: jax.Array) -> jax.Array:
  h = x @ u['w']
  return h + jnp.broadcast_to(u['b'], h.shape)


def layer(u: dict[str, jax.Array], x: jax.Array) -> jax.Array:
  return jnp.tanh(affine(u, x))


def wb(owner: str) -> tuple[str, ...]:
  return f'{owner}/w', f'{owner}/b'
