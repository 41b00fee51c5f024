"""A run's folder: what was asked, with what versions, and what came out.

  config.json     the configuration with every key
  versions.json   Python, packages, platform, devices and git commit
  metrics.jsonl   one line per logged step, complete lines only
  result.json     the last numbers and how the run ended
  results.md      the report; it ends with how it was made. Its figures are
                  the files *.png
  checkpoints/    of a training: see ``checkpoints``
  tensorboard/    of a training: the numbers of metrics.jsonl
  run.lock        locked while a program works in the folder

Numbers that are not finite are written as null.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import pathlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from configs import schema
from configs.schema import Config
from experiments import refusals
from experiments.report import tables
from experiments.runs import comparison, locks, provenance, versions

FILES = (
  'config.json',
  'versions.json',
  'metrics.jsonl',
  'result.json',
  'results.md',
  'curves.png',
)
FOLDERS = ('checkpoints', 'tensorboard')


@dataclasses.dataclass(frozen=True)
class RunFolder:
  """A folder that holds one run."""

  path: pathlib.Path  # of the folder
  # that works in it, as typed; None where it was called from Python
  command: str | None = None
  files: tuple[str, ...] = ()  # that its program writes, beside ``FILES``
  # of the config that its program brings, by their names
  sections: Mapping[str, schema.Section] | None = None

  def file(self, name: str) -> pathlib.Path:
    """Returns the path of one of ``FILES``, or of its own.

    Raises ValueError if a run has no such file.
    """
    if name not in (*FILES, *self.files):
      raise ValueError(
        f'{name}: expected one of {", ".join((*FILES, *self.files))}; add it '
        f'to the files of the command, so that --overwrite removes it.'
      )
    return self.path / name

  def folder(self, name: str) -> pathlib.Path:
    """Returns the path of one of ``FOLDERS``."""
    if name not in FOLDERS:
      raise ValueError(
        f'{name}: expected one of {", ".join(FOLDERS)}; add it to '
        f'run_folder.FOLDERS, so that --overwrite removes it.'
      )
    return self.path / name

  def write_text(self, name: str, text: str) -> None:
    """Writes a whole file, or leaves what was there."""
    write(self.file(name), text)

  def write_json(self, name: str, value: Any) -> None:
    """Writes a JSON file, or leaves what was there."""
    text = json.dumps(comparison.plain(value), indent=2, allow_nan=False)
    self.write_text(name, text + '\n')

  def write_report(
    self, text: str, seeds: Sequence[int] = (), short: Sequence[str] = ()
  ) -> None:
    """Writes results.md: what came out, in short too, and how.

    Args:
      text: Markdown.
      seeds: of the runs; empty where nothing is random.
      short: the same in a few sentences; see ``provenance.with_short`` and, for
        the page's end, its ``section``.
    """
    held, config = (
      json.loads(self.file(name).read_text(encoding='utf-8'))
      for name in ('versions.json', 'config.json')
    )
    page = provenance.with_short(text, short)
    made = provenance.section(self.command, seeds, held, config, self.sections)
    self.write_text('results.md', f'{page.rstrip()}\n\n{made}')

  def write_tables(
    self,
    shown: Sequence[tuple[Sequence[tables.Column], str]],
    seeds: Sequence[int] = (),
    short: Sequence[str] = (),
  ) -> None:
    """Writes a report of tables with their captions; see ``write_report``."""
    pages = itertools.starmap(tables.markdown, shown)
    self.write_report('\n'.join(pages), seeds, short)

  def log(self, row: Mapping[str, Any]) -> None:
    """Adds a whole line to metrics.jsonl, or leaves those that are there."""
    line = json.dumps(comparison.plain(row), allow_nan=False) + '\n'
    left = memoryview(line.encode())
    with self.file('metrics.jsonl').open('r+b', buffering=0) as stream:
      end = _end_of_lines(stream)
      try:
        while left:  # a disk that fills takes a part before it refuses
          left = left[stream.write(left) :]
      except OSError:
        stream.truncate(end)
        raise

  def log_anew(self, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replaces the lines of metrics.jsonl."""
    lines = [
      json.dumps(comparison.plain(row), allow_nan=False) + '\n' for row in rows
    ]
    self.write_text('metrics.jsonl', ''.join(lines))

  def rows(self) -> list[dict[str, Any]]:
    """Reads the whole lines of metrics.jsonl."""
    text = self.file('metrics.jsonl').read_text(encoding='utf-8')
    whole, _, _ = text.rpartition('\n')
    return [json.loads(line) for line in whole.splitlines()]

  def result(self) -> Any:
    """Reads result.json; None if there is none."""
    return read_json(self.file('result.json'))


