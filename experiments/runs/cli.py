"""What the entry points share: flags, refusals in one line, exit codes.

0: done. 1: training stopped at a number that is not finite. 2: refused, before
anything was changed. 3: a file could not be written. 130 (Ctrl-C) and 143
(SIGTERM): stopped; the files in the run's folder are whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import pathlib
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

from absl import logging

import gtddp_jax as gt
from configs import default, schema
from configs.schema import Config
from experiments import refusals
from experiments.data import catalog
from experiments.runs import (
  flags,
  hosts,
  locks,
  messages,
  overrides,
  progress,
  run_folder,
  signals,
  validation,
)

NOT_FINITE, REFUSED, UNWRITTEN = 1, 2, 3
_ERRORS = (refusals.Refused, gt.errors.GtddpError)


@dataclasses.dataclass(frozen=True)
class Command:
  """An entry point, with all that is its own.

  Attributes:
    name: from ``experiments.`` on; the last word is that of its section of the
      config, and of the folders of its runs.
    work: what it does with a validated config, a new folder, and what ``build``
      made, if there is one.
    section: keys of its own; None for none.
    check: refuses a config that the work could not use.
    files: that the work writes, beside those of every run.
    unread: keys and sections that it does not read: refused if given.
    only: whether it reads no other section than its own.
    resumes: whether it goes on in a folder with a run of the same config.
    plan: what it prints for --dry_run; None if it knows no such flag.
    build: ``(config, folder) -> `` what the work needs, where the folder is
      that of a run to go on with, or None. What it refuses leaves the folder
      as it was.
  """

  name: str
  work: Callable[..., Any]
  section: schema.Section | None = None
  check: Callable[[Config], None] = lambda config: None
  files: tuple[str, ...] = ()
  unread: tuple[str, ...] = ()
  only: bool = False
  resumes: bool = False
  plan: Callable[[Config], str] | None = None
  build: Callable[..., Any] | None = None

  @property
  def word(self) -> str:
    """The last word of its name."""
    return self.name.rpartition('.')[2]

  @property
  def sections(self) -> dict[str, schema.Section]:
    """What it adds to the config, by name."""
    return {} if self.section is None else {self.word: self.section}

  def get_config(self, config: Config | None = None) -> Config:
    """Returns a config, the defaults if None, with its own section."""
    made = default.get_config() if config is None else config
    for name, section in self.sections.items():
      made[name] = schema.build(section)
    return made

  def validate(self, config: Config) -> None:
    """Raises ConfigError at the first key that cannot be used."""
    validation.validate(config, self.sections)
    self.check(config)

  def folder(
    self, path: pathlib.Path, again: str | None = None
  ) -> run_folder.RunFolder:
    """Returns a folder of its runs."""
    return run_folder.RunFolder(path, again, self.files, self.sections)


class Asked(NamedTuple):
  """What a command line says: the config, and the flags beside it."""

  config: Config
  flags: Any


def launch(command: Command, argv: Sequence[str] | None = None) -> None:
  """Runs an entry point on the flags of a command line; may exit."""
  argv = sys.argv if argv is None else argv
  asked = parse(command, argv)
  if asked.flags.dry_run and command.plan is not None:
    explain(command.plan, asked)
  else:
    run(command, asked, argv[1:])


def define_flags(command: Command, doc: str | None = None) -> flags.Flags:
  """Returns --config, --workdir, --dry_run, --overwrite and its own flags."""
  parser = flags.Flags(
    doc,
    epilog='keys of the config:\n'
    + schema.described({**default.SCHEMA, **command.sections}),
  )
  parser.value(
    'config',
    'configuration FILE.py, or FILE.py:BASE,NETWORK; change a key with '
    f'--config.KEY=VALUE (by default {overrides.DEFAULT})',
  )
  goes_on = ', or that of a run of the same config, which goes on'
  parser.value(
    'workdir',
    f'new folder for the files of the run{goes_on if command.resumes else ""}; '
    f'by default in runs/',
  )
  parser.switch(
    'dry_run',
    'print the graph, the memory and the cost of a step; train nothing',
  )
  parser.switch('overwrite', 'replace the files of an earlier run in --workdir')
  if command.resumes:
    hosts.define_flags(parser)
  return parser


def parse(command: Command, argv: Sequence[str]) -> Asked:
  """Reads the command line, and validates the config that it gives.

  Exits, with one line, if it cannot be used.
  """
  with refusing():
    parser = define_flags(
      command, getattr(sys.modules['__main__'], '__doc__', '')
    )
    given = overrides.read(argv, command.sections, say)
    found, config = parser.read(given.rest), given.config
    _check(command, given, found)
    if found.dry_run:  # which starts nothing
      return Asked(config, found)
    hosts.from_first(
      lambda: run_folder.check(
        folder_path(command, found),
        found.overwrite,
        config if command.resumes else None,
      )
    )
    return Asked(config, found)


def _check(command: Command, given: overrides.Asked, found: Any) -> None:
  """Refuses a config that the command cannot run."""
  if found.dry_run and command.plan is None:
    raise refusals.ConfigError(
      '--dry_run', 'no such flag but with experiments.train', 'it', 'remove it'
    )
  config = given.config
  command.validate(config)
  overrides.check(
    given,
    command.unread,
    [*command.sections] if command.only else [],
    command.build is not None,
  )
  if command.resumes:
    hosts.join(found)
  for key, usual in (
    () if command.build else (('devices', 1), ('start_from', None))
  ):
    if config[key] != usual:
      raise refusals.ConfigError(
        f'config.{key}',
        f'{usual}, because only experiments.train takes another',
        config[key],
        'remove it',
      )
  catalog.check(config.dataset.name, config.dataset.data_dir)


def run(command: Command, asked: Asked, words: Sequence[str] = ()) -> None:
  """Makes the folder and does the work; see the module's head for exit codes.

  Args:
    command: what to run.
    asked: of ``parse``.
    words: of the command line, for the command that goes on.
  """
  logging.set_verbosity(logging.WARNING)
  path = hosts.from_first(lambda: folder_path(command, asked.flags))
  again = command_line(command.name, words, path)
  folder = command.folder(path, again)
  try:
    with (
      refusing(),
      signals.raising(),
      _opened(command, folder, asked) as opened,
    ):
      command.work(asked.config, *opened)
  except FloatingPointError as error:
    say(f'error: {error}')
    sys.exit(NOT_FINITE)
  except OSError as error:
    said = error.strerror or ' '.join(str(error).split())
    say(
      f'error: {path}: expected to write in it, got {said}; make room, and go '
      f'on with: {again}'
    )
    sys.exit(UNWRITTEN)
  except KeyboardInterrupt as error:
    what = (
      f'go on with: {again}' if command.resumes else 'the run folder is whole.'
    )
    say(f'stopped; {what}')
    sys.exit(getattr(error, 'code', 130))


@contextlib.contextmanager
def _opened(
  command: Command, folder: run_folder.RunFolder, asked: Asked
) -> Iterator[tuple[Any, ...]]:
  """The run's folder; one that goes again in all processes but the first."""
  config, overwrite = asked.config, asked.flags.overwrite

  def locked() -> bool:
    stack.enter_context(locks.locked(folder.path))
    fresh = overwrite or not command.resumes
    return not fresh and run_folder.resumes(folder.path, config)

  def created() -> None:
    if not held:
      run_folder.create(folder.path, config, overwrite, command.files)
    say(f'run folder: {folder.path}')

  with contextlib.ExitStack() as stack:
    held = hosts.from_first(locked)
    made: tuple[Any, ...] = ()
    if command.build is not None:
      with messages.telling(say), progress.working('tracing and compiling'):
        made = (command.build(config, folder if held else None),)
    hosts.from_first(created)
    if not hosts.is_first():
      scratch = stack.enter_context(tempfile.TemporaryDirectory())
      folder = command.folder(pathlib.Path(scratch), folder.command)
      run_folder.create(folder.path, config, False, command.files)
    try:
      yield (folder, *made)
    except _ERRORS:
      if not held and not overwrite:
        run_folder.remove_unused(folder)
      raise


