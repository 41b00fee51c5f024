"""The oracle against statements that need no library: brute force, optax."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest
from oracle import Linear, Solution, Stage, Terminal
from problems import PROBLEMS, Problem

pytestmark = pytest.mark.once

TERMINALS = 'gradient', 'gauss_newton'
BASES = {
  'sgd': (oracle.sgd(0.05), optax.sgd(0.05)),
  'momentum': (oracle.sgd(0.05, 0.9), optax.sgd(0.05, 0.9)),
  'nesterov': (
    oracle.sgd(0.05, 0.9, True),
    optax.sgd(0.05, 0.9, nesterov=True),
  ),
  'rmsprop': (
    oracle.rmsprop(0.01, 0.8, 1e-3),
    optax.rmsprop(0.01, 0.8, 1e-3),
  ),
  'adam': (
    oracle.adam(0.01, 0.8, 0.9, 1e-3),
    optax.adam(0.01, 0.8, 0.9, 1e-3),
  ),
}


@functools.cache
def linear(name: str) -> tuple[Problem, list[Linear], list[Any]]:
  problem = PROBLEMS[name]()
  leaves = oracle.leaves_of(problem.params)
  stages, outputs = oracle.linearise(
    problem.chain, leaves, problem.first_state()
  )
  return problem, stages, outputs


def terminal_of(name: str, kind: str) -> Terminal:
  problem, _, outputs = linear(name)
  return oracle.terminal_value(outputs, problem.targets, problem.phi, kind)


def gradient_of(problem: Problem, params: Any) -> Any:
  def mean_loss(params: Any) -> jax.Array:
    outputs = problem.apply_fn(params, problem.inputs)
    return jnp.mean(problem.loss(outputs, problem.targets))

  return jax.jit(jax.grad(mean_loss))(params)


@pytest.mark.parametrize('name', PROBLEMS)
def test_chain_is_the_network(name: str) -> None:
  problem, _, outputs = linear(name)
  decided = [path for stage in problem.chain for path in stage.control]
  assert sorted(decided) == sorted(oracle.leaves_of(problem.params))
  expected = problem.apply_fn(problem.params, problem.inputs)
  np.testing.assert_allclose(np.stack(outputs), expected, atol=1e-14)


@pytest.mark.parametrize('name', PROBLEMS)
def test_without_feedback_it_is_back_propagation(name: str) -> None:
  problem, stages, _ = linear(name)
  gradient = oracle.leaves_of(gradient_of(problem, problem.params))
  for level in 'frozen', 'bellman':
    solution = oracle.solve(
      stages,
      terminal_of(name, 'gradient'),
      oracle.sgd(1.0),
      level=level,
      feedback=False,
    )
    for path, update in solution.updates.items():
      np.testing.assert_allclose(update, -gradient[path], atol=1e-13)


@pytest.mark.parametrize('name', PROBLEMS)
@pytest.mark.parametrize('kind', TERMINALS)
def test_nothing_clamps_at_the_rate_of_the_row(name: str, kind: str) -> None:
  problem, stages, _ = linear(name)
  solution = oracle.solve(
    stages, terminal_of(name, kind), oracle.sgd(problem.rate)
  )
  assert solution.smallest_factor > 0
  for V_xx in (matrix for stage in solution.V_xx for matrix in stage):
    assert np.linalg.eigvalsh(V_xx)[0] > -1e-12


@pytest.mark.parametrize('name', BASES)
@pytest.mark.parametrize('level', ['frozen', 'bellman'])
def test_bases_without_feedback_are_those_of_optax(
  name: str, level: str
) -> None:
  base, optimizer = BASES[name]
  problem = PROBLEMS['mlp']()
  params = problem.params
  state, memory = optimizer.init(params), None
  for _ in range(3):
    leaves = oracle.leaves_of(params)
    stages, outputs = oracle.linearise(problem.chain, leaves, problem.inputs)
    terminal = oracle.terminal_value(
      outputs, problem.targets, problem.phi, 'gradient'
    )
    solution = oracle.solve(stages, terminal, base, memory, level, False)
    memory = solution.memory
    updates, state = optimizer.update(gradient_of(problem, params), state)
    for path, update in oracle.leaves_of(updates).items():
      np.testing.assert_allclose(solution.updates[path], update, atol=1e-14)
    params = optax.apply_updates(params, updates)


def test_the_not_convex_row_is_not_convex() -> None:
  problem, _, outputs = linear('not_convex')
  curvatures = [
    np.linalg.eigvalsh(jax.hessian(problem.phi)(output, target))
    for output, target in zip(outputs, problem.targets, strict=True)
  ]
  assert np.min(curvatures) < -0.1 < 0.1 < np.max(curvatures)


@pytest.mark.parametrize('kind', TERMINALS)
@pytest.mark.parametrize('name', ['mlp', 'one_sample'])
def test_value_is_the_minimised_bellman_objective(name: str, kind: str) -> None:
  """`min over u` of each stage's quadratic model, by automatic derivatives."""
  problem, stages, _ = linear(name)
  solution = oracle.solve(
    stages, terminal_of(name, kind), oracle.sgd(problem.rate)
  )
  B = len(problem.targets)
  for t, stage in enumerate(stages):
    f_x, f_u = stage.f_x, stage.f_u
    V_x, V_xx = map(np.stack, (solution.V_x[t + 1], solution.V_xx[t + 1]))

    def objective(dx: jax.Array, du: jax.Array) -> jax.Array:
      from_x = jnp.einsum('bij,bj->bi', f_x, dx)  # noqa: B023
      from_u = f_u @ du  # noqa: B023
      moved = from_x + from_u
      value = jnp.sum(V_x * moved)  # noqa: B023
      value += 0.5 * jnp.einsum('bi,bij,bj', moved, V_xx, moved)  # noqa: B023
      # The base's curvature stands in for the control's own.
      value -= 0.5 * jnp.einsum('bi,bij,bj', from_u, V_xx, from_u)  # noqa: B023
      return value / B + 0.5 * jnp.sum(du**2) / problem.rate

    V, H = _expand_minimum(objective, stage.x.shape, stage.u.size)
    V, H = B * V.reshape(stage.x.shape), B * H.reshape(2 * stage.x.shape)
    np.testing.assert_allclose(V, np.stack(solution.V_x[t]), atol=1e-11)
    for i in range(B):
      np.testing.assert_allclose(H[i, :, i], solution.V_xx[t][i], atol=1e-11)


