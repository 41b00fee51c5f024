"""Our builders yield what those of tensorflow-datasets yield, and store it.

The examples of the stock builders come from their own code; TensorFlow is
replaced in it by the one function that it calls, which opens a file.
"""

from __future__ import annotations

import gzip
import importlib
import itertools
import pathlib
import subprocess
import sys
import tarfile
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import raw_files

from experiments import prepare
from experiments.data import catalog, digits, prepared, splits

pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')
pytest.importorskip('array_record')

RAW = [name for name, spec in catalog.SPECS.items() if spec.files]
STOCK = {
  'mnist': ('image_classification.mnist', 'MNIST'),
  'fashion_mnist': ('image_classification.mnist', 'FashionMNIST'),
  'svhn_cropped': (
    'datasets.svhn_cropped.svhn_cropped_dataset_builder',
    'Builder',
  ),
  'cifar10': ('image_classification.cifar', 'Cifar10'),
  'cifar100': ('image_classification.cifar', 'Cifar100'),
}


def stock(name: str, folder: pathlib.Path) -> Any:
  """The stock builder, and its module with a stand-in for TensorFlow."""
  module_name, class_name = STOCK[name]
  module = importlib.import_module(f'tensorflow_datasets.{module_name}')
  return getattr(module, class_name)(data_dir=folder), module


def unpacked(name: str, raw: pathlib.Path, split: str) -> dict[str, Any]:
  """Arguments of the stock builder's generator of examples."""
  if name == 'svhn_cropped':
    return {
      'split_prefix': f'{split}_',
      'filepath': raw / f'{split}_32x32.mat',
    }
  if name.startswith('cifar'):
    with tarfile.open(raw / catalog.SPECS[name].files[0]) as archive:
      archive.extractall(raw, filter='data')
    folder = next(raw.glob('cifar*bin*/'))
    files = sorted(folder.glob(f'{"test" if split == "test" else "[dt][ar]"}*'))
    return {'split_prefix': f'{split}_', 'filepaths': files}
  count = {'train': raw_files.TRAIN, 'test': raw_files.TEST}[split]
  paths = {}
  for part in ('images-idx3', 'labels-idx1'):
    prefix = 't10k' if split == 'test' else split
    packed = raw / f'{prefix}-{part}-ubyte.gz'
    paths[part] = packed.with_suffix('')
    paths[part].write_bytes(gzip.decompress(packed.read_bytes()))
  return {
    'num_examples': count,
    'data_path': paths['images-idx3'],
    'label_path': paths['labels-idx1'],
  }


def plain(examples: Iterator[tuple[Any, dict[str, Any]]]) -> list[Any]:
  """Examples whose values can be compared."""
  return [
    (key, {name: np.asarray(value).tolist() for name, value in row.items()})
    for key, row in examples
  ]


@pytest.mark.parametrize('name', RAW)
def test_examples_and_keys_are_those_of_the_stock_builder(
  name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  from experiments.data import builders

  raw_files.write(name, tmp_path)
  own = builders.BUILDERS[name](data_dir=tmp_path)
  own.unchecked = tmp_path
  theirs, module = stock(name, tmp_path)
  gfile = types.SimpleNamespace(GFile=open)
  tensorflow = types.SimpleNamespace(io=types.SimpleNamespace(gfile=gfile))
  monkeypatch.setattr(module, 'tf', tensorflow)

  assert own.info.full_name == theirs.info.full_name
  features, expected = (b.info.features.to_json() for b in (own, theirs))
  assert features == expected
  assert own.url_infos == theirs.url_infos
  for split, examples in own._split_generators(None).items():
    found = plain(examples)
    kwargs = unpacked(name, tmp_path, split)
    wanted = plain(theirs._generate_examples(**kwargs))
    if name in ('mnist', 'fashion_mnist'):
      for _, row in wanted:  # PIL images of one channel have no such axis
        row['image'] = np.asarray(row['image'])[..., 0].tolist()
    assert found == wanted
  assert 'tensorflow' not in sys.modules


@pytest.mark.parametrize('name', RAW)
def test_from_raw_files_to_batches(
  name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  from experiments.data import builders

  raw_files.write(name, tmp_path)
  small = catalog.SPECS[name]._replace(
    train=raw_files.TRAIN, test=raw_files.TEST
  )
  monkeypatch.setitem(catalog.SPECS, name, small)
  root = str(tmp_path / 'sets')
  folder = prepare.prepare(name, str(tmp_path), root, verify=False)
  own = builders.BUILDERS[name](data_dir=tmp_path)
  own.unchecked = tmp_path

  for source in ('cache', 'records'):
    dataset = splits.load(name, 'unit', root)
    for split, examples in own._split_generators(None).items():
      rows = [
        (np.asarray(row['image']).tobytes(), row['label'])
        for _, row in examples
      ]
      found: splits.Split = getattr(dataset, split)
      pairs = zip(found.images, found.labels, strict=True)
      stored = [(image.tobytes(), int(label)) for image, label in pairs]
      assert sorted(stored) == sorted(rows)
      assert stored != rows  # shuffled, by tensorflow-datasets
    if source == 'cache':
      cached = dataset
      for file in (folder / 'arrays').iterdir():
        file.unlink()
      (folder / 'arrays').rmdir()
  for one, other in itertools.product([cached.train], [dataset.train]):
    np.testing.assert_array_equal(one.images, other.images)
    np.testing.assert_array_equal(one.labels, other.labels)


def test_digits_prepared_are_digits_at_hand(tmp_path: pathlib.Path) -> None:
  prepare.prepare('digits', data_dir=str(tmp_path))
  stored = prepared.splits('digits', str(tmp_path))
  for split, arrays in digits.splits().items():
    for one, other in zip(arrays, stored[split], strict=True):
      np.testing.assert_array_equal(one, other)
      assert one.dtype == other.dtype


def test_reading_the_cache_imports_no_reader(tmp_path: pathlib.Path) -> None:
  prepare.prepare('digits', data_dir=str(tmp_path))
  code = (
    'import sys; from experiments.data import splits; '
    f'splits.load("digits", "unit", {str(tmp_path)!r}); '
    'assert not {"tensorflow_datasets", "array_record"} & set(sys.modules)'
  )
  root = pathlib.Path(splits.__file__).parents[2]
  subprocess.run([sys.executable, '-c', code], cwd=root, check=True)
