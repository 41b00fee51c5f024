r"""Runs a sweep: many trainings from one config, some at once.

  python -m experiments.sweep --config=configs/sweeps/digits.py --workdir=runs/s

Each run is `experiments.train` in a process and a folder of its own, so one
that fails stops no other, and Ctrl-C loses nothing. The same command goes on:
it runs what is missing, retries what failed, and keeps what has finished, or
diverged, as it would again. The sweep may have been changed in between. At the
end, and at once if nothing is missing, it writes

  results.md, results.json   the metrics of every setting and run
  sweep.png                  one metric over the axes
  runs/NAME, logs/NAME.log   the folder of each run and what it printed
  compiled                   programs, for the next runs; may be deleted
  configs/NAME.json          its config, for --config=configs/held.py:FILE

so another --metric, --x, --lines or --panels is a matter of seconds. --dry_run
lists the runs and how they stand. Seeds are runs like any other: as one program
under vmap, their convolutions would take a slow path on a CPU.

Exit codes: 0, all runs have finished or diverged; 1, one failed; 2, refused;
3, a file could not be written; 130 and 143, stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence

from configs import schema, sweeps
from configs.schema import Config
from experiments import refusals
from experiments.report import tables
from experiments.runs import (
  cli,
  comparison,
  flags,
  locks,
  signals,
)
from experiments.sweeps import command, figures, outcomes, plan, pool

_COMMAND = cli.Command('sweep', lambda: None)
_STOPPED = (130, 143)
_FILE = 'sweep.json'
_PLOT = ('metric', 'x', 'lines', 'panels')


def parse(argv: Sequence[str]) -> argparse.Namespace:
  """Returns the values of the flags; refuses none of a --config."""
  parser = flags.Flags(
    __doc__, epilog=f'keys of a sweep:\n{schema.described(sweeps.SCHEMA)}'
  )
  parser.value('config', 'file of the sweep, such as configs/sweeps/digits.py')
  parser.value('workdir', 'its folder, new or of an earlier version of it')
  for name in _PLOT:
    parser.value(name, f'in place of sweep.plot.{name}')
  parser.value('workers', 'in place of sweep.workers', kind=int)
  parser.switch('dry_run', 'list the runs; train nothing')
  values = parser.read(argv)
  if values.config is None:
    raise refusals.ConfigError(
      '--config',
      'the file of a sweep',
      'none',
      'give one, such as configs/sweeps/digits.py',
    )
  return values


@command.guarded('--workdir', 'the same command, with --workdir,')
def run(values: argparse.Namespace) -> int:
  """Does what the flags say; returns the exit code."""
  sweep = plan.load(values.config)
  for name in _PLOT:
    if getattr(values, name) is not None:
      sweep.plot[name] = getattr(values, name)
  if values.workers is not None:
    sweep.workers = values.workers
  plan.check(sweep)
  runs = plan.runs(sweep)
  chosen = figures.layout(sweep.plot, runs)
  path = cli.folder_path(_COMMAND, values)
  command.check_folder(path, _FILE, 'that of a sweep')
  if values.dry_run:
    for one in runs:
      status = outcomes.outcome(one, path / 'runs' / one.name).status
      print(f'{one.name}: {status}')
    return 0
  with signals.raising(), locks.locked(path):
    folder = pool.Folder(path)
    folder.write(_FILE, json.dumps(comparison.plain(sweep.to_dict()), indent=2))
    return _work(sweep, runs, chosen, folder)


def _work(
  sweep: Config,
  runs: Sequence[plan.Run],
  chosen: figures.Layout,
  folder: pool.Folder,
) -> int:
  """Runs what is missing, then reports on everything."""
  cli.say(f'sweep folder: {folder.path}')
  found = [outcomes.outcome(run, folder.run(run)) for run in runs]
  missing = [o.run for o in found if o.status == outcomes.MISSING]
  cli.say(f'{len(runs)} runs, {len(missing)} of them to do')
  counter = _Counter(len(missing), folder)
  try:
    pool.work(missing, folder, sweep.workers, counter)
  finally:
    found = [outcomes.outcome(run, folder.run(run)) for run in runs]
    _report(sweep, found, chosen, folder)
  return (
    command.FAILED if any(o.status == outcomes.MISSING for o in found) else 0
  )


class _Counter:
  """Says of each run that ends how it went, and how long the rest takes."""

  def __init__(self, total: int, folder: pool.Folder):
    self._total, self._folder = total, folder
    self._ended, self._begin = 0, time.monotonic()

  def __call__(self, run: plan.Run, code: int) -> None:
    if code in _STOPPED:
      return
    self._ended += 1
    status = outcomes.outcome(run, self._folder.run(run)).status
    why = ''
    if status != outcomes.FINISHED:
      why = f' (exit code {code}: {self._folder.reason(run)})'
    elapsed = time.monotonic() - self._begin
    left = elapsed / self._ended * (self._total - self._ended)
    cli.say(
      f'[{self._ended}/{self._total}, about {left / 60:.0f} min left] '
      f'{run.name}: {status}{why}'
    )


def _report(
  sweep: Config,
  found: Sequence[outcomes.Outcome],
  chosen: figures.Layout,
  folder: pool.Folder,
) -> None:
  title = f'Sweep of {sweep.config}'
  reasons = {o.run.name: folder.reason(o.run) for o in found}
  figures.draw(folder.path / 'sweep.png', found, chosen)
  folder.write('results.json', outcomes.as_json(found))
  folder.write(
    'results.md', outcomes.page(title, found, sweep.metrics, reasons)
  )
  columns = outcomes.columns(found, sweep.metrics)
  tables.show(columns, 'means over the seeds')


if __name__ == '__main__':
  command.launch(parse, run)
