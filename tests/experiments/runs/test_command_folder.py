"""What a command does with its folder: made, refused, gone on with."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import pytest
from cli_case import COMMAND, ROOT, parsed

import gtddp_jax as gt
from experiments import train
from experiments.runs import cli, run_folder, signals
from experiments.training import dry_run, loop

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
  ('error', 'code'),
  [
    (loop.NonFiniteError('batch loss', 7), 1),
    (OSError(28, 'No space left on device'), 3),
    (KeyboardInterrupt(), 130),
    (signals.Stopped(15), 143),
  ],
)
def test_how_a_run_ends(
  error: BaseException,
  code: int,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  def work(*unused: object) -> None:
    del unused
    raise error

  with pytest.raises(SystemExit) as caught:
    cli.run(cli.Command('test', work), parsed(f'--workdir={tmp_path / "run"}'))
  assert caught.value.code == code
  assert len(capsys.readouterr().err.splitlines()) == 2  # folder, then reason


@pytest.mark.parametrize('change', ['--config.seed=1', '--config.epochs=3'])
def test_a_run_of_another_config_is_not_gone_on_with(
  change: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  run_folder.create(tmp_path, parsed().config, overwrite=False)
  before = {path: path.read_bytes() for path in tmp_path.iterdir()}
  again = dataclasses.replace(COMMAND, resumes=True)
  with pytest.raises(SystemExit) as caught:
    cli.parse(again, ['program', f'--workdir={tmp_path}', change])
  assert caught.value.code == 2
  key = change.removeprefix('--').split('=')[0]
  assert f'whose run has {key} ' in capsys.readouterr().err
  assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_dry_run_makes_no_folder(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  values = parsed(
    '--dry_run',
    '--config.model.name=mlp',
    '--config.model.widths=(8,)',
    f'--workdir={tmp_path / "run"}',
  )
  cli.explain(dry_run.describe, values)
  output = capsys.readouterr().out
  assert '3 stages, 626 parameters, batch 32' in output
  assert 'Adam: 626 parameters; 674 steps of 32 samples' in output
  assert 'memory of a step: 0.' in output
  assert 'Gflop' in output
  assert not list(tmp_path.iterdir())


def unusable(*arguments: str) -> cli.Asked:
  """What parses, and what the library refuses for this network."""
  return parsed(
    '--config=configs/digits.py:ekfac',
    '--config.model.name=mlp',
    '--config.model.widths=(8,)',
    '--config.optimizer.base.diagonal=none',
    *arguments,
  )


@pytest.mark.parametrize('overwrite', [False, True])
def test_what_the_library_refuses_starts_nothing(
  overwrite: bool,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  if overwrite:
    run_folder.create(tmp_path, parsed().config, overwrite=False).log(
      {'step': 0}
    )
    (tmp_path / 'run.lock').touch()
  folder = tmp_path if overwrite else tmp_path / 'runs' / 'new'
  values = unusable(f'--workdir={folder}', f'--overwrite={overwrite}')
  before = {path: path.read_bytes() for path in tmp_path.rglob('*')}
  with pytest.raises(SystemExit) as caught:
    cli.run(train.COMMAND, values)
  assert caught.value.code == 2
  output = capsys.readouterr()
  assert not output.out
  assert output.err.startswith(
    'error: config.optimizer.base.diagonal: ekfac has no Kronecker rule for '
  )
  assert len(output.err.splitlines()) == 1
  assert {path: path.read_bytes() for path in tmp_path.rglob('*')} == before


def test_a_study_that_the_library_refuses_leaves_nothing(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  logged: list[int] = []

  def work(_: object, folder: run_folder.RunFolder) -> None:
    for row in logged:
      folder.log({'row': row})
    raise gt.errors.OptionError('no\nsense')

  for rows, left in ([], False), ([1], True):
    logged[:] = rows
    with pytest.raises(SystemExit) as caught:
      cli.run(
        cli.Command('test', work), parsed(f'--workdir={tmp_path / "run"}')
      )
    assert caught.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert said[1:] == ['error: config.optimizer: no sense']
    assert (tmp_path / 'run').exists() == left


def test_a_study_goes_on_in_its_folder(tmp_path: pathlib.Path) -> None:
  found: list[int | None] = []

  def work(_: object, folder: run_folder.RunFolder) -> None:
    found.append(len(folder.rows()))
    folder.log({})

  again = cli.Command('test', work, resumes=True)
  for extra in ([], [], ['--config.batch_size=16'], ['--overwrite']):
    arguments = ['program', f'--workdir={tmp_path / "run"}', *extra]
    try:
      asked = cli.parse(again, arguments)
    except SystemExit:
      found.append(None)
    else:
      cli.run(again, asked)
  assert found == [0, 1, None, 0]


def test_a_run_of_an_older_version_is_gone_on_with(
  tmp_path: pathlib.Path,
) -> None:
  config = parsed().config
  held = config.to_dict()
  held['compare'] = {'learning_rate': held.pop('learning_rates'), 'seeds': [0]}
  held['blocks'] = {'samples': 16}
  (tmp_path / 'config.json').write_text(json.dumps(held))
  assert run_folder.resumes(tmp_path, config)
  again = parsed(f'--config=configs/held.py:{tmp_path / "config.json"}').config
  assert again.to_dict() == config.to_dict()
