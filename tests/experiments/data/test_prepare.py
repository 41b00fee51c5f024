"""What cannot be prepared ends with one line, and nothing half prepared."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest
import raw_files

from experiments import prepare
from experiments.data import catalog, prepared, splits

pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')

ROOT = pathlib.Path(splits.__file__).parents[2]


def test_a_missing_file_is_named(tmp_path: pathlib.Path) -> None:
  raw_files.write('mnist', tmp_path)
  (tmp_path / 't10k-labels-idx1-ubyte.gz').unlink()
  with pytest.raises(prepare.PrepareError) as caught:
    prepare.prepare('mnist', str(tmp_path), str(tmp_path / 'sets'))
  assert 'without t10k-labels-idx1-ubyte.gz' in str(caught.value)
  assert not (tmp_path / 'sets').exists()


@pytest.mark.parametrize(
  'name', [name for name, spec in catalog.SPECS.items() if spec.files]
)
def test_another_file_than_the_published_is_refused(
  name: str, tmp_path: pathlib.Path
) -> None:
  pytest.importorskip('array_record')
  raw_files.write(name, tmp_path)
  root = str(tmp_path / 'sets')
  with pytest.raises(prepare.PrepareError) as caught:
    prepare.prepare(name, str(tmp_path), root)
  message = str(caught.value)
  assert any(str(tmp_path / f) in message for f in catalog.SPECS[name].files)
  assert '--noverify' in message
  assert len(message.splitlines()) == 1
  assert catalog.find(name, root) is None


def test_a_part_of_a_set_is_refused(tmp_path: pathlib.Path) -> None:
  pytest.importorskip('array_record')
  raw_files.write('mnist', tmp_path)
  root = str(tmp_path / 'sets')
  with pytest.raises(catalog.NotPreparedError, match=r'60000, .*\(23, 28, 28'):
    prepare.prepare('mnist', str(tmp_path), root, verify=False)
  with pytest.raises(catalog.NotPreparedError, match='delete that folder'):
    splits.load('mnist', 'unit', root)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: pathlib.Path) -> None:
  pytest.importorskip('array_record')
  (tmp_path / 'sets').touch()
  with pytest.raises(prepare.PrepareError) as caught:
    prepare.prepare('digits', data_dir=str(tmp_path / 'sets'))
  assert '--data_dir' in str(caught.value)
  assert len(str(caught.value).splitlines()) == 1


def test_a_set_is_prepared_once(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  pytest.importorskip('array_record')
  folder = prepare.prepare('digits', data_dir=str(tmp_path))
  before = {path: path.stat().st_mtime_ns for path in folder.rglob('*')}
  monkeypatch.delattr(prepare, '_build')
  assert prepare.prepare('digits', data_dir=str(tmp_path)) == folder
  assert {p: p.stat().st_mtime_ns for p in folder.rglob('*')} == before


def test_a_folder_that_cannot_be_written_is_read(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  pytest.importorskip('array_record')

  def refuse(*unused: object) -> None:
    del unused
    raise PermissionError

  monkeypatch.setattr(prepared, '_write', refuse)
  folder = prepare.prepare('digits', data_dir=str(tmp_path))
  assert not (folder / 'arrays').exists()
  assert splits.load('digits', 'unit', str(tmp_path)).train.size == 1437


@pytest.mark.parametrize(
  ('arguments', 'line'),
  [
    ((), 'error: --dataset: expected one of digits, mnist'),
    (('word',), 'error: word: expected only flags'),
    (
      ('--dataset=imagenet',),
      'error: --dataset: expected one of digits, mnist',
    ),
    (('--verify=perhaps',), 'error: command line: expected flags as --help'),
    (('--dataset=mnist',), 'error: --manual_dir: expected a folder with train'),
    (
      ('--dataset=cifar10', '--manual_dir=absent'),
      'error: --manual_dir: expected a folder with cifar-10-binary.tar.gz, got '
      'absent, which is no folder; put the published files there',
    ),
  ],
)
def test_refusals(
  arguments: tuple[str, ...],
  line: str,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  with pytest.raises(SystemExit) as caught:
    prepare.main(['prepare', f'--data_dir={tmp_path}', *arguments])
  assert caught.value.code == 2
  output = capsys.readouterr()
  assert not output.out
  assert output.err.startswith(line)
  assert len(output.err.splitlines()) == 1
  assert not list(tmp_path.iterdir())


def test_digits_needs_no_preparation(
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  prepare.main(['prepare', '--dataset=digits'])
  assert capsys.readouterr().err.startswith('digits needs no preparation')
  assert not list(tmp_path.iterdir())


def test_a_set_that_is_there_is_said_to_be(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  pytest.importorskip('array_record')
  command = ['prepare', '--dataset=digits', f'--data_dir={tmp_path}']
  for _ in range(2):
    prepare.main(command)
  first, second = capsys.readouterr().err.splitlines()
  folder = tmp_path / 'digits' / '1.0.0'
  assert first.startswith(f'digits is prepared in {folder} (')
  assert second == f'digits was prepared already, in {folder}'


@pytest.mark.parametrize(
  ('name', 'file'),
  [
    ('mnist', 't10k-labels-idx1-ubyte.gz'),
    ('cifar10', 'cifar-10-binary.tar.gz'),
    ('svhn_cropped', 'test_32x32.mat'),
  ],
)
def test_a_truncated_file_is_named_and_nothing_left(
  name: str, file: str, tmp_path: pathlib.Path
) -> None:
  pytest.importorskip('array_record')
  raw_files.write(name, tmp_path)
  whole = (tmp_path / file).read_bytes()
  (tmp_path / file).write_bytes(whole[: len(whole) // 2])
  with pytest.raises(prepare.PrepareError) as caught:
    prepare.prepare(name, str(tmp_path), str(tmp_path / 'sets'), verify=False)
  message = str(caught.value)
  assert f'got one that cannot be read: {tmp_path / file} (' in message
  others = {*catalog.SPECS[name].files} - {file}
  assert not any(other in message for other in others)
  assert len(message.splitlines()) == 1
  assert not (tmp_path / 'sets').exists()


def test_it_runs_from_outside(tmp_path: pathlib.Path) -> None:
  pytest.importorskip('array_record')
  command = ['-m', 'experiments.prepare', '--dataset=digits']
  done = subprocess.run(
    [sys.executable, *command, f'--data_dir={tmp_path}'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0
  assert not done.stdout
  folder = tmp_path / 'digits' / '1.0.0'
  assert done.stderr.startswith(f'digits is prepared in {folder} (')
