"""A step taken apart is that of the dense matrices."""

from __future__ import annotations

from typing import Any

import agreement
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from problems import PROBLEMS, Problem

import gtddp_jax as gt

RATE = 0.05


def found_for(problem: Problem, **options: Any) -> list[gt.analysis.Decision]:
  """All stages, compiled as one program."""
  graph, loss = agreement.trace(problem), agreement.loss_of(problem)
  options = {'base': gt.sgd(RATE), **options}

  @jax.jit
  def stages(params: Any, batch: Any) -> list[gt.analysis.Decision]:
    return gt.analysis.stages(graph, loss, params, batch, **options)

  return stages(problem.params, (problem.inputs, problem.targets))


def linearised(problem: Problem, terminal: str) -> tuple[Any, Any]:
  stages, outputs = oracle.linearise(
    problem.chain, oracle.leaves_of(problem.params), problem.first_state()
  )
  end = oracle.terminal_value(outputs, problem.targets, problem.phi, terminal)
  return stages, end


def assert_falling(actual: Any, expected: np.ndarray) -> None:
  """The eigenvalues, where one side may have more zeros."""
  expected = np.sort(expected)[::-1]
  size = max(len(actual), len(expected))
  padded = [np.zeros(size), np.zeros(size)]
  padded[0][: len(actual)] = np.sort(np.asarray(actual))[::-1]
  padded[1][: len(expected)] = expected
  np.testing.assert_allclose(*padded, atol=1e-10 * max(1, expected[0]))


@pytest.mark.parametrize('terminal', agreement.TERMINALS)
@pytest.mark.parametrize('level', ['frozen', 'bellman'])
def test_spectra_and_gains(level: str, terminal: str) -> None:
  problem = PROBLEMS['list_of_tuples']()
  stages, end = linearised(problem, terminal)
  batch = len(end.V_x)
  gains, _, _, V_xx, _ = oracle.backward(
    stages, end, oracle.sgd(RATE), level=level
  )
  found = found_for(problem, value=level, terminal=terminal)
  assert len(found) == len(stages) > 2
  assert not np.any(found[0].gains)
  for t in range(1, len(stages)):
    before = [
      f.T @ v @ f for f, v in zip(stages[t].f_x, V_xx[t + 1], strict=True)
    ]
    values = np.concatenate([np.linalg.eigvalsh(m) for m in before])
    assert_falling(found[t].spectrum, np.where(values > 1e-12, values, 0))
    expected = [np.linalg.norm(RATE * q / batch) for q in gains[t][1]]
    assert min(expected) > 0
    np.testing.assert_allclose(found[t].gains, expected, rtol=1e-9)


@pytest.mark.parametrize('terminal', agreement.TERMINALS)
def test_spectra_and_gains_over_the_whole_batch(terminal: str) -> None:
  problem = PROBLEMS['mlp']()
  stages, end = linearised(problem, terminal)
  batch = len(end.V_x)
  found = found_for(problem, value='coupled', terminal=terminal)
  V = oracle._block_diagonal(end.V_xx) / batch
  f_X = oracle._block_diagonal(stages[1].f_x)
  f_u = np.concatenate(stages[1].f_u)
  Q_uu = np.eye(f_u.shape[1]) / RATE + f_u.T @ V @ f_u
  K = -np.linalg.solve(Q_uu, f_u.T @ V @ f_X)
  before = f_X.T @ V @ f_X + (f_u.T @ V @ f_X).T @ K
  assert_falling(found[1].spectrum, batch * np.linalg.eigvalsh(before))
  expected = [np.linalg.norm(part) for part in np.split(K, batch, axis=1)]
  np.testing.assert_allclose(found[1].gains, expected, rtol=1e-9)


