"""What the library says, with the key of the config that it is about.

Most of what it would refuse is refused before, by ``validation``. What depends
on the traced network is not known until the optimizer is built on it.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gtddp_jax as gt
from configs import default, schema


def explained(message: object) -> str:
  """Returns an error or a warning of the library in one line.

  It follows the key that it is about; the section, if no key is known.
  """
  text = ' '.join(str(message).split())
  return f'{_key(message)}: {text}'


def _key(message: object) -> str:
  """The key that it is about; its section, if no key is known."""
  if isinstance(message, gt.errors.NoGameWarning):
    return 'config.optimizer.cooperation'
  if not isinstance(message, gt.errors.OptionError):
    return 'config.model'  # it cannot be traced
  for section in ('optimizer', 'optimizer.base'):
    path = f'{section}.{message.argument}'
    if schema.find(default.SCHEMA, path) is not None:
      return f'config.{path}'
  return 'config.optimizer'


@contextlib.contextmanager
def telling(say: Callable[[str], None]) -> Iterator[None]:
  """Says the library's warnings in one line each."""
  with warnings.catch_warnings():
    warnings.filterwarnings('always', category=gt.errors.NoGameWarning)
    others = warnings.showwarning

    def show(message: Any, category: Any, *rest: Any, **words: Any) -> None:
      if issubclass(category, gt.errors.NoGameWarning):
        say(f'warning: {explained(message)}')
      else:
        others(message, category, *rest, **words)

    warnings.showwarning = show
    yield