@pytest.mark.parametrize('kind', TERMINALS)
def test_coupled_value_is_the_minimised_bellman_objective(kind: str) -> None:
  _, stages, _ = linear('mlp')
  rate = 2.0
  solution = oracle.solve_coupled(
    stages, terminal_of('mlp', kind), oracle.sgd(rate)
  )
  for t, stage in enumerate(stages):
    V_X, V_XX = solution.V_x[t + 1], solution.V_xx[t + 1]

    def objective(dx: jax.Array, du: jax.Array) -> jax.Array:
      moved = jnp.einsum('bij,bj->bi', stage.f_x, dx) + stage.f_u @ du  # noqa: B023
      dX = moved.reshape(-1)
      value = V_X @ dX + 0.5 * dX @ V_XX @ dX  # noqa: B023
      return value + 0.5 * jnp.sum(du**2) / rate

    V, H = _expand_minimum(objective, stage.x.shape, stage.u.size)
    np.testing.assert_allclose(V, solution.V_x[t], atol=1e-11)
    np.testing.assert_allclose(H, solution.V_xx[t], atol=1e-11)


def _expand_minimum(
  objective: Any, shape: tuple[int, ...], controls: int
) -> tuple[np.ndarray, np.ndarray]:
  """Gradient and Hessian at 0 of `dx -> min over du of objective(dx, du)`."""

  def minimum(flat: jax.Array) -> jax.Array:
    dx, du = flat.reshape(shape), jnp.zeros(controls)
    slope = jax.grad(objective, 1)(dx, du)
    curvature = jax.hessian(objective, 1)(dx, du)
    return objective(dx, -jnp.linalg.solve(curvature, slope))

  zero = jnp.zeros(int(np.prod(shape)))
  gradient, hessian = jax.jit(
    lambda flat: (jax.grad(minimum)(flat), jax.hessian(minimum)(flat))
  )(zero)
  return np.asarray(gradient), np.asarray(hessian)


