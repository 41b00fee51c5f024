"""TFDS builders that need no TensorFlow.

The builders of tensorflow-datasets for these sets read their raw files with
TensorFlow. Those here are the same builders (name, version, features, splits,
keys and so the order of the samples) with readers of their own. DIGITS, which
tensorflow-datasets does not have, is added.
"""

from __future__ import annotations

import contextlib
import gzip
import pathlib
import tarfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.datasets.svhn_cropped import (
  svhn_cropped_dataset_builder as svhn,
)
from tensorflow_datasets.image_classification import cifar, mnist

from experiments.data import digits

Examples = Iterator[tuple[int, dict[str, Any]]]


class RawFileError(ValueError):
  """A raw file that cannot be read.

  ::

    pathlib.Path('train-labels-idx1-ubyte.gz').write_bytes(b'half of it')
    read_idx('train-labels-idx1-ubyte.gz')
  """


@contextlib.contextmanager
def reading(path: Any) -> Iterator[None]:
  """Raises RawFileError, with the path, for whatever cannot be read."""
  try:
    yield
  except Exception as error:  # Of what decompresses and parses.
    raise RawFileError(f'{path} ({type(error).__name__})') from error


class RawFiles:
  """Where a builder takes its raw files from."""

  # a folder whose files are used as they are; None for files whose checksums
  # tensorflow-datasets verifies
  unchecked: pathlib.Path | None = None

  def __init_subclass__(cls, **options: Any) -> None:
    super().__init_subclass__(**options)

  def fetch(self, manager: Any, urls: Mapping[str, str]) -> Mapping[str, Any]:
    """Returns the path of the file that each URL names."""
    if self.unchecked is None:
      return dict(manager.download(dict(urls)))
    return {
      key: self.unchecked / url.rsplit('/', maxsplit=1)[-1]
      for key, url in urls.items()
    }


class Mnist(RawFiles, mnist.MNIST, skip_registration=True):
  """MNIST."""

  name = 'mnist'
  url_infos = mnist.MNIST.url_infos  # checksums

  def _split_generators(self, dl_manager: Any) -> dict[str, Examples]:
    parts = ('images-idx3', 'labels-idx1')
    prefixes = {'train': 'train', 'test': 't10k'}
    urls = {
      f'{split} {part}': f'{self.URL}{prefix}-{part}-ubyte.gz'
      for split, prefix in prefixes.items()
      for part in parts
    }
    paths = self.fetch(dl_manager, urls)
    return {
      split: self._generate_examples(
        *(paths[f'{split} {part}'] for part in parts)
      )
      for split in prefixes
    }

  def _generate_examples(self, images: Any, labels: Any) -> Examples:
    pairs = zip(read_idx(images), read_idx(labels), strict=True)
    for index, (image, label) in enumerate(pairs):
      yield index, {'image': Image.fromarray(image), 'label': int(label)}


class FashionMnist(Mnist, mnist.FashionMNIST, skip_registration=True):
  """Fashion-MNIST."""

  name = 'fashion_mnist'
  url_infos = mnist.FashionMNIST.url_infos  # checksums


