"""A command of no work, and its command lines."""

from __future__ import annotations

import pathlib
import subprocess
import sys

from experiments.data import splits
from experiments.runs import cli
from experiments.training import dry_run

ROOT = pathlib.Path(splits.__file__).parents[2]
COMMAND = cli.Command('test', lambda *unused: None, plan=dry_run.describe)


def parsed(*arguments: str) -> cli.Asked:
  return cli.parse(COMMAND, ['program', *arguments])


def outside(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
  """What ``python -m experiments.MODULE`` ends with, in a process."""
  return subprocess.run(
    [sys.executable, '-m', f'experiments.{module}', *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
