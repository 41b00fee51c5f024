"""Runs as processes, some at once; one that fails stops no other."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from configs import held
from experiments.runs import run_folder, subprocesses
from experiments.sweeps import plan

_COMMAND = (sys.executable, '-m', 'experiments.train')
_PAUSE = 0.05  # s, between looks at the processes

Report = Callable[[plan.Run, int], None]


class Folder(NamedTuple):
  """Where the files of a sweep, and of each of its runs, lie."""

  path: pathlib.Path

  @property
  def compiled(self) -> pathlib.Path:
    """The folder of compiled programs, shared by all runs."""
    return self.path / 'compiled'

  def config(self, run: plan.Run) -> pathlib.Path:
    """Returns the file with the config of a run."""
    return self.path / 'configs' / f'{run.name}.json'

  def run(self, run: plan.Run) -> pathlib.Path:
    """Returns the folder of a run."""
    return self.path / 'runs' / run.name

  def log(self, run: plan.Run) -> pathlib.Path:
    """Returns the file to which is added what a run prints."""
    return self.path / 'logs' / f'{run.name}.log'

  def reason(self, run: plan.Run) -> str:
    """Returns the last line that a run printed."""
    return subprocesses.last_line(self.log(run))

  def write(self, name: str, text: str) -> None:
    """Writes a whole file, or leaves what was there."""
    run_folder.write(self.path / name, text)


def work(
  runs: Sequence[plan.Run], files: Folder, workers: int, report: Report
) -> None:
  """Runs `experiments.train` on every run, some at once.

  A signal is passed on to the processes, which write a checkpoint and end.
  ``report`` is told of each run that has ended, with its exit code.
  """
  left, slots = list(runs), list(range(workers))
  live: dict[int, tuple[plan.Run, subprocesses.Process]] = {}
  try:
    while left or live:
      while left and slots:
        run, slot = left.pop(0), slots.pop(0)
        live[slot] = run, _start(run, files, slot, workers)
      for slot, (run, process) in list(live.items()):
        code = process.poll()
        if code is not None:
          del live[slot]
          slots.append(slot)
          report(run, code)
      time.sleep(_PAUSE)
  finally:
    subprocesses.stop(process for _, process in live.values())


def _start(
  run: plan.Run, files: Folder, slot: int, workers: int
) -> subprocesses.Process:
  environment = dict(os.environ)
  if workers > 1:  # Else the first process takes the memory of a GPU.
    environment.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  # The seeds of a setting share a program, which is compiled once.
  environment.setdefault('JAX_COMPILATION_CACHE_DIR', str(files.compiled))
  config = files.config(run)
  config.parent.mkdir(parents=True, exist_ok=True)
  config.write_text(json.dumps(run.config, indent=2), encoding='utf-8')
  with _share_of_cpus(slot, workers):
    return subprocesses.start(
      [
        *_COMMAND,
        f'--config={held.__file__}:{config}',
        f'--workdir={files.run(run)}',
      ],
      files.log(run),
      environment,
    )


@contextlib.contextmanager
def _share_of_cpus(slot: int, workers: int) -> Iterator[None]:
  """A process that is started within has a part of the CPUs (on Linux)."""
  if not hasattr(os, 'sched_setaffinity'):
    yield
    return
  own = sorted(os.sched_getaffinity(0))
  share = own[slot::workers] or own
  os.sched_setaffinity(0, share)
  try:
    yield
  finally:
    os.sched_setaffinity(0, own)
