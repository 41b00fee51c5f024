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
import json
import pathlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_collections

from experiments import folders, how, versions


@dataclasses.dataclass(frozen=True)
class RunFolder:
  """A folder that holds one run.

  Attributes:
    path: of the folder.
    command: that works in it, as typed; None where it was called from Python.
  """

  path: pathlib.Path
  command: str | None = None

  def file(self, name: str) -> pathlib.Path:
    """Returns the path of one of ``folders.FILES``.

    Args:
      name: of the file.

    Returns:
      Its path.

    Raises:
      ValueError: if a run has no such file.
    """
    if name not in folders.FILES:
      raise ValueError(
        f'{name}: expected one of {", ".join(folders.FILES)}; add it to '
        f'folders.FILES, so that --overwrite removes it.'
      )
    return self.path / name

  def folder(self, name: str) -> pathlib.Path:
    """Returns the path of one of ``folders.FOLDERS``."""
    if name not in folders.FOLDERS:
      raise ValueError(
        f'{name}: expected one of {", ".join(folders.FOLDERS)}; add it to '
        f'folders.FOLDERS, so that --overwrite removes it.'
      )
    return self.path / name

  def write_text(self, name: str, text: str) -> None:
    """Writes a whole file, or leaves what was there."""
    folders.write(self.file(name), text)

  def write_json(self, name: str, value: Any) -> None:
    """Writes a JSON file, or leaves what was there."""
    text = json.dumps(folders.plain(value), indent=2, allow_nan=False)
    self.write_text(name, text + '\n')

  def write_report(
    self, text: str, seeds: Sequence[int] = (), short: Sequence[str] = ()
  ) -> None:
    """Writes results.md: what came out, in short too, and how.

    Args:
      text: Markdown.
      seeds: of the runs; empty where nothing is random.
      short: the same in a few sentences, without line breaks; see
        ``how.with_short`` and, for the end of the page, ``how.section``.
    """
    held, config = (
      json.loads(self.file(name).read_text(encoding='utf-8'))
      for name in ('versions.json', 'config.json')
    )
    page = how.with_short(text, short)
    made = how.section(self.command, seeds, held, config)
    self.write_text('results.md', f'{page.rstrip()}\n\n{made}')

  def log(self, row: Mapping[str, Any]) -> None:
    """Adds a whole line to metrics.jsonl, or leaves those that are there."""
    line = json.dumps(folders.plain(row), allow_nan=False) + '\n'
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
      json.dumps(folders.plain(row), allow_nan=False) + '\n' for row in rows
    ]
    self.write_text('metrics.jsonl', ''.join(lines))

  def rows(self) -> list[dict[str, Any]]:
    """Reads the whole lines of metrics.jsonl."""
    text = self.file('metrics.jsonl').read_text(encoding='utf-8')
    whole, _, _ = text.rpartition('\n')
    return [json.loads(line) for line in whole.splitlines()]

  def result(self) -> Any:
    """Reads result.json; None if there is none."""
    with contextlib.suppress(OSError, ValueError):
      return json.loads(self.file('result.json').read_text(encoding='utf-8'))
    return None


def create(
  path: pathlib.Path, config: ml_collections.ConfigDict, overwrite: bool
) -> RunFolder:
  """Makes the folder of a run and writes what is known before it.

  Args:
    path: of the folder.
    config: of the run.
    overwrite: whether to remove the files of an earlier run. No other file is
      touched.

  Returns:
    The folder.

  Raises:
    ConfigError: if the folder cannot be used.
  """
  folders.check(path, overwrite)
  folder = RunFolder(path)
  try:
    path.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    folder.file('metrics.jsonl').touch()
    folder.write_json('versions.json', versions.versions())
    # Last: with it, the folder holds a run that can be gone on with.
    folder.write_json('config.json', config.to_dict())
  except OSError as error:
    raise folders.unwritable(path, error) from error
  return folder


def remove_unused(folder: RunFolder) -> None:
  """Removes the files of a run that was refused before it logged anything.

  Args:
    folder: as ``create`` made it.
  """
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
  for name in folders.FOLDERS:
    shutil.rmtree(folder.folder(name), ignore_errors=True)
  for name in reversed(folders.FILES):  # config.json last: until then, a run
    folder.file(name).unlink(missing_ok=True)
