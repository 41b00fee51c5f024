"""Small files in the formats in which the data sets are published."""

from __future__ import annotations

import gzip
import io
import pathlib
import tarfile

import numpy as np
import scipy.io

from experiments.data import catalog

TRAIN, TEST = 23, 7
CLASS_NAMES = ''.join(f'class {i}\n' for i in range(10)).encode()


def write(name: str, folder: pathlib.Path) -> None:
  """Writes all files of a set, with TRAIN and TEST random images."""
  generator = np.random.default_rng(1)
  spec = catalog.SPECS[name]
  for split, count in (('train', TRAIN), ('test', TEST)):
    images = generator.integers(0, 256, (count, *spec.shape)).astype(np.uint8)
    labels = generator.integers(0, spec.classes, count).astype(np.uint8)
    if name == 'svhn_cropped':
      _write_mat(folder / f'{split}_32x32.mat', images, labels)
    elif name in ('mnist', 'fashion_mnist'):
      prefix = 't10k' if split == 'test' else split
      _write_idx(folder / f'{prefix}-images-idx3-ubyte.gz', images[..., 0])
      _write_idx(folder / f'{prefix}-labels-idx1-ubyte.gz', labels)
    else:
      _write_bin(name, folder / f'{name} {split}', images, labels)
  if name.startswith('cifar'):
    _pack(name, folder)


def _write_idx(path: pathlib.Path, array: np.ndarray) -> None:
  head = bytes([0, 0, 8, array.ndim])
  head += np.array(array.shape, '>i4').tobytes()
  path.write_bytes(gzip.compress(head + array.tobytes()))


def _write_mat(
  path: pathlib.Path, images: np.ndarray, labels: np.ndarray
) -> None:
  ones_to_ten = np.where(labels == 0, 10, labels)[:, None]
  scipy.io.savemat(path, {'X': np.moveaxis(images, 0, -1), 'y': ones_to_ten})


def _write_bin(
  name: str, path: pathlib.Path, images: np.ndarray, labels: np.ndarray
) -> None:
  head = [labels // 5, labels] if name == 'cifar100' else [labels]
  pixels = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
  path.write_bytes(np.column_stack([*head, pixels]).tobytes())


def _pack(name: str, folder: pathlib.Path) -> None:
  """Archives what _write_bin wrote, train in five files for CIFAR-10."""
  train = (folder / f'{name} train').read_bytes()
  if name == 'cifar10':
    row = 1 + 3 * 32 * 32
    cuts = [row * TRAIN * part // 5 // row * row for part in range(6)]
    files = {
      f'data_batch_{part + 1}.bin': train[cuts[part] : cuts[part + 1]]
      for part in range(5)
    }
    files |= {'batches.meta.txt': CLASS_NAMES}
    prefix, test = 'cifar-10-batches-bin', 'test_batch.bin'
  else:
    files, prefix, test = {'train.bin': train}, 'cifar-100-binary', 'test.bin'
  files[test] = (folder / f'{name} test').read_bytes()
  (path,) = (folder / file for file in catalog.SPECS[name].files)
  with tarfile.open(path, 'w:gz') as archive:
    for file, content in files.items():
      member = tarfile.TarInfo(f'{prefix}/{file}')
      member.size = len(content)
      archive.addfile(member, io.BytesIO(content))
