"""One program at a time in a folder: a lock that goes with its process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import IO

from experiments import refusals

FILE = 'run.lock'


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
  """Makes a folder if need be, and keeps other programs out of it.

  The lock goes when the process ends, however it ends. What was made for it
  goes, too, if nothing else was put there.

  Raises:
    ConfigError: if another program works in it, or it cannot be written.
  """
  file = path / FILE
  made, ours = absent(path), not file.exists()
  with contextlib.ExitStack() as stack:
    try:
      path.mkdir(parents=True, exist_ok=True)
      stream = stack.enter_context(file.open('a'))
    except OSError as error:
      raise refusals.unwritable(path, error) from error
    try:
      fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
      if not _same(stream, file):
        raise BlockingIOError  # Its holder has just taken it away.
    except OSError as error:
      raise refusals.ConfigError(
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
  """Waits until no program works in a folder; says so once.

  Raises ConfigError if the folder cannot be written.
  """
  told = False
  while True:
    try:
      with locked(path):
        return
    except refusals.ConfigError as error:
      if not isinstance(error.__cause__, BlockingIOError):
        raise
    if not told:
      say(f'waiting for another program to leave {path}')
      told = True
    time.sleep(0.1)
