"""The flags of a command, as --flag=value; what is no flag is refused."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from configs import default, schema
from experiments import refusals

_BOOLEANS = {'true': True, '1': True, 'false': False, '0': False}
_ONE_DASH = re.compile(r'^-(?=[a-z])')


def boolean(text: str) -> bool:
  """Returns what ``true`` or ``false`` says; raises ValueError for others."""
  if text.lower() not in _BOOLEANS:
    raise ValueError(text)
  return _BOOLEANS[text.lower()]


class Flags(argparse.ArgumentParser):
  """Flags that --help lists with a line each."""

  def __init__(self, doc: str | None, **words: Any):
    """Begins without flags but --help; ``doc`` is that of the module."""
    super().__init__(
      prog='python -m experiments.NAME',
      usage='%(prog)s [--FLAG=VALUE ...]',
      description=doc,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
      **words,
    )

  def value(
    self,
    name: str,
    text: str,
    usual: Any = None,
    kind: Callable[[str], Any] = str,
  ) -> None:
    """Adds a flag with a value of a kind."""
    self.add_argument(
      f'--{name}', default=usual, type=kind, metavar='VALUE', help=text
    )

  def switch(self, name: str, text: str, usual: bool = False) -> None:
    """Adds --NAME and --noNAME."""
    self.add_argument(
      f'--{name}', nargs='?', const=True, default=usual, type=boolean, help=text
    )
    self.add_argument(
      f'--no{name}', dest=name, action='store_false', help=argparse.SUPPRESS
    )

  def error(self, message: str) -> NoReturn:
    """Raises ConfigError."""
    raise refusals.ConfigError(
      'command line', 'flags as --help lists them', message, 'change that one'
    )

  def read(self, argv: Sequence[str]) -> argparse.Namespace:
    """Returns the values of all flags of a command line, program included.

    Raises ConfigError for a flag that there is not, or a word.
    """
    words = [_ONE_DASH.sub('--', word) for word in argv[1:]]
    found, rest = self.parse_known_args(words)
    for word in rest:
      name = word.lstrip('-').partition('=')[0]
      if name == word:
        raise refusals.ConfigError(
          word, 'only flags', 'a word', 'write it as --flag=value'
        )
      raise refusals.ConfigError(
        f'--{name}', 'a flag that there is', 'an unknown one', _meant(name)
      )
    return found


def _meant(name: str) -> str:
  """What to do about an unknown flag; perhaps a key of the config was meant."""
  end = f'.{name.replace("-", "_")}'
  keys = [f'config.{path}' for path, _ in schema.keys(default.SCHEMA)]
  meant = sorted((k for k in keys if k.endswith(end)), key=len)[:3]
  if meant[:1] == [f'config{end}']:
    del meant[1:]
  if meant:
    return f'perhaps --{" or --".join(meant)} was meant'
  return '--help lists those that there are'
