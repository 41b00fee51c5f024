"""The value recursions by name, and the one that changes nothing.

``frozen`` keeps ``d`` and ``S`` at their terminal values, ``bellman`` is
block-diagonal over the batch, ``coupled`` is exact over the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp

from gtddp_jax import errors
from gtddp_jax.value import bellman, coupled
from gtddp_jax.value import problem as problem_lib


def frozen(problem: problem_lib.Problem) -> problem_lib.Sweep:
  """Keeps the terminal value function: only the feedback acts."""
  problem.base.observe_rest(problem.terminal.slope)
  return problem_lib.Sweep(
    [problem.terminal] * len(problem.spans),
    jnp.ones(()),
    jnp.zeros(()),
    checked=0,
  )


LEVELS: Mapping[str, problem_lib.Level] = MappingProxyType(
  {
    'frozen': frozen,
    'bellman': bellman.Bellman(),
    'coupled': coupled.Coupled(),
  }
)


def level(value: Any) -> Any:
  """The level of a name; anything else as it is.

  Raises:
    OptionError: for an unknown name.
  """
  if isinstance(value, str) and value in LEVELS:
    return LEVELS[value]
  if isinstance(value, (str, type)) or not callable(value):
    raise errors.OptionError(
      f'Invalid value: got {value!r}, expected one of '
      f'{", ".join(map(repr, LEVELS))}, Bellman(memory) or Coupled(memory).',
      'value',
    )
  return value
