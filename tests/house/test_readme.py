"""The examples of the README and of docs/ run as written."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import page_examples
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = sorted(
  path
  for path in (ROOT / 'docs').rglob('*.md')
  if '<!-- example:' in path.read_text()
)
RANKING = ROOT / 'docs' / 'terminals.md'


def run(*pages: pathlib.Path) -> list[list[str]]:
  """What the examples of each page print."""
  # ml_collections loads configurations in a way that Python will end.
  fine = 'ignore:the load_module:DeprecationWarning'
  done = subprocess.run(
    [
      *(sys.executable, '-W', 'error', '-W', fine),
      'tests/house/page_examples.py',
      *map(str, pages),
    ],
    capture_output=True,
    text=True,
    check=False,
    cwd=ROOT,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


def test_the_quickstart_runs_and_learns() -> None:
  page = ROOT / 'README.md'
  (example,) = page_examples.of_page(page.read_text())
  assert len(example.code.strip().splitlines()) <= 36
  ((printed,),) = run(page)
  losses = {}
  for line in printed.splitlines():
    name, loss = line.rsplit(' ', 1)
    losses[name] = float(loss)
  assert list(losses) == ['Adam', 'GT-DDP Adam']
  assert max(losses.values()) < 0.2


@pytest.mark.once
def test_the_examples_of_the_pages_print_what_the_pages_say() -> None:
  assert len(PAGES) > 5
  for page, printed in zip(PAGES, run(*PAGES), strict=True):
    examples = page_examples.of_page(page.read_text())
    assert len(examples) == page.read_text().count('<!-- example:'), page
    for example, lines in zip(examples, printed, strict=True):
      if page == RANKING:  # what it prints is not on the page
        losses = [float(line) for line in lines.splitlines()]
        assert losses[-1] < 0.5 * losses[0]
      else:
        assert lines == (example.output or ''), page
