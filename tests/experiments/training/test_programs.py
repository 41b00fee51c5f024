"""The compiled parts of a training, for every network."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax
import pytest

import gtddp_jax as gt
from configs import default
from experiments.data import preprocessing, splits
from experiments.networks import models
from experiments.training import programs

DEEP = 'resnet34', 'resnet50'


@pytest.fixture(scope='module')
def dataset() -> splits.Dataset:
  return splits.load('digits', 'standard', train_samples=40)


def small(name: str, **model: Any) -> Any:
  config = default.get_config()
  widths = {1: (4,), 4: (2, 2, 2, 2)}.get(models.MODELS[name].widths, (4, 4))
  config.model.update({'name': name, 'widths': widths, 'groups': 2, 'units': 4})
  config.model.update({'depth': 2, 'heads': 2, **model})
  config.update(batch_size=8, epochs=1)
  config.optimizer.update(name='gt_ddp', base={'name': 'sgd'})
  config.optimizer.base.learning_rate = 0.1
  config.optimizer.trust_region = 0.3  # deep and normalised: diverges without
  return config


def test_evaluation_drops_no_sample() -> None:
  whole = splits.load('digits', 'standard')
  config = small('mlp')
  found = []
  for size in (100, 2048):
    config.eval_batch_size = size
    program = programs.build(
      programs.build_network(config, whole), config, whole
    )
    found.append(program.evaluate(*program.init(0)))
  assert found[0] == pytest.approx(found[1], rel=1e-5)
  # A count over all 360 samples.
  hits = 360 * found[0]['test_accuracy']
  assert hits == pytest.approx(round(hits))


@pytest.mark.once
@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=[pytest.mark.slow] if name in DEEP else [])
    for name in models.MODELS
  ],
)
def test_two_steps_of_every_network(name: str, dataset: splits.Dataset) -> None:
  norm = {'vit': 'layer', 'mixer': 'layer', 'resnet': 'group'}.get(
    name, 'batch'
  )
  config = small(name, norm=norm)
  program = programs.build(
    programs.build_network(config, dataset), config, dataset
  )
  params, state = program.init(0)
  before = gt.collections(state)
  for number in range(2):
    samples = splits.batch(
      dataset.train, config.batch_size, seed=0, step=number
    )
    params, state, metrics = program.step(
      params, state, *samples, programs.step_key(0), np.uint32(number)
    )
    assert all(np.isfinite(value) for value in metrics.values())
    assert metrics['skipped_steps'] == 0
    assert metrics['feedback_ratio'] > 0
  after = gt.collections(state)
  assert bool(after) == (norm == 'batch')
  for old, new in zip(*map(jax.tree.leaves, (before, after)), strict=True):
    assert not np.array_equal(old, new)
  found = program.evaluate(params, state)
  assert all(map(np.isfinite, found.values()))


def test_batch_statistics_are_those_of_a_plain_loop(
  dataset: splits.Dataset,
) -> None:
  config = small('mlp', norm='batch', decay=0.5)
  config.optimizer.name = 'sgd'
  program = programs.build(
    programs.build_network(config, dataset), config, dataset
  )
  params, state = program.init(3)

  model = models.build(config.model, dataset.classes)
  scaled = [
    np.asarray(preprocessing.prepare(split.images, dataset.scale))
    for split in (dataset.train, dataset.test)
  ]
  variables = model.init(jax.random.key(3), scaled[0][:1], train=True)

  def loss(params: Any, stats: Any, images: Any, labels: Any) -> Any:
    logits, changed = model.apply(
      {'params': params, 'batch_stats': stats},
      images,
      train=True,
      mutable=['batch_stats'],
    )
    losses = gt.losses.softmax_cross_entropy(logits, labels)
    return losses.mean(), changed['batch_stats']

  plain, stats = variables['params'], variables['batch_stats']
  for number in range(3):
    rows = splits.indices(40, 8, seed=3, step=number)
    samples = dataset.train.images[rows], dataset.train.labels[rows]
    params, state, _ = program.step(
      params, state, *samples, programs.step_key(3), np.uint32(number)
    )
    grads, stats = jax.grad(loss, has_aux=True)(
      plain, stats, scaled[0][rows], samples[1]
    )
    plain = optax.apply_updates(plain, jax.tree.map(lambda g: -0.1 * g, grads))
  expected, actual = {'batch_stats': stats}, gt.collections(state)
  assert jax.tree.structure(expected) == jax.tree.structure(actual)
  for one, other in zip(*map(jax.tree.leaves, (expected, actual)), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)

  # Evaluation uses them, sample by sample.
  logits = model.apply({'params': plain, 'batch_stats': stats}, scaled[1])
  losses = gt.losses.softmax_cross_entropy(logits, dataset.test.labels)
  found = program.evaluate(params, state)
  np.testing.assert_allclose(found['test_loss'], losses.mean(), rtol=1e-3)


def test_batch_statistics_stay_float32(dataset: splits.Dataset) -> None:
  found = []
  for dtype in ('float32', 'bfloat16'):
    config = small('cgb', norm='batch', compute_dtype=dtype)
    program = programs.build(
      programs.build_network(config, dataset), config, dataset
    )
    params, state = program.init(0)
    samples = splits.batch(dataset.train, config.batch_size, seed=0, step=0)
    params, state, _ = program.step(
      params, state, *samples, programs.step_key(0), np.uint32(0)
    )
    leaves = jax.tree.leaves((params, gt.collections(state)))
    assert {leaf.dtype for leaf in leaves} == {np.dtype('float32')}
    found.append(np.concatenate([leaf.ravel() for leaf in leaves]))
  assert not np.array_equal(*found)
  np.testing.assert_allclose(*found, rtol=0.1, atol=0.1)


def test_batch_statistics_follow_accumulated_updates(
  dataset: splits.Dataset,
) -> None:
  config = small('mlp', norm='batch')
  config.optimizer.accumulate = 2
  program = programs.build(
    programs.build_network(config, dataset), config, dataset
  )
  params, state = program.init(0)
  found = []
  for number in range(2):
    samples = splits.batch(
      dataset.train, config.batch_size, seed=0, step=number
    )
    params, state, _ = program.step(
      params, state, *samples, programs.step_key(0), np.uint32(number)
    )
    found.append(jax.tree.leaves(gt.collections(state)))
  begin = jax.tree.leaves(gt.collections(program.init(0)[1]))
  for start, one, two in zip(begin, *found, strict=True):
    np.testing.assert_array_equal(start, one)
    assert not np.array_equal(one, two)
  assert np.isfinite(program.evaluate(params, state)['test_loss'])
