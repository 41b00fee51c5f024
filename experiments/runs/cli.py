"""What the entry points share: flags, refusals in one line, exit codes.

0: done. 1: training stopped at a number that is not finite. 2: refused, before
anything was changed. 3: a file could not be written. 130 (Ctrl-C) and 143
(SIGTERM): stopped; the files in the run's folder are whole.
"""

from __future__ import annotations

import contextlib
import datetime
import pathlib
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

import gtddp_jax as gt
from experiments import refusals
from experiments.data import catalog
from experiments.runs import (
  command_line,
  hosts,
  locks,
  messages,
  progress,
  run_folder,
  signals,
  validation,
)

Work = Callable[..., None]
Plan = Callable[[ml_collections.ConfigDict], str]
Build = Callable[[ml_collections.ConfigDict, run_folder.RunFolder | None], Any]

_NOT_FINITE, _REFUSED, _UNWRITTEN = 1, 2, 3
_DEFAULT_CONFIG = 'configs/digits.py'
_ERRORS = (refusals.Refused, gt.errors.GtddpError)
# What absl and ml_collections raise at a command line that they cannot use.
_FLAG_ERRORS = (
  flags.Error,
  AttributeError,
  KeyError,
  SyntaxError,
  TypeError,
  ValueError,
)


def launch(
  name: str,
  work: Work,
  resume: bool = False,
  plan: Plan | None = None,
  build: Build | None = None,
  unread: Sequence[str] = (),
) -> None:
  """Runs an entry point on the flags of the command line.

  Args:
    name: of the entry point, from ``experiments.`` on; its last word is in the
      folders of its runs.
    work: what it does with a validated config, a new folder, and what ``build``
      made, if there is one.
    resume: whether it goes on in a folder with a run of the same config.
    plan: what it prints for --dry_run; None if it knows no such flag.
    build: ``(config, folder) -> `` what the work needs, where the folder is
      that of a run to go on with, or None. What it refuses leaves the folder
      as it was.
    unread: keys and sections that it does not read: refused if given.
  """

  def main(argv: Sequence[str]) -> None:
    del argv
    if build is None and flags.FLAGS.config.start_from is not None:
      refuse(
        'config.start_from: expected None, because experiments.train alone '
        'reads it; remove it.'
      )
    if not flags.FLAGS.dry_run:
      run(name, work, flags.FLAGS, resume, build)
    elif plan is None:
      refuse('--dry_run: expected with experiments.train alone; remove it.')
    else:
      explain(plan, flags.FLAGS)

  app.run(
    main,
    flags_parser=lambda argv: parse(
      argv, flags.FLAGS, resume, training=build is not None, unread=unread
    ),
  )


@contextlib.contextmanager
def _opened(
  folder: run_folder.RunFolder,
  values: flags.FlagValues,
  resume: bool,
  build: Build | None,
) -> Iterator[tuple[Any, ...]]:
  """The run's folder; one that goes again in all processes but the first."""

  def locked() -> bool:
    stack.enter_context(locks.locked(folder.path))
    fresh = values.overwrite or not resume
    return not fresh and run_folder.resumes(folder.path, values.config)

  def created() -> None:
    if not held:
      run_folder.create(folder.path, values.config, values.overwrite)
    say(f'run folder: {folder.path}')

  with contextlib.ExitStack() as stack:
    held = hosts.from_first(locked)
    made: tuple[Any, ...] = ()
    if build is not None:
      with messages.telling(say), progress.working('tracing and compiling'):
        made = (build(values.config, folder if held else None),)
    hosts.from_first(created)
    if not hosts.is_first():
      scratch = stack.enter_context(tempfile.TemporaryDirectory())
      path = pathlib.Path(scratch)
      run_folder.create(path, values.config, overwrite=False)
      folder = run_folder.RunFolder(path, folder.command)
    try:
      yield (folder, *made)
    except _ERRORS:
      if not held and not values.overwrite:
        run_folder.remove_unused(folder)
      raise


def define_flags(
  values: flags.FlagValues, argv: Sequence[str], resume: bool = False
) -> None:
  """Defines --config, --workdir, --dry_run and --overwrite.

  Args:
    values: where to define them.
    argv: the command line, which says what keys are overridden.
    resume: as in ``launch``; such a program may run in several processes.
  """
  config_flags.DEFINE_config_file(
    'config',
    _DEFAULT_CONFIG,
    'Configuration file; change a key with --config.KEY=VALUE. The keys are '
    'explained in configs/default.py.',
    lock_config=True,
    flag_values=values,
    sys_argv=list(argv),
  )
  flags.DEFINE_string(
    'workdir',
    None,
    'New folder for the files of the run; a dated one in runs/ if not given.',
    flag_values=values,
  )
  flags.DEFINE_boolean(
    'dry_run',
    False,
    'Print the graph, the memory and the cost of a step; train nothing.',
    flag_values=values,
  )
  flags.DEFINE_boolean(
    'overwrite',
    False,
    'Replace the files of an earlier run in --workdir.',
    flag_values=values,
  )
  if resume:
    hosts.define_flags(values)


