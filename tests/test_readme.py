"""The examples of the README and of docs/ run as written."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def run(page: str, marker: str) -> tuple[str, list[str]]:
  """The code after a marker, and the lines that it prints."""
  text = (ROOT / page).read_text()
  match = re.search(rf'<!-- {marker}.*?```python\n(.*?)```', text, re.S)
  assert match, f'{page}: expected a python block after <!-- {marker}'
  code = match.group(1)
  done = subprocess.run(
    [sys.executable, '-W', 'error', '-c', code],
    capture_output=True,
    text=True,
    check=False,
    cwd=ROOT,
  )
  assert done.returncode == 0, done.stderr
  return code, done.stdout.splitlines()


def test_the_quickstart_runs_and_learns() -> None:
  code, printed = run('README.md', 'quickstart')
  assert len(code.splitlines()) <= 30
  assert any('params/Dense_2' in line for line in printed)
  assert float(printed[-1]) < 0.2


def test_the_terminal_of_ones_own_runs_and_learns() -> None:
  _, printed = run('docs/terminals.md', 'example')
  assert float(printed[-1]) < 0.5 * float(printed[0])
