"""Reads prepared sets into memory, once from their records, then from a cache.

The cache lies in the folder of the prepared set and goes with it. Reading it
needs neither tensorflow-datasets nor array_record.
"""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import tempfile

import numpy as np

from experiments import refusals
from experiments.data import catalog

_CACHE = 'arrays'  # a folder of .npy files in that of the prepared set
_CHUNK = 1000  # records at once
_SPLITS = ('train', 'test')
_AGAIN = 'prepare it again from the published files'

Arrays = dict[str, tuple[np.ndarray, np.ndarray]]


def splits(name: str, data_dir: str | None) -> Arrays:
  """Returns images ``[N, H, W, C]``, uint8, and labels ``[N]``, int32.

  Of the splits ``train`` and ``test`` of ``catalog.folder``, in the order of
  the records, which is the same wherever the set was prepared.

  Raises:
    NotPreparedError: if the set is absent or not whole.
  """
  folder = catalog.folder(name, data_dir)
  cache = folder / _CACHE
  at_hand = cache.exists()
  source, read = (cache, _load) if at_hand else (folder, _read)
  try:
    arrays = {split: read(source, split) for split in _SPLITS}
  except Exception as error:  # The libraries that read raise all kinds.
    if outside := refusals.not_of_the_files(error):
      raise catalog.NotPreparedError(
        f'to read {source}', refusals.one_line(error), outside
      ) from error
    remedy = 'it is then made again' if at_hand else _AGAIN
    raise catalog.NotPreparedError(
      f'files that can be read in {source}',
      f'a damaged one ({type(error).__name__})',
      f'delete that folder{"; " if at_hand else " and "}{remedy}',
    ) from error
  _check(name, folder, arrays)
  if not cache.exists():
    # A folder of others may be read-only: then each run reads the records.
    with contextlib.suppress(OSError):
      _write(cache, arrays)
  return arrays


def _read(folder: pathlib.Path, split: str) -> tuple[np.ndarray, np.ndarray]:
  """Decodes all records of a split."""
  import tensorflow_datasets as tfds  # half a second that the cache spares

  builder = tfds.builder_from_directory(folder)
  source = builder.as_data_source(split)
  shape = builder.info.features['image'].shape
  images = np.empty((len(source), *shape), np.uint8)
  labels = np.empty(len(source), np.int32)
  for first in range(0, len(source), _CHUNK):
    rows = range(first, min(first + _CHUNK, len(source)))
    for row, record in zip(rows, source.__getitems__(rows), strict=True):
      images[row], labels[row] = record['image'], record['label']
  return images, labels


def _load(cache: pathlib.Path, split: str) -> tuple[np.ndarray, np.ndarray]:
  images, labels = (
    np.load(cache / f'{split}_{part}.npy') for part in ('images', 'labels')
  )
  return images, labels


def _write(cache: pathlib.Path, arrays: Arrays) -> None:
  """Writes the cache: whole or not at all, also beside another writer."""
  scratch = pathlib.Path(tempfile.mkdtemp(prefix='.arrays-', dir=cache.parent))
  try:
    for split, (images, labels) in arrays.items():
      np.save(scratch / f'{split}_images.npy', images)
      np.save(scratch / f'{split}_labels.npy', labels)
    scratch.chmod(cache.parent.stat().st_mode)
    scratch.rename(cache)
  finally:
    shutil.rmtree(scratch, ignore_errors=True)


def _check(name: str, folder: pathlib.Path, arrays: Arrays) -> None:
  """The set has the shapes and values of the catalog."""
  spec = catalog.SPECS[name]
  for split, count in (('train', spec.train), ('test', spec.test)):
    images, labels = arrays[split]
    if images.shape != (count, *spec.shape) or labels.shape != (count,):
      raise catalog.NotPreparedError(
        f'{name} with {split} images of shape {(count, *spec.shape)} in '
        f'{folder}',
        f'{images.shape}',
        f'delete that folder and {_AGAIN}',
      )
    wrong = _wrong_values(images, labels, spec.classes)
    if wrong:
      raise catalog.NotPreparedError(
        f'{name} with uint8 pixels and labels from 0 to {spec.classes - 1} in '
        f'{folder}',
        f'{split} {wrong}',
        f'delete that folder and {_AGAIN}',
      )


def _wrong_values(images: np.ndarray, labels: np.ndarray, classes: int) -> str:
  """What is wrong with pixels or labels, if anything."""
  if images.dtype != np.uint8:
    missing = 0
    if np.issubdtype(images.dtype, np.inexact):
      missing = int(np.count_nonzero(~np.isfinite(images)))
    return f'pixels of type {images.dtype}, {missing} of them nan or inf'
  if labels.dtype != np.int32:
    return f'labels of type {labels.dtype}'
  outside = labels[(labels < 0) | (labels >= classes)]
  return f'label {outside[0]}' if outside.size else ''
