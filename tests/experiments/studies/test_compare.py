"""A comparison runs every pair on every seed, and says which run broke."""

from __future__ import annotations

import json
from typing import Any

import pytest

from configs import default
from experiments.runs import run_folder
from experiments.studies import compare

pytestmark = pytest.mark.once


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> run_folder.RunFolder:
  config = default.get_config()
  config.model.update(name='mlp', widths=(8,))
  config.update(batch_size=256, epochs=1, log_every=2, eval_every=2)
  config.compare.update(bases=('sgd', 'adam'), seeds=(0, 3), target=0.2)
  config.compare.learning_rate.update(sgd=0.3, adam=1e30)
  path = tmp_path_factory.mktemp('compare')
  made = run_folder.create(path, config, overwrite=True)
  compare.compare(config, made)
  return made


def results(folder: run_folder.RunFolder) -> dict[str, Any]:
  summaries = json.loads(folder.file('result.json').read_text())
  return {summary['optimizer']: summary for summary in summaries}


def test_every_pair_and_seed_is_there(folder: run_folder.RunFolder) -> None:
  found = results(folder)
  assert list(found) == ['SGD', 'GT-DDP SGD', 'Adam', 'GT-DDP Adam']
  for summary in found.values():
    assert [run['seed'] for run in summary['runs']] == [0, 3]
    assert summary['seconds_per_step'] > 0


def test_pairs_start_from_the_same_parameters(
  folder: run_folder.RunFolder,
) -> None:
  starts = {
    (row['seed'], row['train_loss'])
    for row in folder.rows()
    if row['step'] == 0
  }
  assert len(starts) == 2  # seeds


def test_the_runs_take_turns(folder: run_folder.RunFolder) -> None:
  steps = [row['step'] for row in folder.rows()]
  assert steps == sorted(steps)


def test_a_run_that_broke_is_counted_and_not_averaged(
  folder: run_folder.RunFolder,
) -> None:
  found = results(folder)
  assert {run['status'] for run in found['SGD']['runs']} == {'finished'}
  for run in found['Adam']['runs']:
    assert 'expected a finite number' in run['status']
    assert 'lower config.compare.learning_rate.adam' in run['status']
  table = folder.file('results.md').read_text().splitlines()
  sgd, adam = (
    next(line for line in table if line.startswith(f'| {name} '))
    for name in ('SGD', 'Adam')
  )
  assert '| 2/2 |' in sgd
  assert '| 0/2 |' in adam
  assert ' ± ' in sgd
  assert ' ± ' not in adam


def test_there_is_a_figure(folder: run_folder.RunFolder) -> None:
  assert folder.file('curves.png').stat().st_size > 10_000


def test_the_members_of_a_pair_share_their_hyper_parameters() -> None:
  config = default.get_config()
  alone = compare.optimizer_config(config, 'rmsprop', 'rmsprop')
  form = compare.optimizer_config(config, 'rmsprop', 'gt_ddp')
  assert alone.base == form.base
  assert form.base.learning_rate == config.compare.learning_rate.rmsprop
  assert (alone.name, form.name) == ('rmsprop', 'gt_ddp')
