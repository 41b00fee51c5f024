"""Programs in processes of their own: output in a log, signals passed on."""

from __future__ import annotations

import pathlib
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence

Process = subprocess.Popen[bytes]


def start(
  command: Sequence[str], log: pathlib.Path, environment: Mapping[str, str]
) -> Process:
  """Starts a program; what it prints is added to a log.

  The environment is all of its own.
  """
  log.parent.mkdir(parents=True, exist_ok=True)
  with log.open('ab') as stream:
    return subprocess.Popen(
      command,
      stdin=subprocess.DEVNULL,
      stdout=stream,
      stderr=subprocess.STDOUT,
      env=environment,
      # Of the terminal's Ctrl-C it hears through this process, once.
      start_new_session=True,
    )


def stop(processes: Iterable[Process]) -> None:
  """Passes SIGTERM on to those that still run, and waits for them."""
  left = [process for process in processes if process.poll() is None]
  for process in left:
    process.send_signal(signal.SIGTERM)
  for process in left:
    process.wait()


def last_line(log: pathlib.Path) -> str:
  """Returns the last line that a program printed; '' if there is none."""
  try:
    lines = log.read_text(encoding='utf-8', errors='replace').split('\n')
  except OSError:
    return ''
  return next((line for line in reversed(lines) if line.strip()), '').strip()
