"""What is wrong with a command line, in the words of who typed it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
from absl import flags

from configs import default
from experiments import refusals
from experiments.optimizers import registry
from experiments.runs import comparison

_OVERRIDE = re.compile(r'--?(no)?config\.(?P<path>[^=]+)')
_BAD_VALUE = re.compile(r'flag --config\.(?P<path>[\w.]+)=(?P<value>.*?):')


def check_names(argv: Sequence[str]) -> None:
  """Refuses --config.KEY where there is no such key, naming its neighbours.

  Args:
    argv: the command line; the first item is the program.

  Raises:
    ConfigError: for the first such key.
  """
  for argument in argv[1:]:
    match = _OVERRIDE.match(argument)
    section, path = default.get_config(), 'config'
    for key in match['path'].split('.') if match else ():
      if not isinstance(section, ml_collections.ConfigDict):
        raise refusals.ConfigError(
          path, 'no key in it', repr(key), 'remove what follows the key'
        )
      if key not in section:
        close = difflib.get_close_matches(key, section, 1)
        raise refusals.ConfigError(
          f'{path}.{key}',
          f'one of {", ".join(section)}',
          repr(key),
          f'perhaps {close[0]} was meant' if close else 'correct the name',
        )
      section, path = section[key], f'{path}.{key}'


def check_read(
  config: ml_collections.ConfigDict, given: Mapping[str, Any]
) -> None:
  """Refuses options that were given and that the optimizer does not read.

  What a configuration file sets is there for those that do.

  Args:
    config: validated.
    given: values on the command line, by the paths of their keys.

  Raises:
    ConfigError: if there are such options.
  """
  usual = comparison.flat(default.get_config().to_dict())
  unread = {}
  for key in registry.unread(config.optimizer):
    path = f'optimizer.{key}'
    value = given.get(path, usual[f'config.{path}'])
    if value not in (usual[f'config.{path}'], config.optimizer.name):
      unread[f'config.{path}'] = value
  if unread:
    name, remedy = config.optimizer.name, 'config.optimizer.name=gt_ddp'
    if name == 'gt_ddp':
      name, remedy = 'gt_ddp without feedback', 'config.optimizer.feedback=true'
    raise refusals.ConfigError(
      ', '.join(unread),
      f'no value on the command line, because {name} does not read it',
      ', '.join(repr(value) for value in unread.values()),
      f'remove it, or set {remedy}',
    )


def check_unread(unread: Sequence[str], given: Mapping[str, Any]) -> None:
  """Refuses keys that were given and that a program does not read.

  Args:
    unread: keys and sections, by their paths.
    given: values on the command line, by the paths of their keys.

  Raises:
    ConfigError: at the first such key.
  """
  for path, value in given.items():
    if any(f'{path}.'.startswith(f'{part}.') for part in unread):
      raise refusals.ConfigError(
        f'config.{path}',
        'no value on the command line, because this command does not read it',
        repr(value),
        'remove it',
      )


def others(section: str) -> tuple[str, ...]:
  """Returns all keys at the top of the config but one."""
  return tuple(key for key in default.get_config() if key != section)


def check_rate(
  config: ml_collections.ConfigDict, given: Mapping[str, Any]
) -> None:
  """Refuses a base changed by its key that keeps the rate of another.

  Args:
    config: validated.
    given: values on the command line, by the paths of their keys.

  Raises:
    ConfigError: if it does.
  """
  named = {'optimizer.name', 'optimizer.base.name'} & given.keys()
  if not named or 'optimizer.base.learning_rate' in given:
    return
  base, usual = registry.base_name(config.optimizer), config.compare
  rates = usual.learning_rate.to_dict()
  rate = config.optimizer.base.learning_rate
  owners = [name for name, value in rates.items() if value == rate]
  if base in rates and owners and base not in owners:
    raise refusals.ConfigError(
      'config.optimizer.base.learning_rate',
      f'one for {base}, whose usual is {rates[base]:g}',
      f'that of {owners[0]}, {rate:g}',
      f'give one, or name the base by --config=FILE:{base}',
    )


def explanation(error: Exception) -> str:
  """Returns one line for an error of the flags' libraries."""
  if isinstance(error, flags.UnrecognizedFlagError):
    return _unknown(error)
  text = str(error.args[0] if error.args else error)
  match = _BAD_VALUE.match(text)
  if match:
    *sections, key = match['path'].split('.')
    section = default.get_config()
    for name in sections:
      section = section[name]
    kind = section.get_type(key).__name__
    return str(
      refusals.ConfigError(
        f'config.{match["path"]}',
        f'a value of type {kind}',
        repr(match['value']),
        'correct it',
      )
    )
  return f'command line: {last_line(error)}'


def _unknown(error: flags.UnrecognizedFlagError) -> str:
  """Of a flag; perhaps a key of the config was meant."""
  end = f'.{error.flagname.replace("-", "_")}'
  keys = comparison.flat(default.get_config().to_dict())
  meant = [f'--{key}' for key in keys if key.endswith(end)]
  if f'--config{end}' in meant:
    meant = [f'--config{end}']
  if not meant:
    return f'command line: {last_line(error)}'
  hint = ' or '.join(sorted(meant, key=len)[:3])
  return (
    f"command line: Unknown command line flag '{error.flagname}'. Did you "
    f'mean {hint}?'
  )


def last_line(error: Exception) -> str:
  """Returns the telling line of a message that may hold a traceback."""
  text = str(error.args[-1] if error.args else error)
  lines = [part.strip() for part in text.splitlines() if part.strip()]
  last = lines[-1] if lines else type(error).__name__
  return last.removeprefix('ValueError: ')
