"""One step of the library beside one step of the oracle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import oracle
from problems import Problem

import gtddp_jax as gt

TERMINALS = 'gradient', 'gauss_newton'
VALUES = 'frozen', 'bellman'


def loss_of(problem: Problem) -> Any:
  """The library's own loss where it has one, so that its shortcuts are met."""
  if problem.known is None:
    return problem.loss
  return getattr(gt.losses, problem.known)


def trace(problem: Problem) -> gt.LayerGraph:
  """The network as the library sees it."""
  return gt.trace(problem.apply_fn, problem.params, problem.inputs)


def compiled(problem: Problem, tx: Any) -> Callable[..., tuple[Any, Any]]:
  """A compiled update `(params, state, gradient=None) -> (updates, state)`."""

  @jax.jit
  def step(params: Any, state: Any, gradient: Any = None) -> tuple[Any, Any]:
    batch = problem.inputs, problem.targets
    return tx.update(gradient, state, params, batch=batch)

  return step


def oracle_step(
  problem: Problem,
  params: Any,
  base: oracle.Base,
  memory: Any = None,
  *,
  terminal: str = 'gradient',
  value: str = 'frozen',
  feedback: bool = True,
) -> tuple[oracle.Solution, oracle.Terminal]:
  """The dense recursion from the hand-written chain."""
  stages, outputs = oracle.linearise(
    problem.chain, oracle.leaves_of(params), problem.first_state()
  )
  end = oracle.terminal_value(outputs, problem.targets, problem.phi, terminal)
  if value == 'coupled':
    return oracle.solve_coupled(stages, end, base, memory), end
  return oracle.solve(stages, end, base, memory, value, feedback), end


def assert_agree(
  updates: Any, expected: dict[str, np.ndarray], tolerance: float = 1e-10
) -> None:
  """Compares updates leaf by leaf, relative to 1 or to the largest update."""
  actual = oracle.leaves_of(updates)
  assert actual.keys() == expected.keys()
  scale = max(1.0, *(np.max(np.abs(leaf)) for leaf in expected.values()))
  for path, leaf in expected.items():
    np.testing.assert_allclose(
      actual[path],
      leaf,
      rtol=tolerance,
      atol=tolerance * scale,
      err_msg=path,
    )
