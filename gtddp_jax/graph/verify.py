"""Verification: whether a traced graph reproduces its network on an example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gtddp_jax import errors
from gtddp_jax.graph import layer_graph as graph_lib


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
      # What is not a number, or infinite, in both is no difference.
      known = jnp.isfinite(expected)
      same = (expected == got) | (jnp.isnan(expected) & jnp.isnan(got))
      differences.append(_largest(jnp.where(same, 0, expected - got)))
      size = _largest(jnp.where(known, expected, 0))
      sizes.append(jnp.where(known.any() | (known.size == 0), size, jnp.nan))
    return jnp.stack(differences), jnp.stack(sizes)

  found = jax.device_get(compared(params, graph.extras))
  names = [f'gradient of {path!r}' for path in graph.paths]
  count = len(kinds) - len(names)  # of outputs
  names = [f'output {i}' for i in range(count)] + names
  _check_finite(names, found[1])
  # A gradient that should vanish (a bias before a batch normalisation) is
  # rounding of the others.
  usual = max(found[1][count:])
  for name, kind, error, size in zip(names, kinds, *found, strict=True):
    tolerance = min(1e3 * float(jnp.finfo(kind).eps), 0.1)
    scale = size + 0.1 * usual + tolerance
    if not error <= tolerance * scale:
      raise errors.TraceMismatchError(
        f'The traced graph does not reproduce apply_fn: {name} differs by '
        f'{error:.3g}, at most {tolerance * scale:.3g} is '
        f'rounding. Expected a pure function of (params, inputs): remove side '
        f'effects, pass randomness as rngs. If it is pure and only very '
        f'sensitive to rounding, trace(..., verify=False).'
      )


def _check_finite(names: Sequence[str], sizes: Sequence[Any]) -> None:
  """Raises ``TraceMismatchError`` where there is nothing to compare with."""
  for name, size in zip(names, sizes, strict=True):
    if np.isnan(size):
      raise errors.TraceMismatchError(
        f'The traced graph cannot be compared with apply_fn: {name} has no '
        f'finite number for this example: expected some. Give an example batch '
        f'like those of the training, or trace(..., verify=False).'
      )


def _outputs_and_gradients(
  function: Callable[..., Any], params: Any, inputs: Any, extras: Any
) -> list[jax.Array]:
  """Floating-point outputs, then gradients of a sum of all with cosines."""
  outputs, pull = jax.vjp(
    lambda p: _floats(function(p, inputs, extras)), params
  )
  seeds = [jnp.cos(jnp.arange(o.size, dtype=jnp.float32)) for o in outputs]
  pulled = pull(
    [
      s.reshape(o.shape).astype(o.dtype)
      for s, o in zip(seeds, outputs, strict=True)
    ]
  )
  return [*outputs, *jax.tree.leaves(pulled)]


def _largest(x: jax.Array) -> jax.Array:
  return jnp.max(jnp.abs(x), initial=0)


def _floats(tree: Any) -> list[jax.Array]:
  return [
    x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)
  ]