def parse(
  argv: Sequence[str],
  values: flags.FlagValues,
  resume: bool = False,
  training: bool = False,
  unread: Sequence[str] = (),
) -> list[str]:
  """Defines and parses the flags, and validates the config that they give.

  Args:
    argv: the command line; the first item is the program.
    values: where to define the flags; filled.
    resume: as in ``launch``.
    training: whether it is of ``config.optimizer`` as it stands, so that an
      option that this optimizer does not read is refused. A study or a sweep
      may give options for some of its runs.
    unread: as in ``launch``.

  Returns:
    ``argv`` without the flags.
  """
  try:
    command_line.check_names(argv)
    define_flags(values, argv, resume)
    rest: list[str] = values(argv)
    if len(rest) > 1:
      raise refusals.ConfigError(
        rest[1], 'only flags', 'a word', 'write it as --flag=value'
      )
    validation.validate(values.config)
    given = config_flags.get_override_values(values['config'])
    command_line.check_unread(unread, given)
    if training:
      command_line.check_read(values.config, given)
      command_line.check_rate(values.config, given)
    if resume:
      hosts.join(values)
    if not training and values.config.devices != 1:
      raise refusals.ConfigError(
        'config.devices',
        '1, because only experiments.train takes more',
        values.config.devices,
        'remove it',
      )
    catalog.check(values.config.dataset.name, values.config.dataset.data_dir)
    if not values.dry_run:  # which starts nothing
      hosts.from_first(
        lambda: run_folder.check(
          folder_path('run', values),
          values.overwrite,
          values.config if resume else None,
        )
      )
  except refusals.Refused as error:
    refuse(str(error))
  except OSError as error:
    refuse(
      f'--config: expected a Python file with a function get_config, got '
      f'"{command_line.last_line(error)}"; give the path of one, such as '
      f'{_DEFAULT_CONFIG}.'
    )
  except _FLAG_ERRORS as error:
    refuse(command_line.explanation(error))
  return rest


def run(
  name: str,
  work: Work,
  values: flags.FlagValues,
  resume: bool = False,
  build: Build | None = None,
) -> None:
  """Makes the folder and does the work; see the module's head for exit codes.

  Args:
    name: of the entry point.
    work: what to do.
    values: parsed and validated.
    resume: as in ``launch``.
    build: as in ``launch``.
  """
  logging.set_verbosity(logging.WARNING)
  path = hosts.from_first(lambda: folder_path(name, values))
  again = command(name, sys.argv[1:], path)
  folder = run_folder.RunFolder(path, again)
  try:
    with (
      signals.raising(),
      _opened(folder, values, resume, build) as opened,
    ):
      work(values.config, *opened)
  except _ERRORS as error:
    refuse(_refusal(error))
  except FloatingPointError as error:
    say(f'error: {error}')
    sys.exit(_NOT_FINITE)
  except OSError as error:
    say(
      f'error: {path}: expected to write in it, got '
      f'{command_line.last_line(error)}; make room, and go on with: {again}'
    )
    sys.exit(_UNWRITTEN)
  except KeyboardInterrupt as error:
    what = f'go on with: {again}' if resume else 'the run folder is whole.'
    say(f'stopped; {what}')
    sys.exit(getattr(error, 'code', 130))


def explain(plan: Plan, values: flags.FlagValues) -> None:
  """Prints what a run would be; makes no folder.

  Args:
    plan: makes the text.
    values: parsed and validated.
  """
  logging.set_verbosity(logging.WARNING)
  try:
    with signals.raising(), messages.telling(say):
      print(plan(values.config), flush=True)
  except _ERRORS as error:
    refuse(_refusal(error))
  except KeyboardInterrupt as error:
    sys.exit(getattr(error, 'code', 130))


def command(name: str, arguments: Sequence[str], path: pathlib.Path) -> str:
  """Returns the command line that goes on in a folder.

  Args:
    name: of the entry point.
    arguments: what it was called with.
    path: of the folder.
  """
  kept, skip = [], False
  for argument in arguments:
    flag, equals, _ = argument.lstrip('-').partition('=')
    if skip or flag in ('overwrite', 'nooverwrite', 'workdir'):
      skip = flag == 'workdir' and not equals and not skip
    else:
      kept.append(argument)
  return shlex.join(
    ['python', '-m', f'experiments.{name}', *kept, f'--workdir={path}']
  )


def folder_path(name: str, values: flags.FlagValues) -> pathlib.Path:
  """Returns --workdir, or a dated folder."""
  if values.workdir is not None:
    return pathlib.Path(values.workdir)
  now = datetime.datetime.now(datetime.UTC)
  last = name.rpartition('.')[2]
  return pathlib.Path('runs') / f'{last}-{now:%Y%m%d-%H%M%S}'


def _refusal(error: Exception) -> str:
  """One line for what is refused."""
  if isinstance(error, gt.errors.GtddpError):
    return messages.explained(error)
  return str(error)


def refuse(message: str) -> NoReturn:
  """Ends the program with one line on stderr."""
  say(f'error: {message}')
  sys.exit(_REFUSED)


def only_flags(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
  """Parses flags; ends with one line if they, or words, cannot be used.

  Args:
    argv: the command line; the first item is the program.
    values: with all flags defined; filled.

  Returns:
    ``argv`` without the flags.
  """
  try:
    rest: list[str] = values(argv)
  except flags.Error as error:
    refuse(f'command line: {str(error).splitlines()[0]}')
  if len(rest) > 1:
    refuse(
      f'{rest[1]}: expected only flags, got a word; write it as --flag=value.'
    )
  return rest


def say(text: str) -> None:
  """Writes a line to stderr."""
  print(text, file=sys.stderr, flush=True)