def explain(plan: Callable[[Config], str], asked: Asked) -> None:
  """Prints what a run would be; makes no folder."""
  logging.set_verbosity(logging.WARNING)
  try:
    with refusing(), signals.raising(), messages.telling(say):
      print(plan(asked.config), flush=True)
  except KeyboardInterrupt as error:
    sys.exit(getattr(error, 'code', 130))


def command_line(name: str, words: Sequence[str], path: pathlib.Path) -> str:
  """Returns the command line that goes on in a folder."""
  kept, skip = [], False
  for word in words:
    flag, equals, _ = word.lstrip('-').partition('=')
    if skip or flag in ('overwrite', 'nooverwrite', 'workdir'):
      skip = flag == 'workdir' and not equals and not skip
    else:
      kept.append(word)
  return shlex.join(
    ['python', '-m', f'experiments.{name}', *kept, f'--workdir={path}']
  )


def folder_path(command: Command, found: Any) -> pathlib.Path:
  """Returns --workdir, or a dated folder."""
  if found.workdir is not None:
    return pathlib.Path(found.workdir)
  now = datetime.datetime.now(datetime.UTC)
  return pathlib.Path('runs') / f'{command.word}-{now:%Y%m%d-%H%M%S}'


@contextlib.contextmanager
def refusing() -> Iterator[None]:
  """Ends the program with one line for what is refused within."""
  try:
    yield
  except refusals.Refused as error:
    refuse(str(error))
  except gt.errors.GtddpError as error:
    refuse(messages.explained(error))


def refuse(message: str) -> NoReturn:
  """Ends the program with one line on stderr."""
  say(f'error: {message}')
  sys.exit(REFUSED)


def say(text: str) -> None:
  """Writes a line to stderr."""
  print(text, file=sys.stderr, flush=True)
