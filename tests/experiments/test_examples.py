"""The scripts that a newcomer starts from run as they are, and learn."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

from experiments import examples

FOLDER = pathlib.Path(examples.__file__).parent


def test_a_model_of_ones_own() -> None:
  path = FOLDER / 'own_model.py'
  code = [line for line in path.read_text().splitlines() if line.strip()]
  assert len(code) <= 30
  done = subprocess.run(
    [sys.executable, '-W', 'error', '-m', 'experiments.examples.own_model'],
    cwd=FOLDER.parent.parent,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  found = re.fullmatch(r'loss (\S+), test accuracy (\S+)\n', done.stdout)
  assert found, done.stdout
  assert float(found[1]) < 0.2
  assert float(found[2]) > 0.9
