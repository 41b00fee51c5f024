"""Progress on stderr: a bar on a terminal; elsewhere only lines that stay."""

from __future__ import annotations

import contextlib
import types

import rich.console
import rich.progress


def working(
  text: str, console: rich.console.Console | None = None
) -> contextlib.AbstractContextManager[object]:
  """Shows on a terminal that something goes on whose end is not known.

  Args:
    text: what it is.
    console: where to show it; stderr if None.

  Returns:
    A context manager, which takes the line away again; elsewhere it shows none.
  """
  console = console or rich.console.Console(stderr=True)
  if not console.is_terminal:
    return contextlib.nullcontext()
  return console.status(text)


class Progress:
  """Counts steps; used as a context manager."""

  def __init__(
    self,
    total: int,
    console: rich.console.Console | None = None,
    shown: bool = True,
  ):
    """Prepares the bar.

    Args:
      total: steps in all.
      console: where to show it; stderr if None.
      shown: whether to show anything.
    """
    self._console = console or rich.console.Console(
      stderr=True, quiet=not shown
    )
    self._bar = rich.progress.Progress(
      rich.progress.TextColumn('{task.description}'),
      rich.progress.BarColumn(),
      rich.progress.MofNCompleteColumn(),
      rich.progress.TextColumn('steps'),
      rich.progress.TimeRemainingColumn(),
      console=self._console,
      disable=not self._console.is_terminal,
      transient=True,
    )
    self._task = self._bar.add_task('training', total=total)

  def __enter__(self) -> Progress:
    """Shows the bar."""
    self._bar.start()
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: types.TracebackType | None,
  ) -> None:
    """Removes the bar."""
    self._bar.stop()

  def advance(self, steps: int) -> None:
    """Counts steps as done."""
    self._bar.advance(self._task, steps)

  def reach(self, step: int) -> None:
    """Counts all steps up to this one as done."""
    self._bar.update(self._task, completed=step)

  def say(self, text: str) -> None:
    """Shows a line that stays, above the bar."""
    self._console.print(text, highlight=False, markup=False, soft_wrap=True)