class Cifar10(RawFiles, cifar.Cifar10, skip_registration=True):
  """CIFAR-10."""

  name = 'cifar10'
  url_infos = cifar.Cifar10.url_infos  # checksums

  def _split_generators(self, dl_manager: Any) -> dict[str, Examples]:
    content = self._cifar_info
    archive = self.fetch(dl_manager, {'archive': content.url})['archive']
    members = read_tar(archive)
    splits = {'train': content.train_files, 'test': content.test_files}
    with reading(archive):
      found = {
        split: self._rows([members[content.prefix + file] for file in files])
        for split, files in splits.items()
      }
    for key, file in zip(content.label_keys, content.label_files, strict=True):
      # Archives made by others may lack the names of the classes.
      lines = members.get(content.prefix + file, b'').decode().splitlines()
      if names := [line for line in lines if line]:
        self.info.features[key].names = names
    return {
      split: self._generate_examples(f'{split}_', samples)
      for split, samples in found.items()
    }

  def _rows(self, parts: list[bytes]) -> np.ndarray:
    """Labels and pixels, a row for each image."""
    labels = len(self._cifar_info.label_keys)
    rows = np.frombuffer(b''.join(parts), np.uint8)
    return rows.reshape(-1, labels + 3 * 32 * 32)

  def _generate_examples(
    self, split_prefix: str, filepaths: np.ndarray
  ) -> Examples:
    keys = self._cifar_info.label_keys
    for index, row in enumerate(filepaths):
      pixels = row[len(keys) :].reshape(3, 32, 32).transpose(1, 2, 0)
      yield (
        index,
        {
          **{key: int(row[place]) for place, key in enumerate(keys)},
          'id': f'{split_prefix}{index:05d}',
          'image': Image.fromarray(np.ascontiguousarray(pixels)),
        },
      )


class Cifar100(Cifar10, cifar.Cifar100, skip_registration=True):
  """CIFAR-100."""

  name = 'cifar100'
  url_infos = cifar.Cifar100.url_infos  # checksums


class SvhnCropped(RawFiles, svhn.Builder, skip_registration=True):
  """SVHN, cropped; without the split 'extra', a download of 1.3 GB."""

  name = 'svhn_cropped'
  url_infos = svhn.Builder.url_infos  # checksums
  pkg_dir_path = tfds.core.Path(svhn.__file__).parent  # of its metadata

  def _split_generators(self, dl_manager: Any) -> dict[str, Examples]:
    urls = {
      split: f'{svhn.URL}{split}_32x32.mat' for split in ('train', 'test')
    }
    paths = self.fetch(dl_manager, urls)
    return {
      split: self._generate_examples(f'{split}_', path)
      for split, path in paths.items()
    }

  def _generate_examples(self, split_prefix: str, filepath: Any) -> Examples:
    with reading(filepath):
      content = tfds.core.lazy_imports.scipy.io.loadmat(filepath)
      images = np.ascontiguousarray(np.moveaxis(content['X'], -1, 0))
      labels = content['y'].reshape(-1) % 10  # 0 is stored as 10
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
      yield (
        index,
        {
          'image': Image.fromarray(image),
          'label': int(label),
          'id': f'{split_prefix}{index:06d}',
        },
      )


class Digits(tfds.core.GeneratorBasedBuilder):
  """DIGITS: scikit-learn's copy, split as `experiments.digits` says."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> Any:
    return tfds.core.DatasetInfo(
      builder=self,
      description='1,797 handwritten digits, pixels from 0 to 16.',
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(8, 8, 1)),
          'label': tfds.features.ClassLabel(num_classes=10),
        }
      ),
      supervised_keys=('image', 'label'),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Examples]:
    del dl_manager
    return {
      split: self._generate_examples(*arrays)
      for split, arrays in digits.splits().items()
    }

  def _generate_examples(
    self, images: np.ndarray, labels: np.ndarray
  ) -> Examples:
    pairs = zip(images[..., 0], labels, strict=True)
    for index, (image, label) in enumerate(pairs):
      yield index, {'image': Image.fromarray(image), 'label': int(label)}


def read_idx(path: Any) -> np.ndarray:
  """Returns the uint8 array of a gzipped idx file."""
  with reading(path):
    raw = gzip.decompress(pathlib.Path(path).read_bytes())
    shape = np.frombuffer(raw, '>i4', count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def read_tar(path: Any) -> dict[str, bytes]:
  """Returns the files of a gzipped archive; names to contents."""
  with reading(path), tarfile.open(path, 'r:gz') as archive:
    readers = {member.name: archive.extractfile(member) for member in archive}
    return {name: file.read() for name, file in readers.items() if file}


BUILDERS = {
  builder.name: builder
  for builder in (Mnist, FashionMnist, Cifar10, Cifar100, SvhnCropped, Digits)
}