@pytest.mark.parametrize('kind', TERMINALS)
@pytest.mark.parametrize('name', ['mlp', 'identity_skip', 'shared_apart'])
def test_coupled_solves_the_least_squares_of_all_controls(
  name: str, kind: str
) -> None:
  """On linear dynamics dynamic programming is one joint linear solve."""
  _, stages, _ = linear(name)
  terminal = terminal_of(name, kind)
  rate, B = 0.5, len(terminal.V_x)
  columns = []
  for stage in stages:
    columns = [
      np.stack([stage.f_x[i] @ column[i] for i in range(B)])
      for column in columns
    ] + [stage.f_u]
  effect = np.concatenate(columns, axis=2)
  curvature = np.eye(effect.shape[2]) / rate
  slope = np.zeros(effect.shape[2])
  for i in range(B):
    curvature += effect[i].T @ terminal.V_xx[i] @ effect[i] / B
    slope += effect[i].T @ terminal.V_x[i] / B
  step = -np.linalg.solve(curvature, slope)
  solution = oracle.solve_coupled(
    stages, terminal, oracle.sgd(rate), linear_rollout=True
  )
  ends = np.cumsum([stage.u.size for stage in stages])
  for stage, du in zip(stages, np.split(step, ends[:-1]), strict=True):
    for path, part in stage.split(du).items():
      [full] = [p for p in stage.control if p.split('/')[-1] == path]
      np.testing.assert_allclose(solution.updates[full], part, atol=1e-11)


def test_cross_terms_at_a_fork_are_necessary() -> None:
  """With the forked state written twice, V at the fork is the sum of all four
  blocks; the two diagonal ones alone are something else."""
  problem, stages, outputs = linear('identity_skip')
  terminal = terminal_of('identity_skip', 'gauss_newton')
  first, fork, *rest = problem.chain

  def both(x: jax.Array, u: Any) -> dict[str, jax.Array]:
    return {'r': first.step(x, u), 'x': first.step(x, u)}

  def part(c: dict[str, jax.Array], u: Any) -> dict[str, jax.Array]:
    return fork.step(c['x'], u) | {'skip': c['r']}

  twice = Stage(first.control, both), Stage(fork.control, part), *rest
  leaves = oracle.leaves_of(problem.params)
  doubled, same = oracle.linearise(twice, leaves, problem.inputs)
  np.testing.assert_allclose(np.stack(same), np.stack(outputs), atol=1e-15)

  base = oracle.sgd(problem.rate)
  one: Solution = oracle.solve(stages, terminal, base)
  two: Solution = oracle.solve(doubled, terminal, base)
  n = stages[1].x.shape[1]
  for i in range(len(outputs)):
    V_x, V_xx = two.V_x[1][i], two.V_xx[1][i]
    np.testing.assert_allclose(V_x[:n] + V_x[n:], one.V_x[1][i], atol=1e-13)
    diagonal = V_xx[:n, :n] + V_xx[n:, n:]
    cross = V_xx[:n, n:] + V_xx[n:, :n]
    np.testing.assert_allclose(diagonal + cross, one.V_xx[1][i], atol=1e-13)
    assert np.max(np.abs(diagonal - one.V_xx[1][i])) > 1e-2
