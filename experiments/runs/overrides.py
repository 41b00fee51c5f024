"""--config=FILE:WORDS and --config.KEY=VALUE: command lines to configs."""

from __future__ import annotations

import ast
import importlib.util
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

import experiments
from configs import default, schema
from configs.schema import Config
from experiments import refusals
from experiments.optimizers import registry
from experiments.runs import flags, validation

DEFAULT = 'configs/digits.py'
_FLAG = re.compile(
  r'--?(?P<no>no)?config(?:\.(?P<path>[^=]*))?(?:=(?P<is>.*))?'
)
# Commands with a section of their own, by the names of their files; 'compare'
# was one.
STUDIES = {'compare'} | {
  path.parent.name if path.stem == '__main__' else path.stem
  for path in pathlib.Path(experiments.__file__).parent.glob('studies/**/*.py')
}


class Asked(NamedTuple):
  """What a command line says of the config."""

  config: Config  # locked; keys and types are those of the schema
  # values on the command line, by the paths of their keys
  given: dict[str, Any]
  rest: list[str]  # the other words


def read(
  argv: Sequence[str],
  sections: Mapping[str, schema.Section],
  say: Callable[[str], None] = lambda text: None,
) -> Asked:
  """Loads the config that a command line names, with its keys replaced.

  Args:
    argv: the command line; the first item is the program.
    sections: that the command brings, by their names.
    say: told in one line where a key had another name.

  Raises:
    ConfigError: if there is no such file or key, or a value of another type.
  """
  known = {**default.SCHEMA, **sections}
  rest, source, given = [*argv[:1]], DEFAULT, {}
  words = iter(argv[1:])
  for word in words:
    match = _FLAG.fullmatch(word)
    if match is None:
      rest.append(word)
    elif match['path'] is None:
      source = match['is'] if match['is'] is not None else next(words, '')
    else:
      path = default.renamed(match['path'])
      if path != match['path']:
        say(
          f'warning: config.{match["path"]} is now config.{path}; use that '
          f'name.'
        )
      key = _key(path, known)
      text = match['is']
      if match['no'] or (text is None and key.type is bool):
        text = str(not match['no']).lower()
      given[path] = convert(
        path, key, next(words, '') if text is None else text
      )
  config = load(source)
  if not isinstance(config, ml_collections.ConfigDict):
    raise _no_config(source, f'{type(config).__name__} from get_config()')
  for name in {*config} - {*known} & STUDIES:
    del config[name]  # a file may set keys of several commands
  try:
    for name, section in sections.items():
      own = config.get(name, {})
      config[name] = schema.build(section)
      config[name].update(own)
  except TypeError as error:
    raise _no_config(source, f'{error} in config.{name}') from error
  for path, value in given.items():
    *names, last = path.split('.')
    holder = config
    for name in names:
      holder = holder[name]
    holder[last] = value
  return Asked(config.lock(), given, rest)


def load(source: str) -> Any:
  """Returns what ``get_config`` of a Python file returns.

  What follows a colon is passed on. Raises ConfigError if there is no such file
  or function, or it fails.
  """
  path, colon, words = source.partition(':')
  file = pathlib.Path(path)
  spec = importlib.util.spec_from_file_location(f'config_{file.stem}', file)
  if not file.is_file() or spec is None or spec.loader is None:
    raise _no_config(source, 'no such file')
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    return module.get_config(*([words] if colon else []))
  except refusals.ConfigError:
    raise
  except Exception as error:  # of any kind: it is somebody's program
    got = ' '.join(str(error).split())
    raise _no_config(source, f'{type(error).__name__}: {got}') from error


def _no_config(source: str, got: str) -> refusals.ConfigError:
  return refusals.ConfigError(
    '--config',
    'a Python file whose get_config() returns a configuration',
    f'{source} ({got})',
    f'give the path of one, such as {DEFAULT}',
  )


