"""Short trainings, from the config to the files in the folder."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np
import optax
import pytest
import tqdm

import gtddp_jax as gt
from configs import default
from experiments.data import preprocessing, splits
from experiments.networks import models
from experiments.runs import run_folder
from experiments.training import loop, programs, run_page, session


def small(**optimizer: Any) -> ml_collections.ConfigDict:
  """An epoch of six steps of a small net."""
  config = default.get_config()
  config.model.update(name='mlp', widths=(8,))
  config.update(batch_size=256, epochs=1, log_every=2, eval_every=4)
  config.optimizer.update(optimizer)
  return config


@pytest.fixture(scope='module')
def dataset() -> splits.Dataset:
  return splits.load('digits', 'standard')


def trained(
  config: ml_collections.ConfigDict, path: pathlib.Path
) -> run_folder.RunFolder:
  folder = run_folder.create(path, config, overwrite=False)
  session.train(config, folder)
  return folder


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  return [
    {key: value for key, value in row.items() if 'seconds' not in key}
    for row in rows
  ]


def test_from_config_to_files(tmp_path: pathlib.Path) -> None:
  config = small(name='gt_ddp', base={'name': 'sgd', 'learning_rate': 0.3})
  first = trained(config, tmp_path / 'a')
  rows = first.rows()
  assert [row['step'] for row in rows] == [0, 2, 4, 6]
  assert [row['step'] for row in rows if 'test_accuracy' in row] == [0, 4, 6]
  assert rows[-1]['train_loss'] < 0.8 * rows[0]['train_loss']
  assert rows[-1]['feedback_ratio'] > 0
  result = json.loads(first.file('result.json').read_text())
  assert result['status'] == 'finished'
  assert result['optimizer'] == 'GT-DDP SGD'
  assert result['test_accuracy'] == rows[-1]['test_accuracy']
  assert result['compile_seconds'] > 0
  assert first.file('curves.png').stat().st_size > 10_000
  assert result['best']['step'] in (4, 6)
  page = first.file('results.md').read_text()
  assert page.startswith('# GT-DDP SGD on digits\n')
  assert '| config.optimizer.base.learning_rate | 0.3 | 0.002 |' in page
  assert '](curves.png)' in page
  assert f', jax {jax.__version__}, ' in page
  assert f'| last | 6 | {rows[-1]["epoch"]:.2f} |' in page
  assert '\n## In short\n\n- GT-DDP SGD has ' in page
  for name in ('results.md', 'curves.png'):
    first.file(name).unlink()
  session.train(config, first)  # has finished, and writes its report again
  assert first.file('results.md').read_text() == page
  assert first.file('curves.png').exists()

  again = trained(config, tmp_path / 'b')
  assert without_times(again.rows()) == without_times(rows)


def test_in_short_a_run_stands_beside_the_goal_of_its_data() -> None:
  config = default.get_config()
  config.optimizer.name = 'gt_ddp'
  rows = [{'test_accuracy': value} for value in (0.5, 0.9917, 0.985)]
  result = {'optimizer': 'GT-DDP Adam'}
  said = (
    'GT-DDP Adam has 98.50 % of the test samples right after 20 epochs '
    '(at the best checkpoint 99.17 %)'
  )
  goal = 'the goal of 98.5 % is'
  tail = 'by one run, whose test samples alone leave'
  (reached,) = run_page.short(config, result, rows)
  assert reached.startswith(f'{said}; {goal} reached, {tail} ')
  rows[-1]['test_accuracy'] = 0.5
  (missed,) = run_page.short(config, result, rows)
  # 1.96 standard errors of 180 of 360 are 5.1 points.
  assert missed.endswith(f'; {goal} missed, {tail} 44.9 to 55.1 %.')
  for key, value in (('dataset.test_samples', 9), ('optimizer.name', 'adam')):
    other = config.copy_and_resolve_references()
    other.update_from_flattened_dict({key: value})
    (bare,) = run_page.short(other, result, rows)
    assert bare.endswith('99.17 %).')


def test_a_baseline_is_a_plain_loop(dataset: splits.Dataset) -> None:
  config = small(name='sgd', base={'learning_rate': 0.3})
  program = programs.build(
    programs.build_network(config, dataset), config, dataset
  )
  *_, last = loop.Loop(program, config, dataset, seed=5).rows()

  model = models.build(config.model, dataset.classes)
  tx = optax.sgd(0.3)
  train, test = (
    splits.Split(
      np.asarray(preprocessing.prepare(split.images, dataset.scale)),
      split.labels,
    )
    for split in (dataset.train, dataset.test)
  )
  params = model.init(jax.random.key(5), train.images[:1])['params']

  def loss(params: Any, images: Any, labels: Any) -> jax.Array:
    logits = model.apply({'params': params}, images)
    return gt.losses.softmax_cross_entropy(logits, labels).mean()

  @jax.jit
  def step(params: Any, state: Any, *batch: Any) -> tuple[Any, Any]:
    updates, state = tx.update(jax.grad(loss)(params, *batch), state)
    return optax.apply_updates(params, updates), state

  state = tx.init(params)
  for number in range(6):
    samples = splits.batch(train, 256, seed=5, step=number)
    params, state = step(params, state, *samples)
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {
    np.dtype(np.float32)
  }
  logits = model.apply({'params': params}, test.images)
  accuracy = np.mean(logits.argmax(axis=-1) == test.labels)
  np.testing.assert_allclose(last['test_accuracy'], accuracy)
  np.testing.assert_allclose(
    last['train_loss'], loss(params, *train), rtol=1e-4
  )


def test_augmentation_is_keyed_by_seed_and_step(
  dataset: splits.Dataset,
) -> None:
  config = small()
  plain, augmented = [], []
  for augment, losses in ((False, plain), (True, augmented)):
    config.dataset.augment = augment
    network = programs.build_network(config, dataset)
    program = programs.build(network, config, dataset)
    samples = splits.batch(dataset.train, 256, seed=0, step=0)
    # A step as resumed: from the state at hand, its seed and its number alone.
    for seed, number in ((1, 3), (1, 3), (1, 4), (2, 3)):
      key = programs.step_key(seed)
      *_, metrics = program.step(
        *program.init(0), *samples, key, np.uint32(number)
      )
      losses.append(float(metrics['loss']))
  assert len(set(plain)) == 1
  assert augmented[0] == augmented[1]
  assert len({*augmented, *plain}) == 4


@pytest.mark.parametrize('name', ['sgd', 'gt_ddp'])
def test_it_stops_where_the_loss_is_not_finite(
  name: str, tmp_path: pathlib.Path
) -> None:
  config = small(name=name, base={'name': 'sgd', 'learning_rate': 1e30})
  folder = run_folder.create(tmp_path, config, overwrite=False)
  with pytest.raises(
    loop.NonFiniteError, match=r'at step \d+: expected'
  ) as caught:
    session.train(config, folder)
  rows = folder.rows()
  assert [row['step'] for row in rows[:2]] == [0, 2]
  (last,) = (folder.path / 'checkpoints').iterdir()
  loss = f'(train loss {rows[0]["train_loss"]:.3g} nats)'
  assert f'. The last checkpoint: {last} {loss}' in str(caught.value)
  result = json.loads(folder.file('result.json').read_text())
  assert 'expected a finite number' in result['status']
  assert result['test_accuracy'] is not None


@pytest.mark.parametrize(
  ('losses', 'text'),
  [
    ((), 'No checkpoint is left.'),
    ((1.0, 2.0), 'The last checkpoint: b (train loss 2 nats).'),
    (
      (1.0, 8e19),
      'The last checkpoint: b (train loss 8e+19 nats), worse than a constant '
      'guess; the best one left: a (train loss 1 nats).',
    ),
    (
      (9.0,),
      'The last checkpoint: a (train loss 9 nats), worse than a constant '
      'guess.',
    ),
  ],
)
def test_what_a_run_that_diverged_has_left(
  losses: tuple[float, ...], text: str
) -> None:
  paths = map(pathlib.Path, 'ab')
  kept = dict(zip(paths, losses, strict=False))
  assert session.left(kept, 2.3) == text


def test_an_interrupt_leaves_whole_files(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  config = small()
  folder = run_folder.create(tmp_path, config, overwrite=False)

  def update(self: tqdm.tqdm, steps: int) -> None:
    del self
    if steps:
      raise KeyboardInterrupt

  monkeypatch.setattr(tqdm.tqdm, 'update', update)
  with pytest.raises(KeyboardInterrupt):
    session.train(config, folder)
  assert [row['step'] for row in folder.rows()] == [0, 2]
  result = json.loads(folder.file('result.json').read_text())
  assert result['status'] == 'interrupted'
  assert result['step'] == 0


def test_a_finished_run_is_left_alone(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  folder = trained(small(), tmp_path)
  before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob('*')}
  monkeypatch.delattr(programs, 'build')
  result = session.train(small(), folder)
  assert result == json.loads(folder.file('result.json').read_text())
  assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob('*')} == before
