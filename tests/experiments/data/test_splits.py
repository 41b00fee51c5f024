"""The data sets are whole, and the batches functions of (seed, step)."""

from __future__ import annotations

import hashlib
import pathlib

import numpy as np
import pytest

from experiments.data import catalog, digits, preprocessing, splits

pytestmark = pytest.mark.once

# Labels of the published training split, and mean and standard deviation of
# each channel (white is 1), as many have reported them.
PUBLISHED = {
  'mnist': (
    (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
    (0.1307,),
    (0.3081,),
  ),
  'fashion_mnist': ((6000,) * 10, (0.2860,), (0.3530,)),
  'svhn_cropped': (
    (4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659),
    (0.4377, 0.4438, 0.4728),
    (0.1980, 0.2010, 0.1970),
  ),
  'cifar10': (
    (5000,) * 10,
    (0.4914, 0.4822, 0.4465),
    (0.2470, 0.2435, 0.2616),
  ),
  'cifar100': (
    (500,) * 100,
    (0.5071, 0.4865, 0.4409),
    (0.2673, 0.2564, 0.2762),
  ),
}
# The first labels of the training split as tensorflow-datasets, with
# TensorFlow, prepares and reads it.
FIRST_LABELS = {
  'mnist': (4, 1, 0, 7, 8, 1, 2, 7, 1, 6),
  'cifar10': (7, 8, 4, 4, 6, 5, 2, 9, 6, 6),
}


@pytest.fixture(scope='module')
def unit() -> splits.Dataset:
  return splits.load('digits', 'unit')


@pytest.mark.parametrize('name', sorted(catalog.SPECS))
@pytest.mark.parametrize('scaling', preprocessing.SCALINGS)
def test_sizes_and_types(name: str, scaling: str) -> None:
  if name != 'digits' and catalog.find(name, None) is None:
    pytest.skip(f'{name} is not prepared')
  dataset = splits.load(name, scaling)
  spec = catalog.SPECS[name]
  assert (dataset.train.size, dataset.test.size) == (spec.train, spec.test)
  for split in (dataset.train, dataset.test):
    assert split.images.shape == (split.size, *catalog.SPECS[name].shape)
    assert split.images.dtype == np.uint8
    assert split.images.max() == catalog.SPECS[name].white
    assert split.labels.dtype == np.int32
    assert set(split.labels) == set(range(dataset.classes))


@pytest.mark.parametrize('name', sorted(PUBLISHED))
def test_prepared_sets_are_the_published_ones(name: str) -> None:
  if catalog.find(name, None) is None:
    pytest.skip(f'{name} is not prepared')
  dataset = splits.load(name, 'standard')
  counts, mean, deviation = PUBLISHED[name]
  assert tuple(np.bincount(dataset.train.labels)) == counts
  # Loose enough for images that went through a lossy format.
  np.testing.assert_allclose(dataset.scale.mean / 255, mean, atol=5e-3)
  np.testing.assert_allclose(dataset.scale.deviation / 255, deviation, 0, 5e-3)
  first = FIRST_LABELS.get(name, ())
  assert tuple(dataset.train.labels[: len(first)]) == first


def test_digits_are_those_that_results_were_published_with(
  unit: splits.Dataset,
) -> None:
  found = [
    hashlib.sha256(np.asarray(part).tobytes()).hexdigest()[:16]
    for split in (unit.train, unit.test)
    for part in (
      preprocessing.prepare(split.images, unit.scale),
      split.labels,
    )
  ]
  assert found == [
    '42529fb6a655e9c0',
    '745d990dc8f80aea',
    '53d6a8c3d406e86d',
    'c8a9cf10e14a8679',
  ]


def test_the_splits_share_no_sample_and_miss_none(unit: splits.Dataset) -> None:
  everything = np.concatenate([unit.train.images, unit.test.images])
  assert len(np.unique(everything.reshape(1797, -1), axis=0)) == 1797
  assert unit.test.size == digits.TEST


def test_the_split_is_stratified(unit: splits.Dataset) -> None:
  train, test = (np.bincount(split.labels) / split.size for split in unit[:2])
  np.testing.assert_allclose(train, test, atol=0.003)


def test_a_part_of_the_training_split(unit: splits.Dataset) -> None:
  part = splits.load('digits', 'standard', train_samples=100)
  assert (part.train.size, part.test.size) == (100, 360)
  np.testing.assert_array_equal(part.train.images, unit.train.images[:100])
  scaled = preprocessing.prepare(part.train.images, part.scale)
  assert abs(scaled.mean()) < 1e-5


@pytest.mark.parametrize(
  'name', [name for name, spec in catalog.SPECS.items() if spec.files]
)
def test_a_missing_set_says_what_to_put_where(
  name: str, tmp_path: pathlib.Path
) -> None:
  with pytest.raises(catalog.NotPreparedError) as caught:
    splits.load(name, 'unit', str(tmp_path))
  message = str(caught.value)
  assert message.startswith(f'config.dataset.data_dir: expected {name} prepar')
  assert str(tmp_path / name) in message
  for file in catalog.SPECS[name].files:
    assert file in message
  assert f'experiments.prepare --dataset={name} --manual_dir=' in message
  assert len(message.splitlines()) == 1
  with pytest.raises(catalog.NotPreparedError):
    catalog.check(name, str(tmp_path))


def test_digits_are_never_missing(tmp_path: pathlib.Path) -> None:
  catalog.check('digits', str(tmp_path))
  assert splits.load('digits', 'unit', str(tmp_path)).train.size == 1437
  assert not list(tmp_path.iterdir())


def test_where_prepared_sets_lie(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  assert catalog.root(None) == tmp_path
  assert catalog.root('elsewhere') == pathlib.Path('elsewhere')
  for version in ('3.0.9', '3.0.10', 'notes'):
    folder = tmp_path / 'mnist' / version
    folder.mkdir(parents=True)
    (folder / catalog.INFO).touch()
  (tmp_path / 'mnist' / '4.0.0').mkdir()  # without its file, it is not whole
  assert catalog.find('mnist', None) == tmp_path / 'mnist' / '3.0.10'
  with pytest.raises(catalog.NotPreparedError, match='array_record'):
    catalog.folder('mnist', None)
  with pytest.raises(catalog.NotPreparedError, match='give the folder above'):
    catalog.folder('mnist', str(tmp_path / 'mnist'))
  monkeypatch.delenv('TFDS_DATA_DIR')
  assert catalog.root(None) == pathlib.Path.home() / 'tensorflow_datasets'


def test_every_sample_once_an_epoch() -> None:
  size, batch_size = 103, 10
  steps = range(size)  # ten epochs of 10.3 batches
  stream = np.concatenate(
    [splits.indices(size, batch_size, seed=3, step=step) for step in steps]
  )
  epochs = stream.reshape(batch_size, size)
  np.testing.assert_array_equal(
    np.sort(epochs, axis=1), np.tile(np.arange(size), (batch_size, 1))
  )
  assert len({tuple(epoch) for epoch in epochs}) == batch_size


def test_a_batch_depends_on_seed_and_step_alone(unit: splits.Dataset) -> None:
  late = splits.batch(unit.train, 64, seed=1, step=1000)
  for step in range(30):
    splits.batch(unit.train, 64, seed=1, step=step)
  again = splits.batch(unit.train, 64, seed=1, step=1000)
  np.testing.assert_array_equal(late.images, again.images)
  np.testing.assert_array_equal(late.labels, again.labels)
  other = splits.batch(unit.train, 64, seed=2, step=1000)
  assert not np.array_equal(late.labels, other.labels)


def test_a_batch_may_be_the_whole_split() -> None:
  rows = splits.indices(7, 7, seed=0, step=5)
  assert sorted(rows) == list(range(7))


def test_a_part_of_the_test_split() -> None:
  whole, part = (
    splits.load('digits', 'unit', test_samples=count) for count in (None, 30)
  )
  assert part.train.size == whole.train.size and part.test.size == 30
  np.testing.assert_array_equal(part.test.images, whole.test.images[:30])
