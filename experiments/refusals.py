"""What is refused: errors, and conditions on values of the configuration.

Every refusal is one line: the key, what was expected, what was got, what to do.
Paths are those of keys below the configuration, as in ``'model.name'``.
"""

from __future__ import annotations

import errno
import math
import pathlib
from typing import Any

import ml_collections


class Refused(Exception):  # noqa: N818
  """What a command refuses in one line, before anything has changed."""


class ConfigError(Refused, ValueError):
  """A key of the configuration, or a flag, that cannot be used.

  ::

    config.batch_size = -1
    validate(config)
  """

  def __init__(self, key: str, expected: str, got: object, remedy: str):
    """Makes the message.

    Args:
      key: its path, as on the command line.
      expected: values that would do.
      got: the value that does not.
      remedy: what to do, as a command.
    """
    super().__init__(f'{key}: expected {expected}, got {got}; {remedy}.')


def get(config: ml_collections.ConfigDict, path: str) -> Any:
  """Returns the value at a path of keys, joined by dots."""
  for key in path.split('.'):
    config = config[key]
  return config


def one_of(config: ml_collections.ConfigDict, path: str, allowed: Any) -> None:
  """Refuses a value that is not among those allowed."""
  got = get(config, path)
  if got not in allowed:
    raise ConfigError(
      f'config.{path}', f'one of {", ".join(allowed)}', repr(got), 'change it'
    )


def in_range(
  config: ml_collections.ConfigDict,
  path: str,
  low: int,
  high: int | None = None,
  what: str = 'the largest value',
) -> None:
  """Refuses a number below ``low`` or above ``high``, which is ``what``."""
  got = get(config, path)
  if got < low or (high is not None and got > high):
    upper = '' if high is None else f' to {high} ({what})'
    remedy = 'raise it' if got < low else 'lower it'
    raise ConfigError(
      f'config.{path}', f'an integer from {low}{upper}', got, remedy
    )


def distinct(config: ml_collections.ConfigDict, path: str) -> None:
  """Refuses a tuple with a value that is there twice."""
  got = get(config, path)
  if len(set(got)) != len(got):
    raise ConfigError(f'config.{path}', 'no value twice', got, 'remove one')


def some_of(
  config: ml_collections.ConfigDict, path: str, allowed: Any, reason: str = ''
) -> None:
  """Refuses a tuple with a value twice, or one not allowed, for a reason."""
  got = get(config, path)
  distinct(config, path)
  if not set(got) <= set(allowed):
    raise ConfigError(
      f'config.{path}',
      f'some of {", ".join(allowed)}{reason}',
      got,
      'remove the others',
    )


def seeds(config: ml_collections.ConfigDict, path: str) -> None:
  """Refuses a tuple of seeds that are negative, or there twice."""
  got = get(config, path)
  distinct(config, path)
  if min(got) < 0:
    raise ConfigError(f'config.{path}', 'seeds from 0', got, 'raise them')


def all_positive(
  config: ml_collections.ConfigDict, path: str, what: str
) -> None:
  """Refuses a tuple of ``what`` with one that is not above zero."""
  got = get(config, path)
  distinct(config, path)
  if not all(0 < number < math.inf for number in got):
    raise ConfigError(
      f'config.{path}', f'finite {what} above 0', got, 'change them'
    )


def positive(config: ml_collections.ConfigDict, path: str) -> None:
  """Refuses a number that is not above zero."""
  got = get(config, path)
  if not 0 < got < math.inf:
    raise ConfigError(
      f'config.{path}', 'a finite number above 0', got, 'change it'
    )


def from_zero(config: ml_collections.ConfigDict, path: str) -> None:
  """Refuses a negative number."""
  got = get(config, path)
  if not 0 <= got < math.inf:
    raise ConfigError(
      f'config.{path}', 'a finite number from 0', got, 'change it'
    )


def fraction(config: ml_collections.ConfigDict, path: str) -> None:
  """Refuses a number that is not in ``[0, 1)``."""
  got = get(config, path)
  if not 0 <= got < 1:
    raise ConfigError(
      f'config.{path}', 'a number from 0 to below 1', got, 'change it'
    )


def cause(error: BaseException) -> BaseException | None:
  """Returns what an error was raised from, or while what was handled."""
  hidden = error.__suppress_context__
  return error.__cause__ or (None if hidden else error.__context__)


def one_line(error: BaseException) -> str:
  """Returns the name of an error, and what it says, cut after 200 letters."""
  return f'{type(error).__name__} ({" ".join(str(error).split())[:200]})'


def not_of_the_files(error: BaseException) -> str | None:
  """What to do about an error of reading that tells nothing of what is read.

  Args:
    error: as it was caught; its causes are looked at too.

  Returns:
    The remedy; None if what was read may be damaged.
  """
  whole: BaseException | None = error
  while whole is not None:
    match whole:
      case ImportError():
        return f'install {whole.name or "what is missing"}'
      case PermissionError():
        return 'let it be read'
      case MemoryError():
        return 'free memory'
      case OSError(errno=errno.EMFILE | errno.ENFILE):
        return 'allow more open files'
    if 'RESOURCE_EXHAUSTED' in str(whole):
      return 'free memory of the device'
    whole = cause(whole)
  return None


def unwritable(path: pathlib.Path, error: OSError) -> ConfigError:
  """Returns the refusal of a folder in which a file could not be written."""
  return ConfigError(
    '--workdir',
    'a folder that can be written',
    f'{path} ({error.strerror})',
    'choose another',
  )
