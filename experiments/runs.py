"""A run's folder: what was asked, with what versions, and what came out.

  config.json     the configuration with every key
  versions.json   Python, packages, platform, devices and git commit
  metrics.jsonl   one line per logged step, complete lines only
  result.json     the last numbers and how the run ended
  curves.png      the figure; a comparison also has results.md, and the study
                  of the levels results.md and levels.png in its place

Numbers that are not finite are written as null.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import subprocess
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections

from experiments import validation

FILES = (
  'config.json',
  'versions.json',
  'metrics.jsonl',
  'result.json',
  'results.md',
  'curves.png',
  'levels.png',
)
_PACKAGES = (
  'gtddp-jax',
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'numpy',
  'scikit-learn',
  'ml_collections',
)


@dataclasses.dataclass(frozen=True)
class RunFolder:
  """A folder that holds one run."""

  path: pathlib.Path

  def file(self, name: str) -> pathlib.Path:
    """Returns the path of one of ``FILES``.

    Args:
      name: of the file.

    Returns:
      Its path.

    Raises:
      ValueError: if a run has no such file.
    """
    if name not in FILES:
      raise ValueError(
        f'{name}: expected one of {", ".join(FILES)}; add it to runs.FILES, '
        f'so that --overwrite removes it.'
      )
    return self.path / name

  def write_text(self, name: str, text: str) -> None:
    """Writes a whole file, or leaves what was there."""
    target = self.file(name)
    temporary = target.with_suffix('.part')
    temporary.write_text(text, encoding='utf-8')
    temporary.replace(target)

  def write_json(self, name: str, value: Any) -> None:
    """Writes a JSON file, or leaves what was there."""
    text = json.dumps(_plain(value), indent=2, allow_nan=False)
    self.write_text(name, text + '\n')

  def log(self, row: Mapping[str, Any]) -> None:
    """Adds a line to metrics.jsonl."""
    line = json.dumps(_plain(row), allow_nan=False) + '\n'
    with self.file('metrics.jsonl').open('a', encoding='utf-8') as stream:
      stream.write(line)

  def rows(self) -> list[dict[str, Any]]:
    """Reads metrics.jsonl."""
    text = self.file('metrics.jsonl').read_text(encoding='utf-8')
    return [json.loads(line) for line in text.splitlines()]


def resumes(path: pathlib.Path, config: ml_collections.ConfigDict) -> bool:
  """Returns whether a folder holds a run of this very config."""
  try:
    held = json.loads((path / 'config.json').read_text(encoding='utf-8'))
  except (OSError, ValueError):
    return False
  asked = json.loads(json.dumps(_plain(config.to_dict())))
  return bool(held == asked and (path / 'metrics.jsonl').is_file())


def check(path: pathlib.Path, overwrite: bool) -> None:
  """Refuses a folder that holds something.

  Args:
    path: of the folder, which need not exist.
    overwrite: whether an earlier run in it may be replaced.

  Raises:
    ConfigError: if the folder cannot be used.
  """
  if path.exists() and not path.is_dir():
    raise validation.ConfigError(
      '--workdir', 'a folder', f'the file {path}', 'choose another'
    )
  if path.is_dir() and any(path.iterdir()) and not overwrite:
    raise validation.ConfigError(
      '--workdir',
      'a new or empty folder',
      f'{path}, which holds files',
      'choose another, or add --overwrite to replace the run in it',
    )


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
  check(path, overwrite)
  folder = RunFolder(path)
  try:
    path.mkdir(parents=True, exist_ok=True)
    for name in FILES:
      folder.file(name).unlink(missing_ok=True)
    folder.write_json('config.json', config.to_dict())
    folder.write_json('versions.json', versions())
    folder.file('metrics.jsonl').touch()
  except OSError as error:
    raise validation.ConfigError(
      '--workdir',
      'a folder that can be written',
      f'{path} ({error.strerror})',
      'choose another',
    ) from error
  return folder


def versions() -> dict[str, Any]:
  """Returns what the numbers of a run may depend on, beside its config."""
  devices = jax.devices()
  return {
    'python': platform.python_version(),
    'packages': {name: _version(name) for name in _PACKAGES},
    'platform': platform.platform(),
    'cpus': os.cpu_count(),
    'devices': [device.device_kind for device in devices],
    'backend': devices[0].platform,
    'git_commit': _git('rev-parse', 'HEAD'),
    'git_changed_files': (_git('status', '--porcelain') or '').splitlines(),
  }


def _version(package: str) -> str | None:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def _git(*arguments: str) -> str | None:
  """The output of a git command here, or None where there is no git."""
  root = pathlib.Path(__file__).parent
  try:
    done = subprocess.run(
      ['git', *arguments], cwd=root, capture_output=True, text=True, check=True
    )
  except (OSError, subprocess.CalledProcessError):
    return None
  return done.stdout.strip()


def _plain(value: Any) -> Any:
  """The same in JSON's own types."""
  match value:
    case Mapping():
      return {str(key): _plain(item) for key, item in value.items()}
    case list() | tuple():
      return [_plain(item) for item in value]
    case float() if not math.isfinite(value):
      return None
    case _:
      return value
