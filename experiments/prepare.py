"""Prepares a data set for `experiments.train`, from files that lie in a folder.

::

    python -m experiments.prepare --dataset=mnist --manual_dir=FOLDER

Nothing is downloaded unless --download says so. Exit codes are those of `cli`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import pathlib
import re
import sys
import tempfile
import time
from collections.abc import Sequence

from absl import logging

from experiments import refusals
from experiments.data import catalog, prepared
from experiments.runs import cli, flags, locks


class PrepareError(refusals.Refused, ValueError):
  """A flag with which a set cannot be prepared.

  ::

    prepare('mnist', manual_dir='empty')
  """


def prepare(
  name: str,
  manual_dir: str | None = None,
  data_dir: str | None = None,
  verify: bool = True,
  download: bool = False,
) -> pathlib.Path:
  """Prepares a set and its cache, unless they are there; returns its folder.

  Args:
    name: a key of ``catalog.SPECS``.
    manual_dir: the folder of the published files.
    data_dir: the folder of all sets; None for that of tensorflow-datasets.
    verify: whether the files must have the published checksums.
    download: whether to download what ``manual_dir`` lacks.

  Raises:
    PrepareError: if files are absent, or not the published ones.
    NotPreparedError: if the files do not hold the whole set.
  """
  if catalog.find(name, data_dir) is None:
    if not (download and (verify or manual_dir is None)):
      _check_files(name, manual_dir, verify)
    _build(name, manual_dir, catalog.root(data_dir), verify, download)
  prepared.splits(name, data_dir)
  return catalog.folder(name, data_dir)


def _check_files(name: str, manual_dir: str | None, verify: bool) -> None:
  """All published files are there."""
  if manual_dir is None:
    missing = [*catalog.SPECS[name].files]
    got, where = 'none', 'in a folder and name it with --manual_dir=FOLDER'
  else:
    folder = pathlib.Path(manual_dir)
    missing = [
      f for f in catalog.SPECS[name].files if not (folder / f).exists()
    ]
    got, where = f'{manual_dir} without {", ".join(missing)}', 'there'
    if not folder.is_dir():
      got = f'{manual_dir}, which is no folder'
  if missing:
    fetch = '' if verify else 'leave out --noverify and '
    raise PrepareError(
      f'--manual_dir: expected a folder with {catalog.files(name)}, got {got}; '
      f'put the published files {where}, or {fetch}let --download fetch them.'
    )


def _build(
  name: str,
  manual_dir: str | None,
  root: pathlib.Path,
  verify: bool,
  download: bool,
) -> None:
  """Runs the builder; silently, unless it may download."""
  import tensorflow_datasets as tfds

  from experiments.data import builders

  if not download:
    tfds.disable_progress_bar()
  made = locks.absent(root / name)
  builder = builders.BUILDERS[name](data_dir=root)
  if not verify and manual_dir is not None:
    builder.unchecked = pathlib.Path(manual_dir)
  with (
    tempfile.TemporaryDirectory() as scratch,
    contextlib.redirect_stdout(io.StringIO()),
  ):
    try:
      builder.download_and_prepare(
        file_format='array_record',
        download_dir=root / 'downloads' if download else scratch,
        download_config=tfds.download.DownloadConfig(
          manual_dir=manual_dir,
          try_download_gcs=False,
          force_checksums_validation=verify,
        ),
      )
    except Exception as error:  # Of the network, and of what parses.
      locks.remove_empty(made)
      raise PrepareError(_reason(name, root, error)) from error


def _reason(name: str, root: pathlib.Path, error: Exception) -> str:
  """Says why a builder has failed."""
  from tensorflow_datasets.core.download import download_manager

  from experiments.data import builders

  whole: BaseException | None = error
  while whole and not isinstance(whole, builders.RawFileError):
    whole = refusals.cause(whole)
  if whole is not None:
    return (
      f'--manual_dir: expected whole files of {name}, got one that cannot be '
      f'read: {str(whole).splitlines()[-1]}; replace it by the published file.'
    )
  if isinstance(error, download_manager.NonMatchingChecksumError):
    wrong = re.search(r'downloaded to (.+), has wrong', str(error))
    return (
      f'--manual_dir: expected the published files of {name}, got '
      f'{wrong[1] if wrong else "one"} with another checksum; replace it, '
      f'or use it as it is with --noverify.'
    )
  if isinstance(error, ImportError):
    return (
      f'--dataset={name}: expected the packages that write it, got '
      f'{refusals.one_line(error)}; {refusals.not_of_the_files(error)}.'
    )
  if isinstance(error, OSError):  # of the network, too
    return (
      f'--dataset={name}: expected to read its files and to write in {root}, '
      f'got {type(error).__name__} ({str(error).splitlines()[0]}); put all '
      f'files in --manual_dir, or choose another --data_dir.'
    )
  return (
    f'--manual_dir: expected whole files of {name}, got one that does not hold '
    f'it ({type(error).__name__}); replace {catalog.files(name)} by the '
    f'published files.'
  )


def parse(argv: Sequence[str]) -> argparse.Namespace:
  """Returns the values of the flags; refuses a data set that there is not."""
  parser = flags.Flags(__doc__)
  names = ', '.join(catalog.SPECS)
  parser.value('dataset', f'one of {names}')
  parser.value('manual_dir', 'folder of the published files')
  parser.value(
    'data_dir', 'folder of the prepared sets; as config.dataset.data_dir'
  )
  parser.switch(
    'verify',
    'refuse files whose checksums are not the published ones; without, files '
    'that were packed again can be used, and nothing says what is in them',
    usual=True,
  )
  parser.switch('download', 'download what --manual_dir lacks')
  values = parser.read(argv)
  if values.dataset not in catalog.SPECS:
    got = 'none' if values.dataset is None else repr(values.dataset)
    raise refusals.ConfigError('--dataset', f'one of {names}', got, 'give one')
  return values


def main(argv: Sequence[str]) -> None:
  """Prepares what the command line says; may exit."""
  logging.set_verbosity(logging.ERROR)
  begin = time.perf_counter()
  with cli.refusing():
    values = parse(argv)
    name, data_dir = values.dataset, values.data_dir
    if not catalog.SPECS[name].files and data_dir is None:
      cli.say(f'{name} needs no preparation: it comes with scikit-learn')
      return
    before = catalog.find(name, data_dir)
    folder = prepare(
      name, values.manual_dir, data_dir, values.verify, values.download
    )
  if before is not None:
    cli.say(f'{name} was prepared already, in {folder}')
    return
  seconds = time.perf_counter() - begin
  cli.say(f'{name} is prepared in {folder} ({seconds:.0f} s)')


if __name__ == '__main__':
  main(sys.argv)
