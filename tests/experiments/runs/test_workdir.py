"""A run uses a new folder or its own, alone, and changes nothing of others."""

from __future__ import annotations

import contextlib
import fcntl
import json
import pathlib
import subprocess
import sys

import pytest

from configs import default
from experiments import refusals
from experiments.runs import locks, run_folder

pytestmark = pytest.mark.once


def created(
  path: pathlib.Path, overwrite: bool = False
) -> run_folder.RunFolder:
  return run_folder.create(path, default.get_config(), overwrite)


def test_a_run_is_gone_on_with_by_its_own_config(
  tmp_path: pathlib.Path,
) -> None:
  config = default.get_config()
  created(tmp_path)
  assert run_folder.resumes(tmp_path, config)
  run_folder.check(tmp_path, overwrite=False, config=config)
  config.model.widths = (8, 8)
  assert not run_folder.resumes(tmp_path, config)
  with pytest.raises(refusals.ConfigError) as caught:
    run_folder.check(tmp_path, overwrite=False, config=config)
  assert 'config.model.widths [32] (asked for: [8, 8])' in str(caught.value)
  assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize('text', ['', '{', '[]', '"x"', '{"seed": 0}'])
def test_a_damaged_config_is_no_run(text: str, tmp_path: pathlib.Path) -> None:
  created(tmp_path)
  (tmp_path / 'config.json').write_text(text)
  assert not run_folder.resumes(tmp_path, default.get_config())
  with pytest.raises(refusals.ConfigError, match='--overwrite'):
    run_folder.check(tmp_path, overwrite=False, config=default.get_config())


def test_what_a_killed_creation_leaves_is_new(tmp_path: pathlib.Path) -> None:
  for name in ('run.lock', 'config.part', 'versions.json', 'metrics.jsonl'):
    (tmp_path / name).touch()
    run_folder.check(tmp_path, overwrite=False)
  (tmp_path / 'metrics.jsonl').write_text('{}\n')
  with pytest.raises(refusals.ConfigError, match='holds files'):
    run_folder.check(tmp_path, overwrite=False)


def test_overwriting_takes_the_checkpoints_of_a_run_alone(
  tmp_path: pathlib.Path,
) -> None:
  checkpoint = tmp_path / 'checkpoints' / '4'
  checkpoint.mkdir(parents=True)
  with pytest.raises(refusals.ConfigError, match='--overwrite: expected a f'):
    created(tmp_path, overwrite=True)
  assert checkpoint.exists()
  (tmp_path / 'config.json').write_text(
    json.dumps(default.get_config().to_dict())
  )
  created(tmp_path, overwrite=True)
  assert not checkpoint.exists()


def test_two_programs_do_not_share_a_folder(tmp_path: pathlib.Path) -> None:
  code = (
    'import pathlib, sys; from experiments.runs import locks\n'
    'with locks.locked(pathlib.Path(sys.argv[1])):\n'
    '  print("locked", flush=True); sys.stdin.read()'
  )
  root = pathlib.Path(locks.__file__).parents[2]
  with subprocess.Popen(
    [sys.executable, '-c', code, str(tmp_path / 'run')],
    cwd=root,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
  ) as other:
    assert other.stdout is not None
    assert other.stdout.readline() == b'locked\n'
    with (
      pytest.raises(refusals.ConfigError, match='no other program') as caught,
      locks.locked(tmp_path / 'run'),
    ):
      pytest.fail('it is locked')
    assert len(str(caught.value).splitlines()) == 1
    other.kill()
    other.wait()
    with locks.locked(tmp_path / 'run'):
      pass


@pytest.mark.parametrize('name', ['file', 'file/run'])
def test_a_folder_that_cannot_be_made(
  name: str, tmp_path: pathlib.Path
) -> None:
  (tmp_path / 'file').touch()
  with (
    pytest.raises(refusals.ConfigError, match='can be written'),
    locks.locked(tmp_path / name),
  ):
    pytest.fail('it is no folder')


def test_waiting_ends_with_the_lock(tmp_path: pathlib.Path) -> None:
  said: list[str] = []
  with contextlib.ExitStack() as holder:
    holder.enter_context(locks.locked(tmp_path))

    def say(text: str) -> None:
      said.append(text)
      holder.close()

    locks.wait_for(tmp_path, say)
  assert said == [f'waiting for another program to leave {tmp_path}']


def test_a_lock_that_was_taken_away_holds_nobody_out(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  def flock(*unused: object) -> None:
    del unused
    (tmp_path / 'run.lock').unlink()  # as its holder does at its end

  monkeypatch.setattr(fcntl, 'flock', flock)
  with (
    pytest.raises(refusals.ConfigError, match='no other program'),
    locks.locked(tmp_path),
  ):
    pytest.fail('another could lock it, too')


def test_what_was_made_for_a_lock_goes_with_it(tmp_path: pathlib.Path) -> None:
  folder = tmp_path / 'a' / 'b'
  with locks.locked(folder):
    assert (folder / 'run.lock').exists()
  assert not list(tmp_path.iterdir())
  with locks.locked(folder):
    (folder / 'kept').touch()
  assert {path.name for path in folder.iterdir()} == {'kept', 'run.lock'}
  (tmp_path / 'mine').mkdir()
  with locks.locked(tmp_path / 'mine'):
    pass
  assert not list((tmp_path / 'mine').iterdir())
