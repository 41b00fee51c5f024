"""Batch-augmented DDP computed directly, and the costs beside it."""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gtddp_jax as gt
from experiments.networks import layers, mlps
from experiments.runs import run_folder
from experiments.studies.costs import dense_ddp, scaling

pytestmark = pytest.mark.once


def test_the_direct_recursion_takes_the_step_of_coupled() -> None:
  module = mlps.MLP((5, 4), 3, layers.Style('tanh'))
  x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)))
  batch = x, jnp.arange(6) % 3
  params = module.init(jax.random.key(0), x)
  loss = gt.losses.softmax_cross_entropy
  graph = gt.trace(module.apply, params, x)
  tx = gt.gt_ddp(graph, loss, gt.sgd(0.5), 'gauss_newton', 'coupled')
  updates, _ = tx.update(None, tx.init(params), params, batch=batch)
  names = 'hidden_1', 'hidden_2', 'linear'
  direct = dense_ddp.step(
    [params['params'][n] for n in names], jnp.tanh, loss, batch, 0.5
  )
  for name, expected in zip(sorted(updates['params']), direct, strict=True):
    got = updates['params'][name]
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8),
      got,
      expected,
    )


def test_costs_are_measured_and_drawn(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(scaling, 'VARIANTS', {'frozen, gradient': {}})
  costs = scaling.measure('mlp', [2, 4], rounds=1, most=1e9)
  assert [cost.form for cost in costs[::2]] == [
    'plain SGD',
    'frozen, gradient',
    scaling.DIRECT,
  ]
  assert all(cost.seconds > 0 and cost.memory > 0 for cost in costs)
  none = scaling.measure('mlp', [2], rounds=1, most=1.0)
  assert none == []
  columns = scaling.columns([*costs[:4], costs[4]])
  assert columns[2].cells[-1] == 'out of memory'
  scaling.draw(tmp_path / 'scaling.png', costs)
  assert (tmp_path / 'scaling.png').stat().st_size > 5000


def test_a_study_goes_on_where_it_stopped(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(scaling, 'VARIANTS', {})
  config = scaling.COMMAND.get_config()
  config.scaling.update(batches=(4, 2, 8), rounds=1)
  folder = run_folder.create(
    tmp_path, config, overwrite=False, files=scaling.COMMAND.files
  )
  for cost in (
    scaling.Cost('plain SGD', 2, 0.1, 2000000),
    scaling.Cost('plain SGD', 4, 0.2, 4000000),
    scaling.Cost(scaling.DIRECT, 2, None, 9000000000),
  ):
    folder.log(cost._asdict())
  scaling.work(config, folder)
  (new,) = folder.rows()[3:]  # all that was left
  assert (new['form'], new['batch']) == ('plain SGD', 8)
  page = folder.file('results.md').read_text()
  assert '| plain SGD | 100 / 2 | 200 / 4 | ' in page
  assert '\n## How\n' in page
  assert folder.file('scaling.png').stat().st_size > 5000


def test_exponent_is_the_slope() -> None:
  costs = [scaling.Cost('a', b, 1e-3 * b**2, b**3) for b in (2, 4, 8)]
  np.testing.assert_allclose(scaling.exponent(costs, 'seconds'), 2)
  np.testing.assert_allclose(scaling.exponent(costs, 'memory'), 3)
  assert np.isnan(scaling.exponent(costs[:1], 'memory'))
