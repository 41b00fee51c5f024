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

  @jax.jit
  def both(params: Any, extras: Any) -> list[tuple[Any, Any]]:
    results = []
    for function in (network, graph.run):
      outputs, pull = jax.vjp(
        lambda p, f=function: _floats(f(p, inputs, extras)), params
      )
      seeds = [jnp.cos(jnp.arange(o.size, dtype=o.dtype)) for o in outputs]
      pulled = pull(
        [s.reshape(o.shape) for s, o in zip(seeds, outputs, strict=True)]
      )
      results.append((outputs, jax.tree.leaves(pulled)))
    return results

  (outputs, grads), (graph_outputs, graph_grads) = both(params, graph.extras)
  names = [f'output {i}' for i in range(len(outputs))]
  names += [f'gradient of {path!r}' for path in graph.paths]
  pairs = zip(names, outputs + grads, graph_outputs + graph_grads, strict=True)
  # A gradient that should vanish (a bias before a batch normalisation) is
  # rounding of the others.
  usual = max(float(jnp.max(jnp.abs(g), initial=0)) for g in grads)
  for name, expected, got in pairs:
    tolerance = min(1e3 * float(jnp.finfo(expected.dtype).eps), 0.1)
    error = jnp.max(jnp.abs(expected - got), initial=0)
    scale = jnp.max(jnp.abs(expected), initial=0) + 0.1 * usual + tolerance
    if error > tolerance * scale:
      raise errors.TraceMismatchError(
        f'The traced graph does not reproduce apply_fn: {name} differs by '
        f'{float(error):.3g}, at most {float(tolerance * scale):.3g} is '
        f'rounding. Expected a pure function of (params, inputs): remove side '
        f'effects, pass randomness as rngs. If it is pure and only very '
        f'sensitive to rounding, trace(..., verify=False).'
      )


def _floats(tree: Any) -> list[jax.Array]:
  return [
    x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)
  ]