def _key(path: str, known: schema.Section) -> schema.Key:
  """The key at a path; refuses one that is not there."""
  section: schema.Key | schema.Section = known
  at = 'config'
  for name in path.split('.'):
    if isinstance(section, schema.Key):
      raise refusals.ConfigError(
        at, 'no key in it', repr(name), 'remove what follows the key'
      )
    if name not in section:
      raise validation.unknown(f'{at}.{name}', section)
    section, at = section[name], f'{at}.{name}'
  if not isinstance(section, schema.Key):
    raise refusals.ConfigError(
      at, 'one of its keys', 'the section', f'set --{at}.{next(iter(section))}'
    )
  return section


def convert(path: str, key: schema.Key, text: str) -> Any:
  """Returns the value of a key from its text.

  Raises ConfigError if it is of another type.
  """
  if key.default is None and key.type is not str and text.lower() == 'none':
    return None
  try:
    if key.type is bool:
      return flags.boolean(text)
    if key.type is tuple:
      items = ast.literal_eval(text)
      inner = type(key.default[0]) if key.default else None
      if not isinstance(items, tuple | list):
        raise ValueError
      return tuple(float(i) if inner is float else i for i in items)
    return key.type(text)
  except (SyntaxError, TypeError, ValueError):
    raise refusals.ConfigError(
      f'config.{path}',
      f'a value of type {key.type.__name__}',
      repr(text),
      f'write it as --config.{path}={schema.shown(key.default)}',
    ) from None


def check(
  asked: Asked, unread: Sequence[str], only: Sequence[str], training: bool
) -> None:
  """Refuses values on the command line that nothing would read.

  What a configuration file sets is there for those that do.

  Args:
    asked: with a valid config.
    unread: keys and sections that the command does not read.
    only: sections that it reads; empty for all but ``unread``.
    training: whether ``config.optimizer`` is trained with as it stands. A
      study or a sweep may give options for some of its runs.
  """
  for path, value in asked.given.items():
    inside = (f'{path}.'.startswith(f'{part}.') for part in (only or unread))
    if any(inside) is not bool(only):
      raise refusals.ConfigError(
        f'config.{path}',
        'no value on the command line, because this command does not read it',
        repr(value),
        'remove it',
      )
  if training:
    _check_feedback(asked)
    check_rate(asked.config, asked.given)


def _check_feedback(asked: Asked) -> None:
  """Options of gt_ddp are for gt_ddp."""
  optimizer = asked.config.optimizer
  unread = {}
  for name in registry.unread(optimizer):
    path = f'optimizer.{name}'
    key = schema.find(default.SCHEMA, path)
    usual = key.default if isinstance(key, schema.Key) else None
    if asked.given.get(path, usual) not in (usual, optimizer.name):
      unread[f'config.{path}'] = asked.given[path]
  if unread:
    name, remedy = optimizer.name, 'config.optimizer.name=gt_ddp'
    if name == 'gt_ddp':
      name, remedy = 'gt_ddp without feedback', 'config.optimizer.feedback=true'
    raise refusals.ConfigError(
      ', '.join(unread),
      f'no value on the command line, because {name} does not read it',
      ', '.join(map(repr, unread.values())),
      f'remove it, or set {remedy}',
    )


def check_rate(config: Config, given: Mapping[str, Any]) -> None:
  """Refuses a base changed by its key that keeps the rate of another.

  ``given`` has the values on the command line, by the paths of their keys.
  """
  named = {'optimizer.name', 'optimizer.base.name'} & given.keys()
  if not named or 'optimizer.base.learning_rate' in given:
    return
  base, rates = registry.base_name(config.optimizer), config.learning_rates
  rate = config.optimizer.base.learning_rate
  owners = [name for name, value in rates.items() if value == rate]
  if owners and base not in owners:
    raise refusals.ConfigError(
      'config.optimizer.base.learning_rate',
      f'one for {base}, whose usual is {rates[base]:g}',
      f'that of {owners[0]}, {rate:g}',
      f'give one, or name the base by --config=FILE:{base}',
    )
