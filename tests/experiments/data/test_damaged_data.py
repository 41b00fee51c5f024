"""Data that is not what it should be is refused, with one line each."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
import pytest
import raw_files

from experiments import prepare, refusals
from experiments.data import catalog, prepared, splits

pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')


@pytest.fixture
def folder(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> pathlib.Path:
  """A small MNIST that has been prepared."""
  pytest.importorskip('array_record')
  small = catalog.SPECS['mnist']._replace(
    train=raw_files.TRAIN, test=raw_files.TEST
  )
  monkeypatch.setitem(catalog.SPECS, 'mnist', small)
  raw_files.write('mnist', tmp_path)
  return prepare.prepare(
    'mnist', str(tmp_path), str(tmp_path / 'sets'), verify=False
  )


def nan_pixels(images: np.ndarray) -> np.ndarray:
  images = images.astype(np.float32)
  images[3, 4, 5] = np.nan
  return images


DAMAGES: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray], str]] = {
  'nan': ('train_images', nan_pixels, 'float32, 1 of them nan'),
  'float labels': ('test_labels', lambda a: a.astype(float), 'type float64'),
  'high label': ('train_labels', lambda a: a + 10, r'train label 1\d'),
  'negative label': ('test_labels', lambda a: a - 10, 'test label -'),
  'image shape': ('train_images', lambda a: a[:, :20], r'\(23, 20, 28, 1\)'),
  'channels': ('test_images', lambda a: a.repeat(3, -1), r'\(7, 28, 28, 3\)'),
  'too few': ('train_images', lambda a: a[:9], r'\(9, 28, 28, 1\)'),
  'too few labels': ('train_labels', lambda a: a[:9], 'expected mnist with'),
}


def assert_one_line(message: str) -> None:
  assert message.startswith('config.dataset.data_dir: expected ')
  assert '; delete that folder' in message
  assert len(message.splitlines()) == 1


@pytest.mark.parametrize('damage', DAMAGES)
def test_wrong_arrays(damage: str, folder: pathlib.Path) -> None:
  name, change, message = DAMAGES[damage]
  path = folder / 'arrays' / f'{name}.npy'
  np.save(path, change(np.load(path)))
  with pytest.raises(catalog.NotPreparedError, match=message) as caught:
    splits.load('mnist', 'unit', str(folder.parent.parent))
  assert_one_line(str(caught.value))


def test_a_truncated_cache(folder: pathlib.Path) -> None:
  path = folder / 'arrays' / 'train_images.npy'
  path.write_bytes(path.read_bytes()[:1000])
  with pytest.raises(catalog.NotPreparedError, match='made again') as caught:
    splits.load('mnist', 'unit', str(folder.parent.parent))
  assert_one_line(str(caught.value))


def test_truncated_records(folder: pathlib.Path) -> None:
  for file in (folder / 'arrays').iterdir():
    file.unlink()
  (folder / 'arrays').rmdir()
  (records,) = folder.glob('*train.array_record*')
  records.write_bytes(records.read_bytes()[:100])
  with pytest.raises(catalog.NotPreparedError, match='prepare it') as caught:
    splits.load('mnist', 'unit', str(folder.parent.parent))
  assert_one_line(str(caught.value))


@pytest.mark.parametrize(
  ('error', 'remedy'),
  [
    (ModuleNotFoundError('no', name='array_record'), 'install array_record.'),
    (PermissionError(13, 'denied'), 'let it be read.'),
    (MemoryError(), 'free memory.'),
  ],
)
def test_what_the_files_cannot_help_is_not_blamed_on_them(
  folder: pathlib.Path,
  error: Exception,
  remedy: str,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  def load(*arguments: object) -> None:
    raise ValueError('it cannot be read') from error

  monkeypatch.setattr(prepared, '_load', load)
  with pytest.raises(catalog.NotPreparedError) as caught:
    splits.load('mnist', 'unit', str(folder.parent.parent))
  assert str(caught.value).endswith(remedy)
  assert 'delete' not in str(caught.value)


def test_what_was_handled_before_is_no_cause() -> None:
  try:
    try:
      raise ModuleNotFoundError('of something else')
    except ModuleNotFoundError:
      raise ValueError('damaged') from None
  except ValueError as error:
    assert refusals.not_of_the_files(error) is None
  assert (
    refusals.one_line(ImportError('two\nlines')) == 'ImportError (two lines)'
  )


@pytest.mark.parametrize('name', ['mnist', 'cifar10', 'svhn_cropped'])
@pytest.mark.parametrize('content', [b'', b'not an archive', None])
def test_a_truncated_archive(
  name: str, content: bytes | None, tmp_path: pathlib.Path
) -> None:
  pytest.importorskip('array_record')
  raw_files.write(name, tmp_path)
  path = tmp_path / catalog.SPECS[name].files[0]
  before = path.read_bytes()
  path.write_bytes(before[: len(before) // 2] if content is None else content)
  root = tmp_path / 'sets'
  with pytest.raises(prepare.PrepareError) as caught:
    prepare.prepare(name, str(tmp_path), str(root), verify=False)
  assert len(str(caught.value).splitlines()) == 1
  assert catalog.find(name, str(root)) is None
