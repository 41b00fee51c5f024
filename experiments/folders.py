"""Which folder a run may use: a new one, or its own to go on in."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any

import ml_collections

from experiments import conditions

FILES = (
  'config.json',
  'versions.json',
  'metrics.jsonl',
  'result.json',
  'results.md',
  'curves.png',
  'levels.png',
  'games.png',
  'scaling.png',
  'ratios.png',
  'blocks.png',
  'masses.png',
  'placement.png',
  'variance.png',
  'targets.png',
  'analysis.json',
  'updates.png',
  'spectra.png',
  'gains.png',
  'feedback.png',
  'pairs.png',
)
FOLDERS = ('checkpoints', 'tensorboard')
_LOCK = 'run.lock'
_ABSENT = 'absent'


def resumes(path: pathlib.Path, config: ml_collections.ConfigDict) -> bool:
  """Returns whether a folder holds a run of this very config."""
  held = _config_in(path)
  return held is not None and not difference(held, plain(config.to_dict()))


def difference(held: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
  """Returns the first key in which two configs differ, with both values.

  Args:
    held: of a run that exists, from JSON.
    asked: of the command, made ``plain``.

  Returns:
    Such as ``config.seed 0 (asked for: 1)``; empty if they are equal.
  """
  theirs, ours = flat(held), flat(asked)
  for key in sorted({*theirs, *ours}):
    if theirs.get(key, _ABSENT) != ours.get(key, _ABSENT):
      return (
        f'{key} {theirs.get(key, _ABSENT)!r} (asked for: '
        f'{ours.get(key, _ABSENT)!r})'
      )
  return ''


def check(
  path: pathlib.Path,
  overwrite: bool,
  config: ml_collections.ConfigDict | None = None,
) -> None:
  """Refuses a folder that holds something.

  Args:
    path: of the folder, which need not exist.
    overwrite: whether an earlier run in it may be replaced.
    config: of a program that would go on with a run of the same config.

  Raises:
    ConfigError: if the folder cannot be used.
  """
  if path.exists() and not path.is_dir():
    raise conditions.ConfigError(
      '--workdir', 'a folder', f'the file {path}', 'choose another'
    )
  if not path.is_dir():
    return
  if overwrite:
    _check_ours(path)
    return
  held = _config_in(path) if config is not None else None
  if config is not None and held is not None:
    if other := difference(held, plain(config.to_dict())):
      raise conditions.ConfigError(
        '--workdir',
        'a new folder, or one with a run of this config',
        f'{path}, whose run has {other}',
        'choose another, or add --overwrite to replace the run in it',
      )
  elif not _is_new(path):
    raise conditions.ConfigError(
      '--workdir',
      'a new or empty folder',
      f'{path}, which holds files',
      'choose another, or add --overwrite to replace the run in it',
    )


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
  """Makes a folder if need be, and keeps other programs out of it.

  The lock goes when the process ends, however it ends. What was made for it
  goes, too, if nothing else was put there.

  Args:
    path: of the folder.

  Raises:
    ConfigError: if another program works in it, or it cannot be written.
  """
  file = path / _LOCK
  made, ours = absent(path), not file.exists()
  with contextlib.ExitStack() as stack:
    try:
      path.mkdir(parents=True, exist_ok=True)
      stream = stack.enter_context(file.open('a'))
    except OSError as error:
      raise unwritable(path, error) from error
    try:
      fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
      if not _same(stream, file):
        raise BlockingIOError  # Its holder has just taken it away.
    except OSError as error:
      raise conditions.ConfigError(
        '--workdir',
        'a folder that no other program works in',
        f'{path}, which is locked',
        'wait for the other to end, or choose another folder',
      ) from error
    try:
      yield
    finally:
      with contextlib.suppress(OSError):
        if ours and [*path.iterdir()] == [file]:
          file.unlink()
          remove_empty(made)


def _same(stream: IO[str], file: pathlib.Path) -> bool:
  """Whether an open file is still the one of that name."""
  with contextlib.suppress(FileNotFoundError):
    return os.path.samestat(os.fstat(stream.fileno()), file.stat())
  return False


def absent(path: pathlib.Path) -> list[pathlib.Path]:
  """Returns what of a path does not exist, the folder itself first."""
  return [part for part in (path, *path.parents) if not part.exists()]


def remove_empty(paths: Iterable[pathlib.Path]) -> None:
  """Removes folders up to the first that is not empty."""
  with contextlib.suppress(OSError):
    for path in paths:
      path.rmdir()


def wait_for(path: pathlib.Path, say: Callable[[str], None]) -> None:
  """Waits until no program works in a folder.

  Args:
    path: of the folder.
    say: told once if there is one.

  Raises:
    ConfigError: if the folder cannot be written.
  """
  told = False
  while True:
    try:
      with locked(path):
        return
    except conditions.ConfigError as error:
      if not isinstance(error.__cause__, BlockingIOError):
        raise
    if not told:
      say(f'waiting for another program to leave {path}')
      told = True
    time.sleep(0.1)


def write(path: pathlib.Path, text: str) -> None:
  """Writes a whole file, or leaves what was there."""
  part = path.with_suffix('.part')
  part.write_text(text, encoding='utf-8')
  part.replace(path)


def cause(error: BaseException) -> BaseException | None:
  """Returns what an error was raised from, or while what was handled."""
  hidden = error.__suppress_context__
  return error.__cause__ or (None if hidden else error.__context__)


def one_line(error: BaseException) -> str:
  """Returns the name of an error, and what it says, cut after 200 letters."""
  return f'{type(error).__name__} ({" ".join(str(error).split())[:200]})'


def not_of_the_files(error: BaseException) -> str | None:
  """What to do about an error of reading that tells nothing of what is read.

  Args:
    error: as it was caught; its causes are looked at too.

  Returns:
    The remedy; None if what was read may be damaged.
  """
  whole: BaseException | None = error
  while whole is not None:
    match whole:
      case ImportError():
        return f'install {whole.name or "what is missing"}'
      case PermissionError():
        return 'let it be read'
      case MemoryError():
        return 'free memory'
      case OSError(errno=errno.EMFILE | errno.ENFILE):
        return 'allow more open files'
    if 'RESOURCE_EXHAUSTED' in str(whole):
      return 'free memory of the device'
    whole = cause(whole)
  return None


def unwritable(path: pathlib.Path, error: OSError) -> conditions.ConfigError:
  """Returns the refusal of a folder in which a file could not be written."""
  return conditions.ConfigError(
    '--workdir',
    'a folder that can be written',
    f'{path} ({error.strerror})',
    'choose another',
  )


def _check_ours(path: pathlib.Path) -> None:
  """Refuses to replace folders that no run has made."""
  for name in FOLDERS:
    if (path / name).exists() and _config_in(path) is None:
      raise conditions.ConfigError(
        '--overwrite',
        'a folder with a run in it',
        f'{path / name} without a config.json beside it',
        'choose another --workdir, or delete it by hand',
      )


def _is_new(path: pathlib.Path) -> bool:
  """Whether there is nothing but what ``create`` may have left unfinished."""
  begun = {_LOCK, 'metrics.jsonl', 'versions.json'}
  begun |= {str(pathlib.Path(name).with_suffix('.part')) for name in FILES}
  names = {child.name for child in path.iterdir()}
  log = path / 'metrics.jsonl'
  return names <= begun and not (log.exists() and log.stat().st_size)


def _config_in(path: pathlib.Path) -> Any:
  """The config of the run in a folder; None if there is none."""
  with contextlib.suppress(OSError, ValueError):
    held = json.loads((path / 'config.json').read_text(encoding='utf-8'))
    return held if isinstance(held, dict) else None
  return None


def flat(config: Mapping[str, Any], path: str = 'config') -> dict[str, Any]:
  """The values by path; a tuple is what JSON makes of it."""
  found: dict[str, Any] = {}
  for key, value in config.items():
    if isinstance(value, Mapping):
      found |= flat(value, f'{path}.{key}')
    else:
      found[f'{path}.{key}'] = value
  return found


def plain(value: Any) -> Any:
  """Returns the same in JSON's own types."""
  match value:
    case Mapping():
      return {str(key): plain(item) for key, item in value.items()}
    case list() | tuple():
      return [plain(item) for item in value]
    case float() if not math.isfinite(value):
      return None
    case _:
      return value
