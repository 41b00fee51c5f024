"""Progress away from a terminal: lines, and no control characters."""

from __future__ import annotations

import io

import pytest
import rich.console

from experiments.runs import progress


class Terminal(io.StringIO):
  """A stream that says that it is a terminal."""

  def isatty(self) -> bool:
    return True


@pytest.mark.parametrize('shown', [True, False])
@pytest.mark.parametrize('stream', [io.StringIO, Terminal])
def test_lines_stay(stream: type[io.StringIO], shown: bool) -> None:
  made = stream()
  with progress.bar(10, shown, made) as bar:
    bar.update(5)
    progress.say('half [way]', made)
  text = made.getvalue()
  assert 'half [way]\n' in text
  assert ('5/10' in text) == (shown and stream is Terminal)
  if stream is io.StringIO:
    assert text == 'half [way]\n'


@pytest.mark.parametrize('terminal', [True, False])
def test_work_of_unknown_length_is_seen_on_a_terminal(terminal: bool) -> None:
  stream = io.StringIO()
  console = rich.console.Console(file=stream, force_terminal=terminal)
  with progress.working('compiling', console):
    pass
  assert ('compiling' in stream.getvalue()) == terminal
