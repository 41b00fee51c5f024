"""What the entry points share: flags, refusals in one line, exit codes.

0: done. 1: training stopped at a number that is not finite. 2: refused, before
anything was changed. 3: a file could not be written. 130 (Ctrl-C) and 143
(SIGTERM): stopped; the files in the run's folder are whole.
"""

from __future__ import annotations

import contextlib
import datetime
import pathlib
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from configs import default
from experiments import (
  catalog,
  checkpoints,
  devices,
  folders,
  interrupts,
  loop,
  processes,
  runs,
  validation,
)

Work = Callable[[ml_collections.ConfigDict, runs.RunFolder], None]
Plan = Callable[[ml_collections.ConfigDict], str]

_NOT_FINITE, _REFUSED, _UNWRITTEN = 1, 2, 3
_DEFAULT_CONFIG = 'configs/digits.py'
_OVERRIDE = re.compile(r'--?(no)?config\.(?P<path>[^=]+)')
_BAD_VALUE = re.compile(r'flag --config\.(?P<path>[\w.]+)=(?P<value>.*?):')
_REFUSALS = (
  validation.ConfigError,
  catalog.NotPreparedError,
  checkpoints.CheckpointError,
  processes.OtherProcessError,
)
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
  name: str, work: Work, resume: bool = False, plan: Plan | None = None
) -> None:
  """Runs an entry point on the flags of the command line.

  Args:
    name: of the entry point, for the folders of its runs.
    work: what it does with a validated config and a new folder.
    resume: whether it goes on in a folder with a run of the same config.
    plan: what it prints for --dry_run; None if it knows no such flag.
  """

  def main(argv: Sequence[str]) -> None:
    del argv
    if not flags.FLAGS.dry_run:
      run(name, work, flags.FLAGS, resume)
    elif plan is None:
      refuse('--dry_run: expected with experiments.train alone; remove it.')
    else:
      explain(plan, flags.FLAGS)

  app.run(
    main,
    flags_parser=lambda argv: parse(argv, flags.FLAGS, resume),
  )


@contextlib.contextmanager
def _opened(
  path: pathlib.Path, values: flags.FlagValues, resume: bool, command: str
) -> Iterator[runs.RunFolder]:
  """The run's folder; one that goes again in all processes but the first."""

  def entered() -> None:
    stack.enter_context(folders.locked(path))
    if not (resume and _resumes(values)):
      runs.create(path, values.config, values.overwrite)
    say(f'run folder: {path}')

  with contextlib.ExitStack() as stack:
    processes.from_first(entered)
    if not processes.is_first():
      scratch = stack.enter_context(tempfile.TemporaryDirectory())
      path = pathlib.Path(scratch)
      runs.create(path, values.config, overwrite=False)
    yield runs.RunFolder(path, command)


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
    processes.define_flags(values)


def parse(
  argv: Sequence[str], values: flags.FlagValues, resume: bool = False
) -> list[str]:
  """Defines and parses the flags, and validates the config that they give.

  Args:
    argv: the command line; the first item is the program.
    values: where to define the flags; filled.
    resume: as in ``launch``.

  Returns:
    ``argv`` without the flags.
  """
  try:
    _check_names(argv)
    define_flags(values, argv, resume)
    rest: list[str] = values(argv)
    if len(rest) > 1:
      raise validation.ConfigError(
        rest[1], 'only flags', 'a word', 'write it as --flag=value'
      )
    validation.validate(values.config)
    if resume:
      processes.join(values)
    devices.check(values.config, training=resume)
    catalog.check(values.config.dataset.name, values.config.dataset.data_dir)
    processes.from_first(
      lambda: folders.check(
        folder_path('run', values),
        values.overwrite,
        values.config if resume else None,
      )
    )
  except _REFUSALS as error:
    refuse(str(error))
  except OSError as error:
    refuse(
      f'--config: expected a Python file with a function get_config, got '
      f'"{_last_line(error)}"; give the path of one, such as {_DEFAULT_CONFIG}.'
    )
  except _FLAG_ERRORS as error:
    refuse(_explanation(error))
  return rest


def run(
  name: str, work: Work, values: flags.FlagValues, resume: bool = False
) -> None:
  """Makes the folder and does the work; see the module's head for exit codes.

  Args:
    name: of the entry point.
    work: what to do.
    values: parsed and validated.
    resume: as in ``launch``.
  """
  logging.set_verbosity(logging.WARNING)
  path = folder_path(name, values)
  again = command(name, sys.argv[1:], path)
  try:
    with (
      interrupts.raising(),
      _opened(path, values, resume, again) as folder,
    ):
      work(values.config, folder)
  except _REFUSALS as error:
    refuse(str(error))
  except loop.NonFiniteError as error:
    say(f'error: {error}')
    sys.exit(_NOT_FINITE)
  except OSError as error:
    say(
      f'error: {path}: expected to write in it, got {_last_line(error)}; make '
      f'room, and go on with: {again}'
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
    with interrupts.raising():
      print(plan(values.config), flush=True)
  except _REFUSALS as error:
    refuse(str(error))
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
  return pathlib.Path('runs') / f'{name}-{now:%Y%m%d-%H%M%S}'


def _resumes(values: flags.FlagValues) -> bool:
  path = folder_path('run', values)
  return not values.overwrite and folders.resumes(path, values.config)


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


def _check_names(argv: Sequence[str]) -> None:
  """Refuses --config.KEY where there is no such key, naming its neighbours."""
  for argument in argv[1:]:
    match = _OVERRIDE.match(argument)
    section, path = default.get_config(), 'config'
    for key in match['path'].split('.') if match else ():
      if not isinstance(section, ml_collections.ConfigDict):
        raise validation.ConfigError(
          path, 'no key in it', repr(key), 'remove what follows the key'
        )
      if key not in section:
        known = ', '.join(section)
        raise validation.ConfigError(
          f'{path}.{key}', f'one of {known}', repr(key), 'correct the name'
        )
      section, path = section[key], f'{path}.{key}'


def _explanation(error: Exception) -> str:
  """One line for an error of the flags' libraries."""
  text = str(error.args[0] if error.args else error)
  match = _BAD_VALUE.match(text)
  if match:
    *sections, key = match['path'].split('.')
    section = default.get_config()
    for name in sections:
      section = section[name]
    kind = section.get_type(key).__name__
    return str(
      validation.ConfigError(
        f'config.{match["path"]}',
        f'a value of type {kind}',
        repr(match['value']),
        'correct it',
      )
    )
  return f'command line: {_last_line(error)}'


def _last_line(error: Exception) -> str:
  """The telling line of a message that may hold a traceback."""
  text = str(error.args[-1] if error.args else error)
  lines = [part.strip() for part in text.splitlines() if part.strip()]
  last = lines[-1] if lines else type(error).__name__
  return last.removeprefix('ValueError: ')
