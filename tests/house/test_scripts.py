"""The scripts' environment: what is in the way is refused, and kept."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.once
@pytest.mark.parametrize('linked', [True, False])
def test_what_is_no_environment_of_its_own_is_kept(
  linked: bool, tmp_path: pathlib.Path
) -> None:
  (tmp_path / 'scripts').mkdir()
  shutil.copy(ROOT / 'scripts' / '_env', tmp_path / 'scripts')
  for name in ('pyproject.toml', 'constraints.txt'):
    shutil.copy(ROOT / name, tmp_path)
  kept = tmp_path / ('elsewhere' if linked else '.venv')
  kept.mkdir()
  (kept / 'precious').touch()
  (kept / '.stamp').touch()
  if linked:
    (kept / 'pyvenv.cfg').touch()
    (tmp_path / '.venv').symlink_to(kept)
  code = 'source scripts/_env; use_environment .venv constraints.txt test'
  done = subprocess.run(
    ['bash', '-c', code],
    cwd=tmp_path,
    env={**os.environ, 'PYTHON': sys.executable},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 1
  assert 'error: .venv is ' in done.stderr
  assert (kept / 'precious').exists() and (kept / '.stamp').exists()
