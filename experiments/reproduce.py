r"""Runs all studies of a budget, and makes one report of them.

  python -m experiments.reproduce --budget=small
  python -m experiments.reproduce --budget=full --data_dir=FOLDER \
    --only=methods-cifar10,games-relu

The plan is in configs/reproduce.py. Each part is a study's own command in a
process and a folder of its own, so one that fails stops no other. The program
can be killed at any moment; the same command goes on: it keeps the parts that
are done, unless their command has changed, and goes on in the one that was not.
A part whose data set has not been prepared is not run, and the report says so.
A part that lacks one of its figures is gone on with: where all its runs are
done, as after a change of what is reported, this writes its report again.
--only runs the parts that it names, and before them what they read; the report
then lies with the parts, unless --report says where.

  PART           the run folder of each part
  PART.log       what it printed
  PART.json      how it stands
  reproduce.json the budget

--report is the folder for README.md and its figures, PART-FIGURE.png; it is
written at the end, for all parts of the budget. --dry_run lists them. Without
--workdir and --report, each budget has folders of its own.

Exit codes: 0, all is done that could be; 1, a part failed; 2, refused; 3, a
file could not be written; 130 and 143, stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from configs import reproduce as plans
from experiments import refusals
from experiments.data import catalog
from experiments.runs import (
  cli,
  flags,
  locks,
  run_folder,
  signals,
  subprocesses,
)
from experiments.sweeps import command, reproduction

_PAUSE, _KEEP, _SAY = 0.05, 5.0, 30.0  # s: between looks, records and lines
_BEGUN = 'begun'
_MARKER = 'reproduce.json'
_PAGE = 'README.md'
_COMMAND = (sys.executable,)


def parse(argv: Sequence[str]) -> argparse.Namespace:
  """Returns the values of the flags."""
  parser = flags.Flags(__doc__)
  parser.value('budget', f'one of {", ".join(plans.BUDGETS)}', plans.DEFAULT)
  parser.value(
    'workdir',
    'folder of the parts, new, or to go on in; by default runs/reproduce, or '
    'runs/reproduce-BUDGET for another than small',
  )
  parser.value(
    'report',
    'folder of the report; by default docs/results, or docs/results/BUDGET, '
    'and with --only that of the parts, which leaves a whole report alone',
  )
  parser.value('data_dir', 'folder of prepared sets; in place of TFDS_DATA_DIR')
  parser.value(
    'only',
    'parts to run, with commas between; all if none',
    (),
    lambda text: text.split(',') if text else [],
  )
  parser.switch('dry_run', 'list the parts; run nothing')
  return parser.read(argv)


@command.guarded('--workdir or --report', 'the same command')
def run(values: argparse.Namespace) -> int:
  """Does what the flags say; returns the exit code."""
  session = Session(values)
  if values.dry_run:
    session.list()
    return 0
  _check_report(session.report)
  with signals.raising(), locks.locked(session.path):
    return session.work()


class Session:
  """The parts of one budget in one folder."""

  def __init__(self, values: argparse.Namespace):
    """Refuses flags that cannot be used; changes nothing."""
    self.budget, self.data_dir = values.budget, values.data_dir
    self.parts = plans.get_plan(self.budget)
    parts, report = 'runs/reproduce', 'docs/results'
    if self.budget != plans.DEFAULT:
      parts, report = f'{parts}-{self.budget}', f'{report}/{self.budget}'
    self.path = pathlib.Path(values.workdir or parts)
    whole = self.path if values.only else report
    self.report = pathlib.Path(values.report or whole)
    self.chosen = reproduction.chosen(self.budget, values.only)
    _check_workdir(self.path, self.budget)
    for part in self.chosen if values.only else ():
      if self._entry(part).status == reproduction.UNPREPARED:
        raise refusals.ConfigError(
          f'--only={part.name}',
          f'{part.dataset} in {catalog.root(self.data_dir)}',
          'none',
          catalog.how_to_prepare(part.dataset, self.data_dir),
        )

  def list(self) -> None:
    """Prints how each part stands, and its command."""
    for part in self.chosen:
      words = shlex.join(['python', *self._words(part)])
      entry = self._entry(part)
      known = entry.status in (reproduction.FAILED, reproduction.UNPREPARED)
      note = f' ({entry.note})' if known else ''
      print(f'{part.name}: {entry.status}{note}; {words}')

  def work(self) -> int:
    """Runs what is left of the parts and writes the report; an exit code."""
    run_folder.write(
      self.path / _MARKER, json.dumps({'budget': self.budget}) + '\n'
    )
    for place, part in enumerate(self.chosen, 1):
      head = f'[{place}/{len(self.chosen)}] {part.name}'
      entry = self._entry(part)
      if entry.status in (reproduction.LEFT, reproduction.FAILED):
        minutes = part.budgets[self.budget].minutes
        cli.say(f'{head}: begins, about {minutes:g} min')
        self._run(part, head)
        entry = self._entry(part)
      took = f' in {entry.seconds / 60:.1f} min' if entry.seconds else ''
      note = f' ({entry.note})' if entry.note else ''
      cli.say(f'{head}: {entry.status}{took}{note}')
    return self._conclude()

  def _conclude(self) -> int:
    """Writes the report and names what failed."""
    entries = [self._entry(part) for part in self.parts]
    given = (self.path, self.data_dir, os.environ.get('TFDS_DATA_DIR'))
    hidden = [str(pathlib.Path(one).absolute()) for one in given if one]
    text = reproduction.page(entries, self.budget, hidden)
    for entry in entries:
      for figure in entry.part.figures:
        target = self.report / reproduction.picture(entry.part, figure)
        if entry.status == reproduction.DONE:
          shutil.copyfile(self.path / entry.part.name / figure, target)
        else:
          target.unlink(missing_ok=True)
    run_folder.write(self.report / _PAGE, text)
    cli.say(f'report: {self.report / _PAGE}')
    failed = [
      entry.part.name
      for entry in entries
      if entry.status == reproduction.FAILED and entry.part in self.chosen
    ]
    if not failed:
      return 0
    cli.say(
      f'error: failed: {", ".join(failed)}; what they printed is in '
      f'{self.path / failed[0]}.log, and the same command tries them again.'
    )
    return command.FAILED

  def _words(self, part: plans.Part) -> Sequence[str]:
    return reproduction.command(part, self.budget, str(self.path))

  def _state(self, part: plans.Part) -> dict[str, Any]:
    """What PART.json says; empty if there is none."""
    held: dict[str, Any] | None
    held = run_folder.read_json(self.path / f'{part.name}.json')
    return held or {}

  def _set(self, part: plans.Part, state: dict[str, Any]) -> None:
    text = json.dumps(state, indent=2) + '\n'
    run_folder.write(self.path / f'{part.name}.json', text)

  def _entry(self, part: plans.Part) -> reproduction.Entry:
    """How a part stands."""
    state, words = self._state(part), self._words(part)
    asked = reproduction.digest(part, self.budget)
    entry = reproduction.Entry(
      part, reproduction.LEFT, 'left out by --only', words
    )
    if state.get('digest') == asked:
      entry = entry._replace(
        seconds=state['seconds'], versions=state.get('versions')
      )
      if state['status'] == reproduction.DONE and not self._missing(part):
        page = self.path / part.name / 'results.md'
        text = page.read_text(encoding='utf-8') if page.exists() else ''
        return entry._replace(status=reproduction.DONE, note='', text=text)
      if state['status'] == reproduction.FAILED:
        entry = entry._replace(status=reproduction.FAILED, note=state['note'])
    try:
      catalog.check(part.dataset, self.data_dir)
    except catalog.NotPreparedError:
      note = reproduction.how_to_prepare(part.dataset)
      return entry._replace(status=reproduction.UNPREPARED, note=note)
    return entry

  def _missing(self, part: plans.Part) -> Sequence[str]:
    folder = self.path / part.name
    return [name for name in part.figures if not (folder / name).exists()]

  def _run(self, part: plans.Part, head: str) -> None:
    """Runs a part's command, and keeps how it went."""
    state = self._begun(part)
    source = next((one for one in self.parts if one.name == part.source), None)
    if source and self._entry(source).status != reproduction.DONE:
      note = f'needs the part {source.name}, which is not done'
      self._set(part, state | {'status': reproduction.FAILED, 'note': note})
      return
    log = self.path / f'{part.name}.log'
    begin = time.monotonic() - state['seconds']

    def keep(**how: Any) -> None:
      state.update(seconds=time.monotonic() - begin, **how)
      self._set(part, state)

    code = self._watch(part, log, head, keep)
    missing = self._missing(part)
    if code or missing:
      note = reproduction.reason(code, subprocesses.last_line(log), missing)
      keep(status=reproduction.FAILED, note=note)
      return
    versions = self.path / part.name / 'versions.json'
    held = json.loads(versions.read_text(encoding='utf-8'))
    keep(status=reproduction.DONE, versions=held)

  def _begun(self, part: plans.Part) -> dict[str, Any]:
    """The record of a part that begins or goes on; its folder is its own."""
    folder, state = self.path / part.name, self._state(part)
    asked = reproduction.digest(part, self.budget)
    if folder.exists():
      locks.wait_for(folder, cli.say)
    if not part.resumes or state.get('digest', asked) != asked:
      # Before the record: until it is gone, the record must not be the new one.
      shutil.rmtree(folder, ignore_errors=True)
      state = {}
    return {'seconds': 0.0} | state | {'digest': asked, 'status': _BEGUN}

  def _watch(
    self,
    part: plans.Part,
    log: pathlib.Path,
    head: str,
    keep: Callable[..., None],
  ) -> int:
    """Runs a part's command; now and then keeps the time that it took."""
    environment = dict(os.environ)
    if self.data_dir is not None:
      folder = pathlib.Path(self.data_dir).expanduser().absolute()
      environment['TFDS_DATA_DIR'] = str(folder)
    keep()
    process = subprocesses.start(
      [*_COMMAND, *self._words(part)], log, environment
    )
    begin = said = kept = time.monotonic()
    try:
      while process.poll() is None:
        time.sleep(_PAUSE)
        now = time.monotonic()
        if now - kept > _KEEP:
          kept = now
          keep()
        if now - said > _SAY:
          said = now
          rows = 0
          with contextlib.suppress(FileNotFoundError):
            metrics = self.path / part.name / 'metrics.jsonl'
            rows = metrics.read_bytes().count(b'\n')
          cli.say(f'{head}: {rows} rows, {(now - begin) / 60:.1f} min')
      return process.returncode
    finally:
      subprocesses.stop([process])
      keep()


