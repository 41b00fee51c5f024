"""Base optimizers of the oracle: a curvature, a direction and a rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray


class Memory(NamedTuple):
  """What a base optimizer remembers of one control."""

  count: int = 0
  square: Any = 0.0
  trace: Any = 0.0


class Base(NamedTuple):
  """A base optimizer: a curvature, a filter of the direction, a rate.

  `curvature(memory, q)` returns M, or its diagonal, and `direction(memory, q)`
  the filtered direction, each with the memory that follows.
  """

  rate: float
  curvature: Callable[[Memory, Array], tuple[Array, Memory]]
  direction: Callable[[Memory, Array], tuple[Array, Memory]]


def _plain(memory: Memory, q: Array) -> tuple[Array, Memory]:
  return q, memory


def sgd(rate: float, momentum: float = 0.0, nesterov: bool = False) -> Base:
  """M = I; the direction is a decaying sum."""

  def curvature(memory: Memory, q: Array) -> tuple[Array, Memory]:
    return np.ones_like(q), memory

  def direction(memory: Memory, q: Array) -> tuple[Array, Memory]:
    trace = q + momentum * memory.trace
    ahead = q + momentum * trace if nesterov else trace
    return ahead, memory._replace(trace=trace)

  return Base(rate, curvature, direction)


def rmsprop(rate: float, decay: float = 0.9, eps: float = 1e-8) -> Base:
  """M = sqrt(E[q^2] + eps)."""

  def curvature(memory: Memory, q: Array) -> tuple[Array, Memory]:
    square = decay * memory.square + (1 - decay) * q**2
    return np.sqrt(square + eps), memory._replace(square=square)

  return Base(rate, curvature, _plain)


def adam(
  rate: float, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> Base:
  """M = sqrt(E[q^2]) + eps and E[q] as direction, both bias-corrected."""

  def curvature(memory: Memory, q: Array) -> tuple[Array, Memory]:
    count = memory.count + 1
    square = b2 * memory.square + (1 - b2) * q**2
    curve = np.sqrt(square / (1 - b2**count)) + eps
    return curve, memory._replace(count=count, square=square)

  def direction(memory: Memory, q: Array) -> tuple[Array, Memory]:
    # The curvature is observed first, so the count is already this step's.
    trace = b1 * memory.trace + (1 - b1) * q
    return trace / (1 - b1**memory.count), memory._replace(trace=trace)

  return Base(rate, curvature, direction)
