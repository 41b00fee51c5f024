"""Mixed precision: a network computes in one type, its state is in float32.

Parameters and inputs are cast where the network reads them and its outputs are
cast back, so losses, gradients, optimizer state and the recursions over value
functions are as precise as ever. No network has to know.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

DTYPES = ('float32', 'bfloat16')

Apply = Callable[..., Any]


def computing(dtype: str) -> Callable[[Apply], Apply]:
  """Returns what makes ``(params, inputs, ...) -> outputs`` compute in a type.

  One of ``DTYPES``; 'float32' changes nothing. What else is given, such as
  batch statistics, keeps its own.
  """

  def cast(tree: Any, kind: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(kind), tree)

  def wrap(apply: Apply) -> Apply:
    if dtype == 'float32':
      return apply

    @functools.wraps(apply)
    def wrapped(
      params: Any, inputs: jax.Array, *others: Any, **words: Any
    ) -> Any:
      kind = jnp.dtype(dtype)
      outputs = apply(cast(params, kind), inputs.astype(kind), *others, **words)
      return cast(outputs, jnp.float32)

    return wrapped

  return wrap
