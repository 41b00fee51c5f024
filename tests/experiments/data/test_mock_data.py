"""Reading prepared sets, on what tensorflow-datasets makes up for tests."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import raw_files

from experiments import prepare
from experiments.data import catalog, splits

pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')
pytest.importorskip('array_record')

COUNT = 7


@pytest.mark.parametrize('name', catalog.SPECS)
def test_mocked_sets_are_read(
  name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  import tensorflow_datasets as tfds
  from tensorflow_datasets.testing import mocking

  # Its metadata are those of a set that was really prepared.
  small = catalog.SPECS[name]
  if small.files:
    small = small._replace(train=raw_files.TRAIN, test=raw_files.TEST)
    raw_files.write(name, tmp_path)
  monkeypatch.setitem(catalog.SPECS, name, small)
  root = str(tmp_path / 'sets')
  folder = prepare.prepare(name, str(tmp_path), root, verify=False)
  for file in (folder / 'arrays').iterdir():
    file.unlink()
  (folder / 'arrays').rmdir()

  mocked = small._replace(train=COUNT, test=COUNT)
  monkeypatch.setitem(catalog.SPECS, name, mocked)
  # Under mock_data no builder can be made from a folder.
  builder = tfds.builder_from_directory(folder)
  monkeypatch.setattr(tfds, 'builder_from_directory', lambda _: builder)
  # What it puts in place of reading several records lacks a `self`.
  several = mocking._getitems
  monkeypatch.setattr(
    mocking,
    '_getitems',
    lambda keys, generator: several(None, keys, generator),
  )
  with tfds.testing.mock_data(num_examples=COUNT):
    found = splits.load(name, 'standard', root)
  assert found.train.images.shape == (COUNT, *small.shape)
  assert found.train.images.dtype == np.uint8
  assert len(np.unique(found.train.images)) > 10
  assert set(found.train.labels) <= set(range(small.classes))
  again = splits.load(name, 'standard', root)  # from the cache, unmocked
  np.testing.assert_array_equal(again.train.images, found.train.images)
  np.testing.assert_array_equal(again.test.labels, found.test.labels)
