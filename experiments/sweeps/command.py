"""What commands that run others share: exit codes, refusals, their folder.

0: all is done. 1: one of the others failed. 2: refused, before anything was
changed. 3: a file could not be written. 130 (Ctrl-C) and 143 (SIGTERM):
stopped; the same command goes on.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Callable, Sequence

from absl import logging

from experiments import refusals
from experiments.runs import cli, signals

FAILED = 1

Run = Callable[[argparse.Namespace], int]


def launch(
  parse: Callable[[Sequence[str]], argparse.Namespace],
  run: Run,
) -> None:
  """Does what the flags of the command line say, and exits with its code."""
  logging.set_verbosity(logging.WARNING)
  with cli.refusing():
    values = parse(sys.argv)
  sys.exit(run(values))


def guarded(folders: str, again: str) -> Callable[[Run], Run]:
  """Makes one line and an exit code of what ends a command early.

  Args:
    folders: the flags of the folders that it writes in.
    again: what goes on where it was stopped.
  """

  def decorator(work: Run) -> Run:
    def run(values: argparse.Namespace) -> int:
      try:
        with cli.refusing():
          return work(values)
      except signals.Stopped as error:
        cli.say(f'stopped; {again} goes on.')
        return error.code
      except OSError as error:
        cli.say(
          f'error: {folders}: expected to write in it, got {error}; make room, '
          f'and go on with the same command.'
        )
        return cli.UNWRITTEN

    return run

  return decorator


def check_folder(path: pathlib.Path, marker: str, kind: str) -> bool:
  """Refuses a --workdir that holds something else.

  Args:
    path: of the folder, which need not exist.
    marker: the file by which such a folder is known.
    kind: which folders do, beside a new one.

  Returns:
    Whether it is such a folder.

  Raises:
    ConfigError: if it is another.
  """
  if path.exists() and not path.is_dir():
    raise refusals.ConfigError(
      '--workdir', 'a folder', f'the file {path}', 'choose another'
    )
  held = {child.name for child in path.iterdir()} if path.is_dir() else set()
  begun = {'run.lock', str(pathlib.Path(marker).with_suffix('.part'))}
  if marker not in held and held - begun:
    raise refusals.ConfigError(
      '--workdir',
      f'a new folder, or {kind}',
      f'{path}, which holds other files',
      'choose another',
    )
  return marker in held