def test_norms_are_those_of_the_updates() -> None:
  problem = PROBLEMS['list_of_tuples']()
  graph, loss = agreement.trace(problem), agreement.loss_of(problem)
  base, batch = gt.adam(0.01), (problem.inputs, problem.targets)
  found = found_for(problem, base=base, value='bellman', trust_region=0.3)
  for field, feedback in (('update', True), ('open_update', False)):
    tx = gt.gt_ddp(
      graph, loss, base, value='bellman', trust_region=0.3, feedback=feedback
    )
    updates, _ = jax.jit(
      lambda p, tx=tx: tx.update(None, tx.init(p), p, batch=batch)
    )(problem.params)
    leaves = jax.tree.leaves(updates)
    for decision, stage in zip(found, graph.stages, strict=True):
      own = np.concatenate([np.ravel(leaves[i]) for i in stage.control])
      np.testing.assert_allclose(getattr(decision, field), np.linalg.norm(own))
  assert found[0].feedback < 1e-12 or found[0].feedback > 0
  assert found[-1].feedback > 0


def test_what_the_feedback_of_a_convolution_looks_at() -> None:
  rng = np.random.default_rng(0)
  params = {
    'a': jnp.asarray(rng.normal(size=(3, 3, 1, 2))),
    'b': jnp.asarray(rng.normal(size=(3, 3, 2, 3))),
    'c': jnp.asarray(rng.normal(size=(3, 2))),
  }
  images = jnp.asarray(rng.normal(size=(4, 5, 5, 1)))
  targets = jnp.asarray(rng.normal(size=(4, 2)))

  def convolved(x: Any, kernel: Any) -> Any:
    numbers = ('NHWC', 'HWIO', 'NHWC')
    return jax.lax.conv_general_dilated(
      x, kernel, (1, 1), 'SAME', dimension_numbers=numbers
    )

  def first(x: Any) -> Any:
    return jnp.tanh(convolved(x, params['a']))

  def rest(h: Any, params: Any = params) -> Any:
    h = jnp.tanh(convolved(h, params['b']))
    return h.mean(axis=(1, 2)) @ params['c']

  def apply(params: Any, x: Any) -> Any:
    return rest(jnp.tanh(convolved(x, params['a'])), params)

  graph = gt.trace(apply, params, images)
  options = {'base': gt.sgd(0.1), 'terminal': 'gauss_newton'}
  found = jax.jit(
    lambda p: gt.analysis.stages(
      graph, gt.losses.squared_error, p, (images, targets), **options
    )
  )(params)
  assert [d.kind for d in found] == ['conv', 'conv', 'dense']
  assert found[2].eigenvectors is None

  h = first(images)
  jacobians = jax.vmap(jax.jacobian(lambda one: rest(one[None])[0]))(h)
  rows = np.asarray(jacobians).reshape(4, 2, -1)
  mean = np.einsum('ban,bam->nm', rows, rows) / 4  # of squares: V_xx = I
  vectors = np.linalg.eigh(mean)[1][:, :-4:-1].T
  for vector in vectors:
    vector *= np.sign(vector[np.argmax(np.abs(vector))])
  np.testing.assert_allclose(
    found[1].eigenvectors.reshape(3, -1), vectors, atol=1e-8
  )
  _, pull = jax.vjp(first, images)
  for vector, got in zip(vectors, found[1].images, strict=True):
    shaped = jnp.asarray(vector).reshape(1, *h.shape[1:])
    (image,) = pull(jnp.broadcast_to(shaped, h.shape))
    np.testing.assert_allclose(got, np.asarray(image).mean(axis=0), atol=1e-8)
  tests = jnp.asarray(rng.normal(size=(6, *images.shape[1:])))
  along = jax.jit(lambda p: gt.analysis.projections(graph, p, tests, found))(
    params
  )
  assert along[2] is None
  entering = np.asarray(first(tests)).reshape(6, -1)
  np.testing.assert_allclose(along[1], entering @ vectors.T, atol=1e-8)


@pytest.mark.parametrize(
  ('options', 'words'),
  [
    ({}, 'expected base and other options'),
    ({'base': gt.sgd(0.1), 'feedback': True}, 'expected base and other'),
    ({'base': gt.sgd(0.1), 'value': 'exact'}, 'Invalid value'),
    ({'base': __import__('optax').lion(0.1)}, 'expected a base with Q_uu'),
  ],
)
def test_refusals(options: dict[str, Any], words: str) -> None:
  problem = PROBLEMS['mlp']()
  batch = problem.inputs, problem.targets
  with pytest.raises(gt.errors.OptionError, match=words):
    gt.analysis.stages(
      agreement.trace(problem),
      agreement.loss_of(problem),
      problem.params,
      batch,
      **options,
    )
