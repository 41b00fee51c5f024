"""What a step costs: its compilation, its memory, its time beside others."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import gtddp_jax as gt
from experiments.networks import resnets

Step = Callable[[Any, Any, Any], tuple[Any, Any]]


class Problem(NamedTuple):
  """A network, its parameters, and one batch of noise."""

  network: Any
  params: Any
  batch: tuple[jax.Array, jax.Array]

  def plain_step(self, tx: optax.GradientTransformation) -> Step:
    """Returns a step ``(params, state, batch) -> (params, state)`` of optax."""

    def mean_loss(params: Any, batch: Any) -> jax.Array:
      outputs = self.network.apply(params, batch[0])
      return jnp.mean(gt.losses.softmax_cross_entropy(outputs, batch[1]))

    def step(params: Any, state: Any, batch: Any) -> tuple[Any, Any]:
      grads = jax.grad(mean_loss)(params, batch)
      updates, state = tx.update(grads, state, params)
      return optax.apply_updates(params, updates), state

    return step


def problem(network: Any, shape: tuple[int, ...], size: int) -> Problem:
  """Returns a problem of ten classes, with so many samples of a shape."""
  inputs = jax.random.normal(jax.random.key(0), (size, *shape))
  params = network.init(jax.random.key(1), inputs)
  return Problem(network, params, (inputs, jnp.arange(size) % 10))


def residual(size: int) -> Problem:
  """Returns one of a residual network: 28x28x1, 16 and 32 channels."""
  return problem(resnets.ResNet((16, 32), 10), (28, 28, 1), size)


def gt_ddp_step(tx: optax.GradientTransformationExtraArgs) -> Step:
  """Returns a step of ``gt.gt_ddp``, as ``Problem.plain_step`` does."""

  def step(params: Any, state: Any, batch: Any) -> tuple[Any, Any]:
    updates, state = tx.update(None, state, params, batch=batch)
    return optax.apply_updates(params, updates), state

  return step


class Compiled(NamedTuple):
  """A compiled function."""

  call: Callable[..., Any]  # it
  seconds: float  # that compiling it took
  memory: int  # of its arguments and of what it needs beside them (bytes)


def compiled(function: Callable[..., Any], arguments: Any) -> Compiled:
  """Compiles a function for a tuple of arguments like these."""
  begin = time.perf_counter()
  made = jax.jit(function).lower(*arguments).compile()
  seconds = time.perf_counter() - begin
  analysis: Any = made.memory_analysis()
  memory = analysis.temp_size_in_bytes + analysis.argument_size_in_bytes
  return Compiled(made, seconds, memory)


def second(call: Callable[[], Any], least: float = 0.0) -> float:
  """Returns how long a call takes, which returns arrays (s).

  The first call, which is not timed, pays for the memory that what ran before
  it has used. More follow it until they have taken ``least`` seconds.
  """
  jax.block_until_ready(call())
  begin, count, passed = time.perf_counter(), 0, 0.0
  while not count or passed < least:
    jax.block_until_ready(call())
    count, passed = count + 1, time.perf_counter() - begin
  return passed / count
