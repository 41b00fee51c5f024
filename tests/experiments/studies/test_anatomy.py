"""`experiments.studies.anatomy`: a checkpoint to numbers and pictures."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np
import pytest
from matplotlib import image

import gtddp_jax as gt
from experiments import refusals
from experiments.data import preprocessing, splits
from experiments.runs import run_folder
from experiments.studies.anatomy import study
from experiments.training import programs, session

pytestmark = pytest.mark.once

PICTURES = (
  'updates.png',
  'spectra.png',
  'gains.png',
  'feedback.png',
  'pairs.png',
)


def small(**optimizer: Any) -> ml_collections.ConfigDict:
  config = study.COMMAND.get_config()
  config.model.update(name='resnet', widths=(3,))
  config.dataset.train_samples = 64
  config.update(batch_size=16, epochs=1, log_every=2, eval_every=4)
  config.optimizer.update(
    {'name': 'gt_ddp', 'trust_region': 0.3, 'value': 'bellman', **optimizer}
  )
  config.optimizer.schedule.name = 'cosine'  # which ends at a rate of 0
  return config


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  folder = run_folder.create(
    tmp_path_factory.mktemp('runs') / 'x', small(), overwrite=False
  )
  session.train(small(), folder)
  return folder.path


def test_the_next_step_of_a_run(
  trained: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  config = small()
  before = {path: path.read_bytes() for path in trained.glob('*.json*')}
  folder = run_folder.create(
    tmp_path / 'a', config, overwrite=False, files=study.COMMAND.files
  )
  found = study.analyse(config, folder, trained)
  assert before == {p: p.read_bytes() for p in trained.glob('*.json*')}
  for name in PICTURES:
    drawn = image.imread(folder.file(name))
    assert min(drawn.shape[:2]) > 300
    assert len(np.unique(drawn.reshape(-1, drawn.shape[-1]), axis=0)) > 20

  held = json.loads(folder.file('analysis.json').read_text())
  assert held['step'] == 4
  assert held['samples'] == 16
  assert [stage['name'] for stage in held['stages']] == [d.name for d in found]
  assert held['stages'][0]['gain_norms'] == [0] * 16
  assert held['stages'][-1]['feedback_share'] > 0

  # The stage without a state before it answers nothing; words explain the rest.
  text = folder.file('results.md').read_text()
  first, second = (
    next(row for row in text.splitlines() if row.startswith(f'| {d.name} '))
    for d in found[:2]
  )
  assert first.count('| - ') == 4 and '| - ' not in second
  assert 'λ₁: largest eigenvalue' in text and 'Gain: Frobenius norm' in text

  # Of two convolutions with a stage before them, three eigenvectors each.
  rows = folder.file('results.md').read_text().splitlines()
  pairs = [row for row in rows if row.count('|') == 6 and ' / ' in row]
  assert len(pairs) == 6 and pairs[0].startswith('| block_1/conv_1 | 1 |')
  assert all(float(row.split('|')[4]) > 0 for row in pairs)

  # The updates are those of one more step of the run, at its full rate.
  dataset = splits.from_config(config.dataset)
  network = programs.build_network(config, dataset)
  at = study._position(config, network, dataset, trained)
  samples = splits.batch(dataset.train, 16, 0, step=4)
  tx = gt.gt_ddp(
    network.graph,
    gt.losses.softmax_cross_entropy,
    gt.adam(lambda count: config.optimizer.base.learning_rate),
    value='bellman',
    trust_region=0.3,
  )
  images = preprocessing.prepare(samples.images, dataset.scale)
  updates, _ = jax.jit(
    lambda p, s: tx.update(None, s, p, batch=(images, samples.labels))
  )(at.params, at.state)
  squares = sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(updates))
  total = np.sqrt(sum(s['update_norm'] ** 2 for s in held['stages']))
  np.testing.assert_allclose(total, np.sqrt(squares), rtol=1e-4)


def test_another_optimizer_at_the_parameters_of_a_run(
  trained: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  config = small(value='coupled', terminal='gauss_newton')
  config.optimizer.base.update(name='sgd', learning_rate=0.1)
  folder = run_folder.create(
    tmp_path / 'a', config, overwrite=False, files=study.COMMAND.files
  )
  found = study.analyse(config, folder, trained)
  assert len(found[-1].spectrum) == 16 * 9
  assert np.all(found[-1].gains > 0)


def test_a_folder_without_a_checkpoint_is_refused(
  trained: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  config = small()
  (tmp_path / 'config.json').write_text((trained / 'config.json').read_text())
  folder = run_folder.create(
    tmp_path / 'a', config, overwrite=False, files=study.COMMAND.files
  )
  with pytest.raises(refusals.ConfigError, match='--run: expected the fold'):
    study.analyse(config, folder, tmp_path)


def test_a_base_without_curvature_is_refused(tmp_path: pathlib.Path) -> None:
  config = small(name='adamw')
  folder = run_folder.create(
    tmp_path / 'a', config, overwrite=False, files=study.COMMAND.files
  )
  with pytest.raises(refusals.ConfigError, match='expected a base with an'):
    study.analyse(config, folder)


def test_the_config_of_a_run_is_its_own(trained: pathlib.Path) -> None:
  for flags in ([f'--run={trained}'], ['--run', str(trained)]):
    assert study.arguments(['analysis', *flags, '--workdir=y']) == [
      'analysis',
      f'--config=configs/held.py:{trained / "config.json"}',
      f'--config.anatomy.run={trained}',
      '--workdir=y',
    ]
  assert study.arguments(['analysis', '--workdir=y'])[1:] == ['--workdir=y']


def test_small_shares_are_not_zero() -> None:
  got = [study._percent(share) for share in (0.0004, 0.04, 12.345)]
  assert got == ['< 0.01', '0.04', '12.35']


@pytest.mark.parametrize(
  'flag', [['--run=absent'], ['--run', 'absent'], ['--run='], ['-run=.']]
)
def test_a_folder_without_a_run_is_refused_by_its_flag(flag: list[str]) -> None:
  with pytest.raises(refusals.ConfigError, match='--run: expected the fold'):
    study.arguments(['analysis', *flag])
