"""A run that begins where another ended."""

from __future__ import annotations

import pathlib
import shutil
from typing import Any

import ml_collections
import pytest

from configs import default
from experiments import refusals
from experiments.runs import run_folder
from experiments.training import session

pytestmark = pytest.mark.once


def small(**changes: Any) -> ml_collections.ConfigDict:
  """Two steps of a small net with batch statistics."""
  config = default.get_config()
  config.model.update(name='mlp', widths=(4,), norm='batch')
  config.dataset.update(train_samples=64, test_samples=32)
  config.update(batch_size=32, epochs=1, log_every=2, eval_every=2)
  config.update(changes)
  return config


@pytest.fixture(scope='module')
def source(tmp_path_factory: pytest.TempPathFactory) -> run_folder.RunFolder:
  """A run that has finished."""
  config = small(optimizer={'name': 'sgd', 'accumulate': 2})
  path = tmp_path_factory.mktemp('runs') / 'source'
  folder = run_folder.create(path, config, overwrite=False)
  session.train(config, folder)
  return folder


def test_it_begins_where_the_other_ended(
  source: run_folder.RunFolder, tmp_path: pathlib.Path
) -> None:
  before = {p: p.stat().st_mtime_ns for p in source.path.glob('*/*/*/*')}
  config = small(seed=1, start_from=str(source.path))
  config.optimizer.accumulate = 2
  folder = run_folder.create(tmp_path, config, overwrite=False)
  session.train(config, folder)
  first, last = folder.rows()[0], source.rows()[-1]
  assert first['step'] == 0
  for key in ('train_loss', 'test_loss', 'test_accuracy'):  # statistics, too
    assert first[key] == last[key]
  assert folder.rows()[-1]['train_loss'] != last['train_loss']
  assert {
    p: p.stat().st_mtime_ns for p in source.path.glob('*/*/*/*')
  } == before


def test_the_source_is_needed_once(
  source: run_folder.RunFolder,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  config = small(start_from='gone')
  (tmp_path / 'checkpoints' / '0').mkdir(parents=True)
  monkeypatch.setattr(session.programs, 'build', lambda *_: 'a program')
  built = session.build(config, run_folder.RunFolder(tmp_path))
  assert built is not None
  assert built.start is None
  with pytest.raises(refusals.ConfigError, match='gone'):
    session.build(config)


def test_a_damaged_checkpoint_is_refused(
  source: run_folder.RunFolder, tmp_path: pathlib.Path
) -> None:
  copy = shutil.copytree(source.path, tmp_path / 'copy')
  (copy / 'checkpoints' / '2' / 'record' / 'metadata').write_text('')
  with pytest.raises(refusals.ConfigError, match='a whole checkpoint'):
    session.build(small(start_from=str(copy)))


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'start_from': 'absent'}, 'got absent without config.json'),
    ({'model': {'widths': (5,)}}, r'whose run has config.model.widths \[4\]'),
    ({'model': {'activation': 'tanh'}}, "activation 'relu' .asked for: 'tanh'"),
  ],
)
def test_refusals(
  change: dict[str, Any], message: str, source: run_folder.RunFolder
) -> None:
  config = small(start_from=str(source.path))
  config.update(change)
  with pytest.raises(refusals.ConfigError, match=message) as caught:
    session.build(config)
  assert str(caught.value).startswith('config.start_from: expected the folder ')
  assert len(str(caught.value).splitlines()) == 1


def test_a_run_without_a_checkpoint_is_refused(tmp_path: pathlib.Path) -> None:
  run_folder.create(tmp_path / 'source', small(), overwrite=False)
  config = small(start_from=str(tmp_path / 'source'))
  for _ in range(2):
    with pytest.raises(refusals.ConfigError, match='source without one'):
      session.build(config)
    (tmp_path / 'source' / 'checkpoints').mkdir(exist_ok=True)
