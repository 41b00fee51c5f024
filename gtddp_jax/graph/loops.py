"""Loops and sums over samples: in turn on a CPU, at once elsewhere.

On a CPU one sample at a time stays in cache, and is many times faster than one
batched product; elsewhere the batch is one product. Where ``jax.set_mesh`` has
made several devices known, each of them takes its own samples in turn.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax.graph import varying

Array = jax.Array


def over_samples(function: Callable[[Any], Any], samples: Any) -> Any:
  """Maps over the leading axis: in turn on a CPU, at once elsewhere."""

  def in_turn(samples: Any) -> Any:
    return jax.lax.map(function, samples)

  def on_devices(samples: Any) -> Any:
    parts = by_device(samples)
    if parts is None:
      return in_turn(samples)
    mapped = jax.vmap(in_turn)(parts)
    return jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:]), mapped)

  return jax.lax.platform_dependent(
    samples, cpu=on_devices, default=jax.vmap(function)
  )


def by_device(samples: Any) -> Any | None:
  """The leading axis ``[B]`` as ``[devices, B / devices]``.

  A loop over a batch axis that is spread over devices would gather all of it on
  each of them; over the second axis here, every device goes through its own.

  Args:
    samples: a pytree.

  Returns:
    The same in parts, None where ``jax.set_mesh`` has told of no other device
    or the batch cannot be divided.
  """
  devices = jax.sharding.get_abstract_mesh().size
  batch = jax.tree.leaves(samples)[0].shape[0]
  if devices <= 1 or batch % devices:
    return None
  return jax.tree.map(
    lambda v: v.reshape(devices, batch // devices, *v.shape[1:]), samples
  )


def summed_over_devices(
  function: Callable[[Any], Array], samples: Any
) -> Array:
  """A sum over samples, ``function`` of each device's part added up."""
  parts = by_device(samples)
  if parts is None:
    return function(samples)
  return jax.vmap(function)(parts).sum(axis=0)


def total_over_samples(function: Callable[[Any], Array], samples: Any) -> Array:
  """Sum over the leading axis: in turn on a CPU, at once elsewhere."""

  def in_turn(samples: Any) -> Array:
    shape = jax.eval_shape(function, jax.tree.map(lambda v: v[0], samples))

    def add(total: Array, sample: Any) -> tuple[Array, None]:
      return total + function(sample), None

    start = jnp.zeros(shape.shape, shape.dtype)
    start = varying.cast(start, varying.axes_of(samples))
    return jax.lax.scan(add, start, samples)[0]

  return jax.lax.platform_dependent(
    samples,
    cpu=lambda s: summed_over_devices(in_turn, s),
    default=lambda s: jax.vmap(function)(s).sum(axis=0),
  )


def weighted_sum(weights: Array, value: Array) -> Array:
  """``sum_r w_i^r v^{i,r}``.

  Args:
    weights: ``[B, R]``.
    value: ``[R, B k, ...]``, k rows for each sample.

  Returns:
    ``[B k, ...]``.
  """
  rows = jnp.repeat(weights, value.shape[1] // weights.shape[0], axis=0)
  scaled = [
    rows[:, r].astype(value.dtype).reshape(-1, *(1,) * (value.ndim - 2))
    * value[r]
    for r in range(value.shape[0])
  ]
  return functools.reduce(jnp.add, scaled)