def _check_workdir(path: pathlib.Path, budget: str) -> None:
  """Refuses a folder that holds something else than parts of this budget."""
  if not command.check_folder(path, _MARKER, 'one that this command made'):
    return
  other = json.loads((path / _MARKER).read_text(encoding='utf-8'))['budget']
  if other != budget:
    raise refusals.ConfigError(
      '--workdir',
      f'a new folder, or one of the budget {budget}',
      f'{path}, of the budget {other}',
      'choose another',
    )


def _check_report(path: pathlib.Path) -> None:
  """Makes the folder; refuses one that cannot be written, or another page."""
  page = path / _PAGE
  try:
    path.mkdir(parents=True, exist_ok=True)
    run_folder.write(path / 'probe', '')
    (path / 'probe').unlink()
    held = page.read_text(encoding='utf-8') if page.exists() else ''
  except OSError as error:
    raise refusals.ConfigError(
      '--report',
      'a folder that can be written',
      f'{path} ({error.strerror})',
      'choose another',
    ) from error
  if held and not held.startswith(reproduction.MARK):
    raise refusals.ConfigError(
      '--report',
      f'a folder without a {_PAGE} of another kind',
      page,
      'choose another folder, or move that file',
    )


if __name__ == '__main__':
  command.launch(parse, run)
