"""The table of operations, and what several of them need."""

from __future__ import annotations

import functools
from collections.abc import Callable

from drafts import Draft, Value

Build = Callable[[Draft], None]
TABLE: dict[str, Build] = {}
OFTEN: list[str] = []  # names, as many times as they are likely


def operation(likely: int = 1) -> Callable[[Build], Build]:
  """Adds an operation to the table under its function's name."""

  def add(build: Build) -> Build:
    @functools.wraps(build)
    def named(d: Draft) -> None:
      with d.doing(build.__name__):
        build(d)

    TABLE[build.__name__] = named
    OFTEN.extend([build.__name__] * likely)
    return named

  return add


def letters(value: Value) -> str:
  """One letter for each axis, for `einsum`."""
  return 'abcdefgh'[: len(value.axes)]


def replaced(word: str, at: int, letter: str) -> str:
  return word[:at] + letter + word[at + 1 :]


def has_features(value: Value) -> bool:
  return bool(value.features)


def is_pure(value: Value) -> bool:
  """The batch has an axis of its own, and there is another axis."""
  return value.pure and bool(value.features)


def has_two(value: Value) -> bool:
  """The batch has an axis of its own, and there are two others."""
  return value.pure and len(value.features) >= 2
