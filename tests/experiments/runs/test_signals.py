"""Signals stop a run where it can stop."""

from __future__ import annotations

import signal
import threading

import pytest

from experiments.runs import signals

pytestmark = pytest.mark.once


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_they_raise_at_once(number: signal.Signals) -> None:
  before = signal.getsignal(number)
  with pytest.raises(signals.Stopped) as caught, signals.raising():
    signal.raise_signal(number)
  assert caught.value.code == 128 + number
  assert signal.getsignal(number) is before


def test_they_wait_for_the_next_check() -> None:
  done = []
  with pytest.raises(signals.Stopped), signals.Deferred() as stop:
    stop.check()
    signal.raise_signal(signal.SIGTERM)
    done.append('work')
    stop.check()
  assert done == ['work']


def test_what_need_not_be_finished_is_left() -> None:
  with (
    signals.Deferred() as stop,
    pytest.raises(signals.Stopped),
    stop.immediate(),
  ):
    signal.raise_signal(signal.SIGINT)
  with signals.Deferred() as stop:
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(signals.Stopped), stop.immediate():
      pytest.fail('it has come before')


def test_a_second_one_does_not_wait() -> None:
  with pytest.raises(signals.Stopped), signals.Deferred():
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    pytest.fail('it waited')


def test_the_outer_handlers_come_back() -> None:
  with pytest.raises(signals.Stopped), signals.raising():
    with signals.Deferred():
      pass
    signal.raise_signal(signal.SIGTERM)


def test_other_threads_have_no_signals() -> None:
  found = []

  def work() -> None:
    with signals.raising(), signals.Deferred() as stop:
      stop.check()
      found.append(True)

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert found == [True]
