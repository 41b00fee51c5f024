"""Ctrl-C and SIGTERM: taken where a run can stop without losing work."""

from __future__ import annotations

import contextlib
import signal
import threading
import types
from collections.abc import Iterator
from typing import Any

from experiments.runs import hosts

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
  """A signal asked the program to end; the handlers here raise it.

  Attributes:
    code: exit code by the custom of shells, 128 and the signal's number.
  """

  def __init__(self, number: int):
    """Keeps the signal's number."""
    self.code = 128 + number
    super().__init__(signal.Signals(number).name)


@contextlib.contextmanager
def raising() -> Iterator[None]:
  """Both signals raise ``Stopped`` wherever the program is."""

  def stop(number: int, frame: types.FrameType | None) -> None:
    del frame
    raise Stopped(number)

  with _handled(stop):
    yield


class Deferred:
  """Both signals wait for the next ``check``; a second one does not.

  Used as a context manager.
  """

  def __init__(self) -> None:
    self._received: int | None = None
    self._immediate = False
    self._handlers = contextlib.ExitStack()

  def __enter__(self) -> Deferred:
    """Takes the signals over."""
    self._handlers.enter_context(_handled(self._receive))
    return self

  def __exit__(self, *unused: object) -> None:
    """Gives the signals back."""
    self._handlers.close()

  def check(self) -> None:
    """Raises ``Stopped`` if a signal has come, to any of the processes."""
    number = hosts.largest(self._received or 0)
    if number:
      raise Stopped(number)

  @contextlib.contextmanager
  def immediate(self) -> Iterator[None]:
    """Within, nothing has to be finished: signals raise at once."""
    self._immediate = True
    try:
      self.check()
      yield
    finally:
      self._immediate = False

  def _receive(self, number: int, frame: types.FrameType | None) -> None:
    del frame
    again = self._received is not None
    self._received = number
    if again or self._immediate:
      raise Stopped(number)


@contextlib.contextmanager
def _handled(handler: Any) -> Iterator[None]:
  """Sets a handler; threads other than the first must not, and need not."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  before = {number: signal.signal(number, handler) for number in _SIGNALS}
  try:
    yield
  finally:
    for number, old in before.items():
      signal.signal(number, old)
