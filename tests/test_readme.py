"""The quickstart of the README runs as written."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def test_the_quickstart_runs_and_learns() -> None:
  readme = (ROOT / 'README.md').read_text()
  match = re.search(r'<!-- quickstart.*?```python\n(.*?)```', readme, re.S)
  assert match, 'README.md: expected a python block after <!-- quickstart'
  code = match.group(1)
  assert len(code.splitlines()) <= 30
  done = subprocess.run(
    [sys.executable, '-W', 'error', '-c', code],
    capture_output=True,
    text=True,
    check=False,
    cwd=ROOT,
  )
  assert done.returncode == 0, done.stderr
  assert 'params/Dense_2' in done.stdout
  assert float(done.stdout.splitlines()[-1]) < 0.2
