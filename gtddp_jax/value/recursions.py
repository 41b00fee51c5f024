"""The value recursions by name, and the one that changes nothing.

``frozen`` keeps ``d`` and ``S`` at their terminal values, ``bellman`` is
block-diagonal over the batch, ``coupled`` is exact over the batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp

from gtddp_jax import checks, errors
from gtddp_jax import gradients as gradients_lib
from gtddp_jax.value import bellman, coupled
from gtddp_jax.value import problem as problem_lib


@dataclasses.dataclass(frozen=True)
class Frozen:
  """``value='frozen'``: only the feedback acts."""

  @property
  def needs_curvature(self) -> bool:
    """See ``ValueRecursion``."""
    return False

  @property
  def trust_region(self) -> float | None:
    """See ``ValueRecursion``."""
    return problem_lib.BOUND

  def wanted(self, n: int) -> gradients_lib.Wanted:
    """See ``ValueRecursion``."""
    del n
    return gradients_lib.Wanted()

  def __call__(self, problem: problem_lib.Problem) -> problem_lib.Sweep:
    """Keeps the terminal value function."""
    problem.curvature.observe_rest(problem.terminal.slope)
    return problem_lib.Sweep(
      [problem.terminal] * len(problem.spans),
      jnp.ones(()),
      jnp.zeros(()),
      checked=0,
    )


@dataclasses.dataclass(frozen=True)
class Own:
  """A function of the user's as a value recursion.

  Attributes:
    function: from ``Problem`` to ``Sweep``.
  """

  function: Callable[[problem_lib.Problem], problem_lib.Sweep]

  @property
  def needs_curvature(self) -> bool:
    """See ``ValueRecursion``."""
    return True

  @property
  def trust_region(self) -> float | None:
    """See ``ValueRecursion``."""
    return problem_lib.BOUND

  def wanted(self, n: int) -> gradients_lib.Wanted:
    """See ``ValueRecursion``; products are formed in blocks."""
    del n
    return gradients_lib.Wanted()

  def __call__(self, problem: problem_lib.Problem) -> problem_lib.Sweep:
    """Calls the function."""
    return self.function(problem)


RECURSIONS: Mapping[str, problem_lib.ValueRecursion] = MappingProxyType(
  {
    'frozen': Frozen(),
    'bellman': bellman.Bellman(),
    'coupled': coupled.Coupled(),
  }
)


def recursion(value: Any) -> problem_lib.ValueRecursion:
  """The value recursion of a name, or of a function.

  Raises:
    OptionError: for an unknown name.
  """
  if isinstance(value, str) and value in RECURSIONS:
    return RECURSIONS[value]
  if isinstance(value, (str, type)) or not callable(value):
    raise errors.OptionError(
      f'Invalid value: got {value!r}, expected one of '
      f'{", ".join(map(repr, RECURSIONS))}, Bellman(memory) or '
      f'Coupled(memory).{checks.nearest(value, RECURSIONS)}',
      'value',
    )
  return value if hasattr(value, 'wanted') else Own(value)
