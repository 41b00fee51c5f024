"""What the library says, with the key of the config that it is about.

Most of what it would refuse is refused before, by ``validation``. What depends
on the traced network is not known until the optimizer is built on it.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gtddp_jax as gt

# Of the messages of gtddp_jax; the first that is found counts.
_KEYS = {
  r'Name a diagonal': 'config.optimizer.base.diagonal',
  r'Statistics\(largest=': 'config.optimizer.base.largest',
  r'norm_constraint': 'config.optimizer.base.norm_constraint',
  r'learning_rate': 'config.optimizer.base.learning_rate',
  r'cooperation': 'config.optimizer.cooperation',
  r'value function|Per-sample gradients': 'config.optimizer.value',
}


def explained(message: object) -> str:
  """Returns an error or a warning of the library in one line.

  Args:
    message: of the library.

  Returns:
    It, after the key; the section, if no key is known.
  """
  text = ' '.join(str(message).split())
  found = (key for part, key in _KEYS.items() if re.search(part, text))
  usual = 'config.optimizer'
  if isinstance(message, gt.errors.GtddpError) and not isinstance(
    message, gt.errors.OptionError
  ):
    usual = 'config.model'  # it cannot be traced
  return f'{next(found, usual)}: {text}'


@contextlib.contextmanager
def telling(say: Callable[[str], None]) -> Iterator[None]:
  """Says the library's warnings in one line each.

  Args:
    say: writes a line.
  """
  with warnings.catch_warnings():
    warnings.filterwarnings('always', 'cooperation changes nothing')
    others = warnings.showwarning

    def show(message: Any, category: Any, *rest: Any, **words: Any) -> None:
      if str(message).startswith('cooperation changes nothing'):
        say(f'warning: {explained(message)}')
      else:
        others(message, category, *rest, **words)

    warnings.showwarning = show
    yield
