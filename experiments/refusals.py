"""What is refused, and what an error of reading means.

Every refusal is one line: the key, what was expected, what was got, what to do.
Paths are those of keys below the configuration, as in ``'model.name'``.
"""

from __future__ import annotations

import errno
import pathlib


class Refused(Exception):  # noqa: N818
  """What a command refuses in one line, before anything has changed."""


class Unusable(Refused, ValueError):  # noqa: N818
  """Something that cannot be used, and what to do about it."""

  def __init__(self, what: object, expected: str, got: object, remedy: str):
    """Makes the message.

    Args:
      what: the path of a key or a file, as on the command line.
      expected: what would do.
      got: what does not.
      remedy: what to do, as a command.
    """
    super().__init__(f'{what}: expected {expected}, got {got}; {remedy}.')


class ConfigError(Unusable):
  """A key of the configuration, or a flag, that cannot be used.

  ::

    config.batch_size = -1
    validate(config)
  """


def cause(error: BaseException) -> BaseException | None:
  """Returns what an error was raised from, or while what was handled."""
  hidden = error.__suppress_context__
  return error.__cause__ or (None if hidden else error.__context__)


def one_line(error: BaseException) -> str:
  """Returns the name of an error, and what it says, cut after 200 letters."""
  return f'{type(error).__name__} ({" ".join(str(error).split())[:200]})'


def not_of_the_files(error: BaseException) -> str | None:
  """What to do about an error of reading that tells nothing of what is read.

  Its causes are looked at too. None if what was read may be damaged.
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
