"""The scripts that a newcomer starts from run as they are, and learn."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

from experiments import examples

FOLDER = pathlib.Path(examples.__file__).parent


def printed(name: str) -> str:
  """What an example prints, without a warning."""
  done = subprocess.run(
    [sys.executable, '-W', 'error', '-m', f'experiments.examples.{name}'],
    cwd=FOLDER.parent.parent,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_a_model_of_ones_own() -> None:
  path = FOLDER / 'own_model.py'
  code = [line for line in path.read_text().splitlines() if line.strip()]
  assert len(code) <= 30
  text = printed('own_model')
  found = re.fullmatch(r'loss (\S+), test accuracy (\S+)\n', text)
  assert found, text
  assert float(found[1]) < 0.2
  assert float(found[2]) > 0.9


@pytest.mark.once
def test_the_cost_of_a_model_of_ones_own() -> None:
  text = printed('own_cost')
  form = r'(\w+): \S+ ms, (\S+) x optax, \S+ MB, compiled in \S+ s'
  found = re.findall(f'^{form}$', text, re.MULTILINE)
  assert [name for name, _ in found] == [
    'optax',
    'frozen',
    'bellman',
    'coupled',
  ], text
  assert found[0][1] == '1.00'
