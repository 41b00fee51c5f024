"""Levenberg-Marquardt against dense matrices and published formulas."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import oracle_least_squares as dense
import pytest
from agreement import assert_agree, compiled, loss_of, trace
from jax.flatten_util import ravel_pytree
from problems import PROBLEMS, Problem

import gtddp_jax as gt

pytestmark = pytest.mark.once

NETWORKS = (
  'mlp',
  'one_sample',
  'identity_skip',
  'projection_shortcut',
  'strided_convolutions',
  'shared_apart',
  'tied_transpose',
  'relu',
  'list_of_tuples',
  'scalar_output_log_cosh',
)
TINY = 1e-9


def optimizer(problem: Problem, feedback: bool = True, **arguments: Any) -> Any:
  return gt.gt_ddp(
    trace(problem),
    loss_of(problem),
    gt.levenberg_marquardt(**arguments),
    terminal='gauss_newton',
    value='coupled',
    feedback=feedback,
  )


@functools.cache
def linear(name: str) -> tuple[Problem, list[oracle.Linear], oracle.Terminal]:
  problem = PROBLEMS[name]()
  return problem, *expanded(problem, problem.params)


def expanded(problem: Problem, params: Any) -> Any:
  leaves = oracle.leaves_of(params)
  stages, outputs = oracle.linearise(
    problem.chain, leaves, problem.first_state()
  )
  end = oracle.terminal_value(
    outputs, problem.targets, problem.phi, 'gauss_newton'
  )
  return stages, end


def damped(
  stages: list[oracle.Linear], damping: float, alpha: float, prior: Any = None
) -> dense.Damped:
  def zero(stage: oracle.Linear) -> np.ndarray:
    return np.zeros(stage.u.size)

  def given(stage: oracle.Linear) -> np.ndarray:
    parts = {path.split('/')[-1]: prior[path] for path in stage.control}
    return np.asarray(ravel_pytree(parts)[0])

  return dense.Damped(
    [np.full(stage.u.size, damping) for stage in stages],
    [zero(s) if prior is None else given(s) for s in stages],
    alpha,
  )


def loss_at(problem: Problem, params: Any) -> float:
  outputs = problem.apply_fn(params, problem.inputs)
  return float(jnp.mean(loss_of(problem)(outputs, problem.targets)))


def moved(params: Any, updates: Any) -> Any:
  return jax.tree.map(jnp.add, params, updates)


@pytest.mark.parametrize('name', NETWORKS)
@pytest.mark.parametrize('feedback', [True, False])
def test_a_step_is_that_of_dense_matrices(name: str, feedback: bool) -> None:
  """At two dampings and two step sizes, with momentum: two steps in a row."""
  problem, stages, end = linear(name)
  solve = dense.closed_loop if feedback else dense.open_loop
  tx = optimizer(
    problem,
    feedback,
    damping=lambda n: jnp.where(n == 0, 0.3, 1e-3),
    learning_rate=lambda n: jnp.where(n == 0, 0.4, 1.0),
    momentum=0.6,
    adaptive=False,
  )
  step = compiled(problem, tx)
  updates, state = step(problem.params, tx.init(problem.params))
  expected = solve(stages, end, damped(stages, 0.3, 0.4))
  assert_agree(updates, expected, TINY)
  found = gt.metrics(state)
  np.testing.assert_allclose(found['damping'], 0.3, rtol=1e-6)
  np.testing.assert_allclose(found['step_size'], 0.4, rtol=1e-6)
  assert found['rejected'] == 0 and np.isnan(found['gain_ratio'])

  params = moved(problem.params, updates)
  updates, state = step(params, state)
  stages, end = expanded(problem, params)
  prior = {path: 0.6 * leaf / 0.4 for path, leaf in expected.items()}
  expected = solve(stages, end, damped(stages, 1e-3, 1.0, prior))
  assert_agree(updates, expected, TINY)


@pytest.mark.parametrize('name', NETWORKS[:7])
@pytest.mark.parametrize('feedback', [True, False])
def test_damping_follows_the_gain_ratio(name: str, feedback: bool) -> None:
  problem = PROBLEMS[name]()
  solve = dense.closed_loop if feedback else dense.open_loop
  tx = optimizer(problem, feedback, damping=1e-3)
  step = compiled(problem, tx)
  params, state, damping = problem.params, tx.init(problem.params), 1e-3
  for _ in range(3):
    stages, end = expanded(problem, params)
    updates, state = step(params, state)
    before, found = loss_at(problem, params), gt.metrics(state)
    for tries in range(7):
      wanted = damped(stages, damping, 0.5**tries)
      expected = solve(stages, end, wanted)
      changed = moved(params, tree_of(params, expected))
      decrease = before - loss_at(problem, changed)
      predicted = dense.predicted(stages, end, wanted)
      if decrease > max(0, 1e-4 * predicted):
        break
    else:
      raise AssertionError('no step decreases the loss')
    assert_agree(updates, expected, TINY)
    full = dense.predicted(stages, end, damped(stages, damping, 1.0))
    ratio = decrease / full
    np.testing.assert_allclose(found['gain_ratio'], ratio, rtol=1e-5)
    np.testing.assert_allclose(found['damping'], damping, rtol=1e-6)
    assert found['step_size'] == 0.5**tries and found['rejected'] == 0
    damping *= 0.1 if ratio > 0.5 else 3 if ratio < 0.1 else 1
    np.testing.assert_allclose(state.base.damping, damping, rtol=1e-9)
    params = changed


def tree_of(params: Any, leaves: oracle.Leaves) -> Any:
  paths = oracle.leaves_of(params)
  assert paths.keys() == leaves.keys()
  return jax.tree.unflatten(
    jax.tree.structure(params), [jnp.asarray(leaves[path]) for path in paths]
  )


def regression(widths: tuple[int, ...] = (2, 6, 5, 1), batch: int = 9) -> Any:
  """A network, its parameters, inputs and targets, by no table."""
  rng = np.random.default_rng(3)
  params = [
    (jnp.asarray(rng.normal(size=(a, b)) / a**0.5), jnp.zeros(b))
    for a, b in itertools.pairwise(widths)
  ]

  def apply_fn(params: Any, x: jax.Array) -> jax.Array:
    for n, (w, b) in enumerate(params):
      x = (jnp.tanh(x) if n else x) @ w + b[None]
    return x

  x = jnp.asarray(rng.normal(size=(batch, widths[0])))
  return apply_fn, params, x, jnp.sin(2 * x[:, :1]) + 1


def residuals(apply_fn: Any, params: Any, x: Any, y: Any) -> tuple[Any, Any]:
  """Residuals of all samples and their gradients, one row for each sample."""
  flat, unravel = ravel_pytree(params)

  def one(flat: Any, x: Any, y: Any) -> Any:
    return apply_fn(unravel(flat), x[None])[0, 0] - y[0]

  both = jax.vmap(jax.value_and_grad(one), (None, 0, 0))(flat, x, y)
  return tuple(map(np.asarray, both))


def stepper(batch: Any, **arguments: Any) -> tuple[Any, Any]:
  apply_fn, params, x, y = batch
  feedback = arguments.pop('feedback', True)
  tx = gt.gt_ddp(
    gt.trace(apply_fn, params, x),
    gt.losses.squared_error,
    gt.levenberg_marquardt(**arguments),
    terminal='gauss_newton',
    value='coupled',
    feedback=feedback,
  )

  @jax.jit
  def step(params: Any, state: Any) -> tuple[Any, Any]:
    updates, state = tx.update(None, state, params, batch=(x, y))
    return moved(params, updates), state

  return tx, step


def test_the_open_loop_is_gauss_newton_in_the_space_of_the_samples() -> None:
  """Ten steps; the Jacobian by `vmap(grad)`, the kernel by one solve."""
  case = regression()
  apply_fn, params, x, y = case
  tx, step = stepper(case, damping=1e-2, adaptive=False, feedback=False)
  state, flat = tx.init(params), np.asarray(ravel_pytree(params)[0])
  unravel = ravel_pytree(params)[1]
  for _ in range(10):
    params, state = step(params, state)
    r, J = residuals(apply_fn, unravel(jnp.asarray(flat)), x, y)
    B = len(r)
    flat = flat - J.T @ np.linalg.solve(J @ J.T / B + 1e-2 * np.eye(B), r) / B
    np.testing.assert_allclose(ravel_pytree(params)[0], flat, rtol=1e-8)


@pytest.mark.parametrize('bound', [0.4, 1e3])
def test_momentum_is_that_of_spring(bound: float) -> None:
  """arXiv 2402.10680: `phi <- mu phi + J' (J J' + l)^-1 (r - mu J phi)`, with J
  and r over root B, and a step of `eta phi` no longer than the bound."""
  case = regression()
  apply_fn, params, x, y = case
  rate, momentum = 0.7, 0.9
  tx, step = stepper(
    case,
    damping=1e-2,
    learning_rate=rate,
    momentum=momentum,
    max_norm=bound,
    adaptive=False,
    feedback=False,
  )
  state, flat = tx.init(params), np.asarray(ravel_pytree(params)[0])
  unravel, phi = ravel_pytree(params)[1], np.zeros(flat.size)
  shortened = 0
  for _ in range(12):
    params, state = step(params, state)
    r, J = residuals(apply_fn, unravel(jnp.asarray(flat)), x, y)
    r, J = r / len(r) ** 0.5, J / len(r) ** 0.5
    inner = J @ J.T + 1e-2 * np.eye(len(r))
    phi = momentum * phi
    phi = phi + J.T @ np.linalg.solve(inner, r - J @ phi)
    factor = min(1.0, bound / np.linalg.norm(rate * phi))
    shortened += factor < 1
    flat = flat - factor * rate * phi
    np.testing.assert_allclose(ravel_pytree(params)[0], flat, rtol=1e-7)
    size = gt.metrics(state)['step_size']
    np.testing.assert_allclose(size, factor * rate, rtol=1e-5)
  assert (shortened > 0) == (bound < 1)


@pytest.mark.parametrize('metric', ['rmsprop', 'adam'])
@pytest.mark.parametrize('feedback', [True, False])
def test_the_metric_is_the_diagonal_of_a_base(
  metric: str, feedback: bool
) -> None:
  """In closed loop as `coupled` with that base; in open loop as a dense solve,
  with the second moment of the gradient."""
  problem, stages, end = linear('identity_skip')
  tx = optimizer(
    problem, feedback, damping=1 / 0.3, metric=metric, adaptive=False
  )
  updates, _ = compiled(problem, tx)(problem.params, tx.init(problem.params))
  if feedback:
    base = {'rmsprop': gt.rmsprop(0.3), 'adam': gt.adam(0.3)}[metric]
    other = gt.gt_ddp(
      trace(problem), loss_of(problem), base, 'gauss_newton', 'coupled'
    )
    expected, _ = compiled(problem, other)(
      problem.params, other.init(problem.params)
    )
    assert_agree(updates, oracle.leaves_of(expected), TINY)
    return
  share, eps = (0.1, 0.0) if metric == 'rmsprop' else (1.0, 1e-8)
  slope = np.concatenate(end.V_x) / len(end.V_x)
  moments = [share * (J.T @ slope) ** 2 for J in dense.jacobian(stages)]
  inside = 1e-8 if metric == 'rmsprop' else 0.0
  wanted = damped(stages, 1.0, 1.0)._replace(
    damping=[(np.sqrt(m + inside) + eps) / 0.3 for m in moments]
  )
  assert_agree(updates, dense.open_loop(stages, end, wanted), 1e-7)
