"""The files of a run are whole, and nobody else's are touched."""

from __future__ import annotations

import json
import pathlib
import resource

import pytest

from configs import default
from experiments import refusals
from experiments.runs import run_folder

pytestmark = pytest.mark.once


def created(
  path: pathlib.Path, overwrite: bool = False
) -> run_folder.RunFolder:
  return run_folder.create(path, default.get_config(), overwrite)


def test_what_a_new_folder_holds(tmp_path: pathlib.Path) -> None:
  folder = created(tmp_path / 'deep' / 'run')
  assert {path.name for path in folder.path.iterdir()} == {
    'config.json',
    'metrics.jsonl',
    'versions.json',
  }
  config = json.loads(folder.file('config.json').read_text())
  expected = json.loads(json.dumps(default.get_config().to_dict()))
  assert config == expected
  found = json.loads(folder.file('versions.json').read_text())
  assert found['packages']['jax']
  assert found['python']
  assert {'git_commit', 'platform', 'backend'} <= set(found)


def test_rows_come_back(tmp_path: pathlib.Path) -> None:
  folder = created(tmp_path)
  folder.log({'step': 1, 'loss': 0.5})
  folder.log({'step': 2, 'loss': float('nan')})
  assert folder.rows() == [{'step': 1, 'loss': 0.5}, {'step': 2, 'loss': None}]
  assert folder.file('metrics.jsonl').read_text().endswith('\n')


def test_half_a_line_is_no_row_and_is_cut_off(tmp_path: pathlib.Path) -> None:
  folder = created(tmp_path)
  folder.log({'step': 1})
  path = folder.file('metrics.jsonl')
  path.write_text(path.read_text() + '{"step": 2, "lo')
  assert folder.rows() == [{'step': 1}]
  folder.log({'step': 3})
  assert folder.rows() == [{'step': 1}, {'step': 3}]
  path.write_text('{"st')
  assert folder.rows() == []
  folder.log({'step': 4})
  assert path.read_text() == '{"step": 4}\n'


def test_a_disk_that_fills_within_a_line_keeps_those_before(
  tmp_path: pathlib.Path,
) -> None:
  folder = created(tmp_path)
  folder.log({'step': 1})
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))
  try:
    with pytest.raises(OSError, match='File too large'):
      folder.log({'step': 2, 'loss': 0.125})
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  assert folder.file('metrics.jsonl').read_text() == '{"step": 1}\n'
  folder.log({'step': 2})
  assert folder.rows() == [{'step': 1}, {'step': 2}]


def test_a_write_that_fails_leaves_what_was_there(
  tmp_path: pathlib.Path,
) -> None:
  folder = created(tmp_path)
  folder.write_json('result.json', {'loss': 1.0})
  with pytest.raises(TypeError):
    folder.write_json('result.json', {'loss': object()})
  assert json.loads(folder.file('result.json').read_text()) == {'loss': 1.0}
  assert not list(tmp_path.glob('*.part'))


def test_a_used_folder_is_refused(tmp_path: pathlib.Path) -> None:
  created(tmp_path)
  with pytest.raises(refusals.ConfigError, match='--overwrite'):
    created(tmp_path)


def test_overwriting_removes_the_files_of_a_run_alone(
  tmp_path: pathlib.Path,
) -> None:
  folder = created(tmp_path)
  folder.log({'step': 1})
  folder.write_text('results.md', 'old')
  (tmp_path / 'notes.txt').write_text('mine')
  again = created(tmp_path, overwrite=True)
  assert again.rows() == []
  assert not again.file('results.md').exists()
  assert (tmp_path / 'notes.txt').read_text() == 'mine'


def test_a_file_is_no_folder(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'file'
  path.touch()
  for overwrite in (False, True):
    with pytest.raises(refusals.ConfigError, match='a folder'):
      created(path, overwrite)
  with pytest.raises(refusals.ConfigError, match='can be written'):
    created(path / 'run')


def test_a_run_has_no_other_files(tmp_path: pathlib.Path) -> None:
  with pytest.raises(ValueError, match=r'notes\.txt: expected one of'):
    created(tmp_path).write_text('notes.txt', '')
