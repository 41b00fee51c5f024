"""What a key of a configuration is: default, meaning, values and readers.

A section maps names to keys and to sections. ``build`` makes a ConfigDict of
it, ``experiments.runs.validation`` checks one against it, and ``--help`` lists
it: so what is known of a key stands in one place.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias, Union

import ml_collections
from ml_collections import config_dict

Config: TypeAlias = ml_collections.ConfigDict


class Rule(NamedTuple):
  """Which values of a key's type will do."""

  expected: str  # the same in words
  holds: Callable[[Any], bool]  # whether a value does


@dataclasses.dataclass(frozen=True)
class Key:
  """A key."""

  default: Any  # its value; None for a key that need not be set
  says: str  # what it is, with its unit
  rule: Rule | None = None  # which values will do; None for all of the type
  # of the names that its section chooses by, those that read it (see
  # ``validation``); empty if all do
  readers: tuple[str, ...] = ()
  kind: type | None = None  # its type; that of the default if None

  @property
  def type(self) -> type:
    """The type of its values, beside None where that is the default."""
    return self.kind or type(self.default)


Section = Mapping[str, Union[Key, 'Section']]


def build(section: Section) -> Config:
  """Returns the defaults of a section."""
  made = Config()
  for name, entry in section.items():
    if not isinstance(entry, Key):
      made[name] = build(entry)
    elif entry.default is None:
      made[name] = config_dict.placeholder(entry.type)
    else:
      made[name] = entry.default
  return made


def keys(section: Section, path: str = '') -> Iterator[tuple[str, Key]]:
  """Yields all keys with their paths, such as ``'optimizer.base.eps'``."""
  for name, entry in section.items():
    if isinstance(entry, Key):
      yield path + name, entry
    else:
      yield from keys(entry, f'{path}{name}.')


def find(section: Section, path: str) -> Key | Section | None:
  """Returns what is at a path; None if there is no such thing."""
  found: Key | Section | None = section
  for name in path.split('.'):
    found = None if isinstance(found, Key | None) else found.get(name)
  return found


def described(sections: Section) -> str:
  """Returns a line for every key: its path, default, meaning and values."""

  def line(path: str, key: Key) -> str:
    rule = f' ({key.rule.expected})' if key.rule else ''
    readers = f'; only {", ".join(key.readers)}' if key.readers else ''
    return f'  --config.{path}={shown(key.default)}  {key.says}{rule}{readers}'

  return '\n'.join(line(path, key) for path, key in keys(sections))


def shown(value: Any) -> str:
  """Returns a value as on a command line."""
  return f'"{value}"' if isinstance(value, tuple) else str(value)


def whole(low: int, high: int | None = None) -> Rule:
  """Integers from ``low``, up to ``high``."""
  to = '' if high is None else f' to {high}'
  return Rule(
    f'an integer from {low}{to}',
    lambda v: v >= low and (high is None or v <= high),
  )


def one_of(*names: str) -> Rule:
  """One of some words."""
  return Rule(f'one of {", ".join(names)}', lambda v: v in names)


def some_of(*names: str) -> Rule:
  """A tuple of some of the words, none twice."""
  return Rule(
    f'some of {", ".join(names)}, none twice',
    lambda v: {*v} <= {*names} and _distinct(v),
  )


def positives(what: str) -> Rule:
  """A tuple of numbers above zero, none twice."""
  return Rule(
    f'finite {what} above 0, none twice',
    lambda v: all(0 < n < math.inf for n in v) and _distinct(v),
  )


def rising(words: str, holds: Callable[[Any], bool]) -> Rule:
  """A tuple of rising numbers that are within what the words say."""
  return Rule(
    f'rising numbers {words}',
    lambda v: [*v] == sorted({*v}) and all(map(holds, v)),
  )


def _distinct(values: tuple[Any, ...]) -> bool:
  return len({*values}) == len(values)


POSITIVE = Rule('a finite number above 0', lambda v: 0 < v < math.inf)
FROM_ZERO = Rule('a finite number from 0', lambda v: 0 <= v < math.inf)
FRACTION = Rule('a number from 0 to below 1', lambda v: 0 <= v < 1)
SIZES = Rule('integers from 1', lambda v: min(v) >= 1)
SEEDS = Rule('seeds from 0, none twice', lambda v: min(v) >= 0 and _distinct(v))
TARGET_LOSS = Key(0.1, 'nats; smoothed train loss to reach', POSITIVE)