def create(
  path: pathlib.Path,
  config: Config,
  overwrite: bool,
  files: tuple[str, ...] = (),
) -> RunFolder:
  """Makes the folder of a run and writes what is known before it.

  Args:
    path: of the folder.
    config: of the run.
    overwrite: whether to remove the files of an earlier run. No other file is
      touched.
    files: that its program writes, beside ``FILES``.

  Raises:
    ConfigError: if the folder cannot be used.
  """
  check(path, overwrite)
  folder = RunFolder(path, files=files)
  try:
    path.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    folder.file('metrics.jsonl').touch()
    folder.write_json(
      'versions.json', {**versions.versions(), 'files': list(files)}
    )
    # Last: with it, the folder holds a run that can be gone on with.
    folder.write_json('config.json', config.to_dict())
  except OSError as error:
    raise refusals.unwritable(path, error) from error
  return folder


def remove_unused(folder: RunFolder) -> None:
  """Removes the files of a run that was refused before it logged anything."""
  with contextlib.suppress(OSError, ValueError):
    if not folder.rows():
      _clear(folder)


def _end_of_lines(stream: io.FileIO) -> int:
  """Where the last whole line ends; what a kill left after it is cut off."""
  end = stream.seek(0, io.SEEK_END)
  while end:
    stream.seek(end - 1)
    if stream.read(1) == b'\n':
      break
    end -= 1
  stream.truncate(end)
  return stream.seek(end)


def _clear(folder: RunFolder) -> None:
  """Removes what this program writes, and what the one before it wrote."""
  made = read_json(folder.file('versions.json')) or {}
  held = [pathlib.Path(name).name for name in made.get('files', ())]
  for name in FOLDERS:
    shutil.rmtree(folder.folder(name), ignore_errors=True)
  # config.json last: until then, a run.
  for name in (*held, *folder.files, *reversed(FILES)):
    (folder.path / name).unlink(missing_ok=True)


def resumes(path: pathlib.Path, config: Config) -> bool:
  """Returns whether a folder holds a run of this very config."""
  held = _config_in(path)
  return held is not None and not comparison.difference(
    held, comparison.plain(config.to_dict())
  )


def check(
  path: pathlib.Path,
  overwrite: bool,
  config: Config | None = None,
) -> None:
  """Refuses a folder that holds something.

  Args:
    path: of the folder, which need not exist.
    overwrite: whether an earlier run in it may be replaced.
    config: of a program that would go on with a run of the same config.
  """
  if path.exists() and not path.is_dir():
    raise refusals.ConfigError(
      '--workdir', 'a folder', f'the file {path}', 'choose another'
    )
  if not path.is_dir():
    return
  if overwrite:
    for name in FOLDERS:  # those that no run has made are not replaced
      if (path / name).exists() and _config_in(path) is None:
        raise refusals.ConfigError(
          '--overwrite',
          'a folder with a run in it',
          f'{path / name} without a config.json beside it',
          'choose another --workdir, or delete it by hand',
        )
    return
  held = _config_in(path) if config is not None else None
  if config is not None and held is not None:
    if other := comparison.difference(held, comparison.plain(config.to_dict())):
      raise refusals.ConfigError(
        '--workdir',
        'a new folder, or one with a run of this config',
        f'{path}, whose run has {other}',
        'choose another, or add --overwrite to replace the run in it',
      )
  elif not _is_new(path):
    raise refusals.ConfigError(
      '--workdir',
      'a new or empty folder',
      f'{path}, which holds files',
      'choose another, or add --overwrite to replace the run in it',
    )


def read_json(path: pathlib.Path) -> Any:
  """Returns what a JSON file holds; None if it cannot be read."""
  with contextlib.suppress(OSError, ValueError):
    return json.loads(path.read_text(encoding='utf-8'))
  return None


def write(path: pathlib.Path, text: str) -> None:
  """Writes a whole file, or leaves what was there."""
  part = path.with_suffix('.part')
  part.write_text(text, encoding='utf-8')
  part.replace(path)


def _is_new(path: pathlib.Path) -> bool:
  """Whether there is nothing but what ``create`` may have left unfinished."""
  begun = {locks.FILE, 'metrics.jsonl', 'versions.json'}
  begun |= {'versions.part', 'config.part'}
  names = {child.name for child in path.iterdir()}
  log = path / 'metrics.jsonl'
  return names <= begun and not (log.exists() and log.stat().st_size)


def _config_in(path: pathlib.Path) -> Any:
  """The config of the run in a folder; None if there is none."""
  held = read_json(path / 'config.json')
  return held if isinstance(held, dict) else None
