"""Progress on stderr: a bar on a terminal; elsewhere only lines that stay."""

from __future__ import annotations

import contextlib
import sys
from typing import Any, TextIO

import rich.console
import tqdm


def bar(total: int, shown: bool = True, stream: TextIO | None = None) -> Any:
  """Returns tqdm's bar, which is a context manager; ``update`` counts steps.

  On stderr, if no other stream is given.
  """
  return tqdm.tqdm(
    total=total,
    unit='step',
    leave=False,
    file=stream or sys.stderr,
    disable=None if shown else True,  # None: unless it is a terminal
  )


def say(text: str, stream: TextIO | None = None) -> None:
  """Shows a line that stays, above the bar."""
  tqdm.tqdm.write(text, file=stream or sys.stderr)


def working(
  text: str, console: rich.console.Console | None = None
) -> contextlib.AbstractContextManager[object]:
  """Shows on a terminal that something goes on whose end is not known."""
  console = console or rich.console.Console(stderr=True)
  return (
    console.status(text) if console.is_terminal else contextlib.nullcontext()
  )
