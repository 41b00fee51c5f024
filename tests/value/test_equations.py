"""The library's step equals the dense recursion on every row of the table."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest
from agreement import (
  TERMINALS,
  VALUES,
  assert_agree,
  compiled,
  loss_of,
  oracle_step,
  trace,
)
from problems import PROBLEMS, Problem

import gtddp_jax as gt

FEW = 'mlp', 'projection_shortcut', 'shared_apart'

# Arguments are the same for the library, optax and the oracle.
BASES: dict[str, tuple[str, tuple[Any, ...]]] = {
  'sgd': ('sgd', (0.05,)),
  'momentum': ('sgd', (0.05, 0.9)),
  'nesterov': ('sgd', (0.05, 0.9, True)),
  'rmsprop': ('rmsprop', (2e-3, 0.8, 1e-2)),
  'adam': ('adam', (2e-3, 0.8, 0.9, 1e-1)),
}


@functools.cache
def traced(name: str) -> tuple[Problem, gt.LayerGraph]:
  problem = PROBLEMS[name]()
  return problem, trace(problem)


def gradient_of(problem: Problem, params: Any) -> Any:
  def mean_loss(params: Any) -> jax.Array:
    outputs = problem.apply_fn(params, problem.inputs)
    return jnp.mean(loss_of(problem)(outputs, problem.targets))

  return jax.jit(jax.grad(mean_loss))(params)


@pytest.mark.once
@pytest.mark.parametrize('name', PROBLEMS)
def test_the_graph_is_the_network(name: str) -> None:
  problem, graph = traced(name)
  expected = problem.apply_fn(problem.params, problem.inputs)
  outputs = graph(problem.params, problem.inputs)
  np.testing.assert_allclose(outputs, expected, atol=1e-14)


@pytest.mark.parametrize('name', PROBLEMS)
def test_the_losses_are_those_of_the_library(name: str) -> None:
  problem, _ = traced(name)
  outputs = problem.apply_fn(problem.params, problem.inputs)
  expected = problem.loss(outputs, problem.targets)
  actual = loss_of(problem)(outputs, problem.targets)
  np.testing.assert_allclose(actual, expected, atol=1e-14)


@pytest.mark.parametrize('value', VALUES)
@pytest.mark.parametrize('terminal', TERMINALS)
@pytest.mark.parametrize('name', PROBLEMS)
def test_step(name: str, terminal: str, value: str) -> None:
  problem, graph = traced(name)
  tx = gt.gt_ddp(
    graph,
    loss_of(problem),
    gt.sgd(problem.rate),
    terminal=terminal,
    value=value,
    trust_region=None,
  )
  state = tx.init(problem.params)
  updates, state = compiled(problem, tx)(problem.params, state)
  solution, end = oracle_step(
    problem,
    problem.params,
    oracle.sgd(problem.rate),
    terminal=terminal,
    value=value,
  )
  assert_agree(updates, solution.updates)
  metrics = gt.metrics(state)
  np.testing.assert_allclose(metrics['loss'], np.mean(end.loss), rtol=1e-6)
  if value == 'bellman':
    assert metrics['smallest_factor'] > 0
    np.testing.assert_allclose(
      metrics['smallest_factor'], solution.smallest_factor, rtol=1e-5
    )


@pytest.mark.once
@pytest.mark.parametrize(
  ('name', 'terminal'),
  [(name, 'gradient') for name in PROBLEMS]
  + [(name, 'gauss_newton') for name in FEW],
)
def test_coupled_step(name: str, terminal: str) -> None:
  """At rates from small to far beyond what plain gradient descent stands."""
  problem, graph = traced(name)

  @jax.jit
  def step(rate: jax.Array) -> Any:
    tx = gt.gt_ddp(
      graph, loss_of(problem), gt.sgd(rate), terminal=terminal, value='coupled'
    )
    batch = problem.inputs, problem.targets
    state = tx.init(problem.params)
    return tx.update(None, state, problem.params, batch=batch)[0]

  for rate in 0.05, 0.5, 50.0:
    solution, _ = oracle_step(
      problem,
      problem.params,
      oracle.sgd(rate),
      terminal=terminal,
      value='coupled',
    )
    assert_agree(step(jnp.asarray(rate)), solution.updates, 1e-9)


@pytest.mark.once
@pytest.mark.parametrize('value', [*VALUES, 'coupled'])
@pytest.mark.parametrize('base', BASES)
@pytest.mark.parametrize(
  ('name', 'terminal'),
  [('projection_shortcut', 'gradient'), ('linen_mlp', 'gauss_newton')],
)
def test_three_steps(name: str, base: str, terminal: str, value: str) -> None:
  problem, graph = traced(name)
  kind, arguments = BASES[base]
  tx = gt.gt_ddp(
    graph,
    loss_of(problem),
    getattr(gt, kind)(*arguments),
    terminal=terminal,
    value=value,
    trust_region=None,
  )
  params, memory = problem.params, None
  state = tx.init(params)
  step = compiled(problem, tx)
  for _ in range(3):
    updates, state = step(params, state)
    solution, _ = oracle_step(
      problem,
      params,
      getattr(oracle, kind)(*arguments),
      memory,
      terminal=terminal,
      value=value,
    )
    if value == 'bellman':
      assert solution.smallest_factor > 0
    assert_agree(updates, solution.updates)
    memory = solution.memory
    params = optax.apply_updates(params, updates)


@pytest.mark.once
@pytest.mark.parametrize('value', VALUES)
@pytest.mark.parametrize('base', BASES)
@pytest.mark.parametrize('name', FEW)
def test_without_feedback_it_is_the_base(
  name: str, base: str, value: str
) -> None:
  """Proposition 1: bit for bit, given the same gradients."""
  problem, graph = traced(name)
  kind, arguments = BASES[base]
  tx = gt.gt_ddp(
    graph,
    loss_of(problem),
    getattr(gt, kind)(*arguments),
    value=value,
    feedback=False,
  )
  plain = getattr(optax, kind)(*arguments)
  params = problem.params
  state, plain_state = tx.init(params), plain.init(params)
  for _ in range(3):
    gradient = gradient_of(problem, params)
    updates, state = tx.update(
      gradient, state, params, batch=(problem.inputs, problem.targets)
    )
    expected, plain_state = plain.update(gradient, plain_state, params)
    for got, want in zip(
      jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True
    ):
      np.testing.assert_array_equal(got, want)
    params = optax.apply_updates(params, updates)


@pytest.mark.parametrize('value', VALUES)
@pytest.mark.parametrize('name', FEW)
def test_feedback_makes_a_difference(name: str, value: str) -> None:
  problem, graph = traced(name)
  with_feedback, without = (
    compiled(problem, tx)(problem.params, tx.init(problem.params))[0]
    for tx in (
      gt.gt_ddp(
        graph,
        loss_of(problem),
        gt.sgd(problem.rate),
        value=value,
        feedback=feedback,
        trust_region=None,
      )
      for feedback in (True, False)
    )
  )
  apart = jax.tree.map(
    lambda a, b: jnp.max(jnp.abs(a - b)), with_feedback, without
  )
  assert max(jax.tree.leaves(apart)) > 1e-4
  # What is decided last in `bellman`, or first in `frozen`, may be equal;
  # the rest is not.
  assert sum(leaf > 1e-6 for leaf in jax.tree.leaves(apart)) >= 2


@pytest.mark.parametrize('feedback', [True, False])
@pytest.mark.parametrize('value', VALUES)
@pytest.mark.parametrize('name', FEW)
def test_gradients_may_be_passed_or_left_out(
  name: str, value: str, feedback: bool
) -> None:
  problem, graph = traced(name)
  tx = gt.gt_ddp(
    graph,
    loss_of(problem),
    gt.adam(1e-3, eps=1e-2),
    value=value,
    feedback=feedback,
    trust_region=None,
  )
  state = tx.init(problem.params)
  gradient = gradient_of(problem, problem.params)
  step = compiled(problem, tx)
  left_out, _ = step(problem.params, state)
  passed, _ = step(problem.params, state, gradient)
  assert_agree(passed, oracle.leaves_of(left_out), 1e-12)


@pytest.mark.parametrize('value', VALUES)
@pytest.mark.parametrize('name', FEW)
def test_compiled_or_not_is_the_same(name: str, value: str) -> None:
  problem, graph = traced(name)
  tx = gt.gt_ddp(
    graph,
    loss_of(problem),
    gt.sgd(problem.rate),
    value=value,
    trust_region=None,
  )
  state = tx.init(problem.params)
  batch = problem.inputs, problem.targets
  fused, _ = compiled(problem, tx)(problem.params, state)
  plain, _ = tx.update(None, state, problem.params, batch=batch)
  assert_agree(plain, oracle.leaves_of(fused), 1e-12)
