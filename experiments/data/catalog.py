"""The data sets: what they hold, and where they lie once prepared.

A prepared set is a folder of tensorflow-datasets, ``DATA_DIR/NAME/VERSION``, in
the format array_record, made by ``experiments.prepare``.
"""

from __future__ import annotations

import os
import pathlib
from typing import NamedTuple

from experiments import refusals

INFO = 'dataset_info.json'  # in every folder of a prepared set


class Spec(NamedTuple):
  """What is known of a set before it is read."""

  train: int  # training samples
  test: int  # test samples
  shape: tuple[int, int, int]  # height, width and channels of an image
  classes: int = 10  # labels go from 0 to below this
  white: int = 255  # the largest value of a pixel; the smallest is 0
  flip: bool = False  # whether a mirrored image keeps its label
  pad: int = 4  # pixels by which augmentation shifts an image at most
  files: tuple[str, ...] = ()  # raw files that it is prepared from


class NotPreparedError(refusals.Unusable):
  """A set is not where it should be, or not what it should be.

  ::

    data.load('mnist', 'unit', data_dir='empty')
  """

  def __init__(self, expected: str, got: str, remedy: str):
    """Makes the message; the key is known."""
    super().__init__('config.dataset.data_dir', expected, got, remedy)


_IDX = tuple(
  f'{split}-{part}-ubyte.gz'
  for split in ('train', 't10k')
  for part in ('images-idx3', 'labels-idx1')
)

SPECS = {
  'digits': Spec(1437, 360, (8, 8, 1), white=16, pad=1),
  'mnist': Spec(60000, 10000, (28, 28, 1), files=_IDX),
  # Its images are centred: shifts of 4 pixels cost a point of accuracy.
  'fashion_mnist': Spec(
    60000, 10000, (28, 28, 1), pad=0, flip=True, files=_IDX
  ),
  'svhn_cropped': Spec(
    73257, 26032, (32, 32, 3), files=('train_32x32.mat', 'test_32x32.mat')
  ),
  'cifar10': Spec(
    50000, 10000, (32, 32, 3), flip=True, files=('cifar-10-binary.tar.gz',)
  ),
  'cifar100': Spec(
    50000,
    10000,
    (32, 32, 3),
    classes=100,
    flip=True,
    files=('cifar-100-binary.tar.gz',),
  ),
}


def root(data_dir: str | None) -> pathlib.Path:
  """Returns the folder of all sets; for None, that of tensorflow-datasets."""
  if data_dir is None:
    default = pathlib.Path('~') / 'tensorflow_datasets'
    data_dir = os.environ.get('TFDS_DATA_DIR') or str(default)
  return pathlib.Path(data_dir).expanduser()


def find(name: str, data_dir: str | None) -> pathlib.Path | None:
  """Returns the folder of a set's highest prepared version, or None."""
  found = [info.parent for info in (root(data_dir) / name).glob(f'*/{INFO}')]
  return max(found, key=_version, default=None)


def folder(name: str, data_dir: str | None) -> pathlib.Path:
  """Returns the folder of a set's highest prepared version.

  Args:
    name: a key of ``SPECS``.
    data_dir: the folder of all sets; None for that of tensorflow-datasets.

  Raises:
    NotPreparedError: if there is none that can be read without TensorFlow.
  """
  found = find(name, data_dir)
  if found is None:
    remedy = how_to_prepare(name, data_dir)
    if any(root(data_dir).glob(f'*/{INFO}')):  # that of one set was given
      remedy = f'give the folder above, {root(data_dir).parent}'
    raise NotPreparedError(
      f'{name} prepared in {root(data_dir) / name}',
      'no such folder',
      remedy,
    )
  if not any(found.glob('*.array_record*')):
    raise NotPreparedError(
      f'{name} in the format array_record in {found}',
      'another format',
      f'delete that folder or choose another data_dir, then '
      f'{how_to_prepare(name, data_dir)}',
    )
  return found


def check(name: str, data_dir: str | None) -> None:
  """Raises NotPreparedError if a set has yet to be prepared."""
  if SPECS[name].files:  # DIGITS needs none; see ``digits``
    folder(name, data_dir)


def how_to_prepare(name: str, data_dir: str | None) -> str:
  """Returns which files to put where, and the command to run."""
  where = '' if data_dir is None else f' --data_dir={data_dir}'
  return (
    f'put {files(name)} in a folder and run python -m experiments.prepare '
    f'--dataset={name} --manual_dir=FOLDER{where}'
  )


def files(name: str) -> str:
  """Returns the names of a set's raw files, as one phrase."""
  *others, last = SPECS[name].files or ('nothing',)
  return f'{", ".join(others)} and {last}' if others else last


def _version(path: pathlib.Path) -> tuple[int, ...]:
  """Of ``3.0.1``; names that are no version come first."""
  parts = path.name.split('.')
  return tuple(int(p) for p in parts) if all(map(str.isdigit, parts)) else ()
