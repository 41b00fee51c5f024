"""Verification: whether a traced graph reproduces its network on an example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax import errors
from gtddp_jax import graph as graph_lib


def verify(
  network: Callable[..., Any],
  graph: graph_lib.LayerGraph,
  params: Any,
  inputs: Any,
) -> None:
  """Compares results and parameter gradients of graph and function.

  Args:
    network: ``(params, inputs, extras) ->`` a pytree.
    graph: traced from it.
    params: pytree of parameters.
    inputs: the example batch.

  Raises:
    TraceMismatchError: if they differ by more than rounding.
  """
  kinds: list[Any] = []  # dtypes of outputs and gradients, once traced

  # One program, comparisons and all: an operation outside is compiled for
  # every shape anew.
  @jax.jit
  def compared(params: Any, extras: Any) -> tuple[jax.Array, jax.Array]:
    pairs = zip(
      _outputs_and_gradients(network, params, inputs, extras),
      _outputs_and_gradients(graph.run, params, inputs, extras),
      strict=True,
    )
    differences, sizes = [], []
    for expected, got in pairs:
      kinds.append(expected.dtype)
      differences.append(_largest(expected - got))
      sizes.append(_largest(expected))
    return jnp.stack(differences), jnp.stack(sizes)

  found = jax.device_get(compared(params, graph.extras))
  names = [f'gradient of {path!r}' for path in graph.paths]
  count = len(kinds) - len(names)  # of outputs
  names = [f'output {i}' for i in range(count)] + names
  # A gradient that should vanish (a bias before a batch normalisation) is
  # rounding of the others.
  usual = max(found[1][count:])
  for name, kind, error, size in zip(names, kinds, *found, strict=True):
    tolerance = min(1e3 * float(jnp.finfo(kind).eps), 0.1)
    scale = size + 0.1 * usual + tolerance
    if error > tolerance * scale:
      raise errors.TraceMismatchError(
        f'The traced graph does not reproduce apply_fn: {name} differs by '
        f'{error:.3g}, at most {tolerance * scale:.3g} is '
        f'rounding. Expected a pure function of (params, inputs): remove side '
        f'effects, pass randomness as rngs. If it is pure and only very '
        f'sensitive to rounding, trace(..., verify=False).'
      )


def _outputs_and_gradients(
  function: Callable[..., Any], params: Any, inputs: Any, extras: Any
) -> list[jax.Array]:
  """Floating-point outputs, then gradients of a sum of all with cosines."""
  outputs, pull = jax.vjp(
    lambda p: _floats(function(p, inputs, extras)), params
  )
  seeds = [jnp.cos(jnp.arange(o.size, dtype=o.dtype)) for o in outputs]
  pulled = pull(
    [s.reshape(o.shape) for s, o in zip(seeds, outputs, strict=True)]
  )
  return [*outputs, *jax.tree.leaves(pulled)]


def _largest(x: jax.Array) -> jax.Array:
  return jnp.max(jnp.abs(x), initial=0)


def _floats(tree: Any) -> list[jax.Array]:
  return [
    x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)
  ]
