"""Accumulated gradients, mixed precision and schedules in whole programs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from configs import default
from experiments.data import preprocessing, splits
from experiments.networks import models
from experiments.optimizers import accumulation
from experiments.training import loop, programs

pytestmark = pytest.mark.once


def small(**optimizer: Any) -> ml_collections.ConfigDict:
  config = default.get_config()
  config.model.update(name='mlp', widths=(8,))
  config.update(batch_size=64, epochs=1, log_every=2, eval_every=4)
  config.optimizer.update(optimizer)
  config.optimizer.base.update(learning_rate=0.3, name='sgd')
  return config


@pytest.fixture(scope='module')
def dataset() -> splits.Dataset:
  return splits.load('digits', 'standard', train_samples=256)


def trained(
  config: ml_collections.ConfigDict, dataset: splits.Dataset
) -> loop.Loop:
  network = programs.build_network(config, dataset)
  run = loop.Loop(programs.build(network, config, dataset), config, dataset, 0)
  assert len([*run.rows()]) > 1
  return run


def one_step(
  config: ml_collections.ConfigDict, params: Any, dataset: splits.Dataset
) -> Any:
  """Plain SGD over the first two batches at once."""
  model = models.build(config.model, dataset.classes)
  first, second = (splits.batch(dataset.train, 64, 0, i) for i in (0, 1))
  images = np.concatenate([first.images, second.images])
  labels = np.concatenate([first.labels, second.labels])

  def loss(params: Any) -> jax.Array:
    inputs = preprocessing.prepare(images, dataset.scale)
    logits = model.apply({'params': params}, inputs)
    return gt.losses.softmax_cross_entropy(logits, labels).mean()

  gradients = jax.grad(loss)(params)
  return jax.tree.map(lambda p, g: p - 0.3 * g, params, gradients)


def test_two_batches_make_one_update(dataset: splits.Dataset) -> None:
  config = small(name='sgd', accumulate=2)
  config.log_every = config.eval_every = 1
  network = programs.build_network(config, dataset)
  program = programs.build(network, config, dataset)
  start, _ = program.init(0)
  rows = (run := loop.Loop(program, config, dataset, 0)).rows()
  next(rows)
  next(rows)
  jax.tree.map(np.testing.assert_array_equal, run.position.params, start)
  next(rows)
  expected = one_step(config, start, dataset)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    run.position.params,
    expected,
  )


def test_what_an_update_measured_is_not_read_without_one(
  dataset: splits.Dataset,
) -> None:
  config = small(name='gt_ddp', accumulate=2)
  config.log_every, config.eval_every = 1, 4
  program = programs.build(
    programs.build_network(config, dataset), config, dataset
  )
  rows = [*loop.Loop(program, config, dataset, 0).rows()][1:]
  assert ['gradient_norm' in row for row in rows] == [False, True] * 2
  config.log_every = 4
  *_, together = loop.Loop(program, config, dataset, 0).rows()
  for name in ('gradient_norm', 'feedback_ratio'):
    mean = (rows[1][name] + rows[3][name]) / 2
    assert together[name] == pytest.approx(mean, rel=1e-5)
  measured = [*together][[*together].index('batch_loss') + 1 :]
  measured = measured[: measured.index('test_loss')]
  assert measured[: measured.index('skipped_steps')] == [  # not a set's order
    'clipped_share',
    'feedback_ratio',
    'gradient_norm',
  ]
  assert together['batch_loss'] == pytest.approx(
    sum(row['batch_loss'] for row in rows) / 4, rel=1e-5
  )


def test_one_gradient_that_is_not_finite_costs_one_update() -> None:
  params = {'w': jnp.ones((2, 1))}
  network = lambda p, x: x @ p['w']  # noqa: E731
  loss = lambda o, y: ((o - y) ** 2).sum(axis=1)  # noqa: E731
  x, y = jnp.ones((4, 2)), jnp.zeros((4, 1))
  graph = gt.trace(network, params, x)
  tx = accumulation.accumulated(
    gt.gt_ddp(graph, loss, gt.sgd(0.1), feedback=False), graph, loss, 2
  )
  state, moved = tx.init(params), []
  for inputs in (x * jnp.inf, x, x, x):
    updates, state = tx.update(None, state, params, batch=(inputs, y))
    moved.append(bool(updates['w'].any()))
  assert moved == [False, False, False, True]
  assert accumulation.metrics(state)['skipped_steps'] == 1


def test_feedback_is_added_to_accumulated_gradients(
  dataset: splits.Dataset,
) -> None:
  alone = trained(small(name='sgd', accumulate=2), dataset)
  ours = trained(small(name='gt_ddp', accumulate=2), dataset)
  assert ours.position.rows[-1]['feedback_ratio'] > 0
  difference = jax.tree.map(
    lambda a, b: float(jnp.abs(a - b).max()),
    alone.position.params,
    ours.position.params,
  )
  assert all(value > 1e-6 for value in jax.tree.leaves(difference)[1:])


def test_a_run_has_whole_updates(dataset: splits.Dataset) -> None:
  config = small(accumulate=3)  # an epoch has 4 batches
  assert programs.step_count(config, dataset) == 6


@pytest.mark.parametrize(
  'changes',
  [
    {'name': 'sgd'},
    {'name': 'gt_ddp'},
    {'name': 'gt_ddp', 'value': 'bellman', 'trust_region': 0.3},
    {'name': 'gt_ddp', 'value': 'coupled', 'terminal': 'gauss_newton'},
  ],
)
def test_half_precision_keeps_its_state_whole(
  changes: dict[str, Any], dataset: splits.Dataset
) -> None:
  config = small(**changes)
  exact = trained(config, dataset)
  config.model.compute_dtype = 'bfloat16'
  half = trained(config, dataset)
  for leaf in jax.tree.leaves(half.position[:2]):
    assert leaf.dtype in (jnp.float32, jnp.int32)
  program = programs.build(
    programs.build_network(config, dataset), config, dataset
  )
  compiled: Any = program.step
  assert 'bf16' in compiled.as_text()
  one, other = exact.position.rows[-1], half.position.rows[-1]
  assert one['train_loss'] != other['train_loss']
  assert other['train_loss'] == pytest.approx(one['train_loss'], rel=0.05)
  assert other['skipped_steps'] == 0


def test_a_schedule_ends_with_the_run(dataset: splits.Dataset) -> None:
  config = small(name='sgd')
  config.epochs = 2
  config.log_every = config.eval_every = 1
  config.optimizer.schedule.name = 'piecewise'
  config.optimizer.schedule.boundaries = (0.5,)
  config.optimizer.schedule.factor = 1e-9
  losses = [row['train_loss'] for row in trained(config, dataset).position.rows]
  assert len({*losses[:5]}) == 5
  np.testing.assert_allclose(losses[5:], losses[4], rtol=1e-6)


def test_a_loop_goes_on_from_any_position(dataset: splits.Dataset) -> None:
  """Also within an interval, and bit by bit."""
  config = small(name='gt_ddp')
  config.dataset.augment = True
  program = programs.build(
    programs.build_network(config, dataset), config, dataset
  )
  whole = loop.Loop(program, config, dataset, 0)
  rows = [*whole.rows()]

  class Stop:
    """Stops after three steps."""

    left = 3

    def check(self) -> None:
      self.left -= 1
      if self.left < 0:
        raise KeyboardInterrupt

    def immediate(self) -> Any:
      return jax.named_scope('now')

  stop: Any = Stop()
  part = loop.Loop(program, config, dataset, 0, stop=stop)
  with pytest.raises(KeyboardInterrupt):
    list(part.rows())
  assert part.position.step == 3
  assert len(part.position.pending) == 1
  rest = loop.Loop(program, config, dataset, 0, part.position)
  list(rest.rows())
  for one, other in zip(rows, rest.position.rows, strict=True):
    assert one.keys() == other.keys()
    assert all(one[k] == other[k] for k in one if 'seconds' not in k)
  for one, other in zip(
    jax.tree.leaves(whole.position[:2]),
    jax.tree.leaves(rest.position[:2]),
    strict=True,
  ):
    assert one.tobytes() == other.tobytes()
  assert optax.tree.norm(rest.position.params) > 0
