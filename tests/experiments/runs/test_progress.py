"""Progress away from a terminal: lines, and no control characters."""

from __future__ import annotations

import io

import pytest
import rich.console

from experiments.runs import progress


@pytest.mark.parametrize('terminal', [False, True])
def test_lines_stay(terminal: bool) -> None:
  stream = io.StringIO()
  console = rich.console.Console(file=stream, force_terminal=terminal)
  with progress.Progress(10, console) as bar:
    bar.advance(5)
    bar.say('half [way]')
  text = stream.getvalue()
  assert 'half [way]' in text
  assert ('\x1b' in text) == terminal


@pytest.mark.parametrize('terminal', [True, False])
def test_work_of_unknown_length_is_seen_on_a_terminal(terminal: bool) -> None:
  stream = io.StringIO()
  console = rich.console.Console(file=stream, force_terminal=terminal)
  with progress.working('compiling', console):
    pass
  assert ('compiling' in stream.getvalue()) == terminal
