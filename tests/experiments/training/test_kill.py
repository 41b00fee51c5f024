"""A run that is killed at any moment ends as if it had not been.

Killed with SIGKILL, which no program can answer, also while it writes a
checkpoint; resumed by the same command; equal bit by bit in the end.
"""

from __future__ import annotations

import os
import pathlib
import random
import shutil
import signal
from collections import Counter
from collections.abc import Sequence
from typing import Any

import commands
import pytest

pytestmark = pytest.mark.once


@pytest.fixture(scope='module')
def base(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  return tmp_path_factory.mktemp('kill')


@pytest.fixture(scope='module')
def uninterrupted(base: pathlib.Path) -> dict[str, Any]:
  code, errors = commands.finish(commands.start(base / 'whole'), base / 'whole')
  assert code == 0, errors
  return commands.outcome(base / 'whole')


def survives(folder: pathlib.Path, kinds: Sequence[str], seed: int) -> Counter:
  """Kills a run so many times, lets it end, and counts how it was found."""
  rng = random.Random(seed)
  found: Counter[str] = Counter()
  for kind in kinds:
    found[commands.kill(folder, kind, rng)] += 1
  code, errors = commands.finish(commands.start(folder), folder)
  assert code == 0, errors
  return found


def test_three_kills_change_nothing(
  base: pathlib.Path, uninterrupted: dict[str, Any]
) -> None:
  kinds = ('write', 'step', 'write')
  found = survives(base / 'three', kinds, seed=0)
  assert found['ended'] == 0
  assert found['torn'] >= 1
  commands.assert_same(commands.outcome(base / 'three'), uninterrupted)


def test_a_signal_saves_the_step_it_comes_at(
  base: pathlib.Path, uninterrupted: dict[str, Any]
) -> None:
  folder = base / 'signal'
  process = commands.start(folder)
  assert commands.wait_for(process, lambda: commands.row_count(folder) > 2)
  assert process.pid is not None
  os.kill(process.pid, signal.SIGTERM)
  code, errors = commands.finish(process, folder)
  assert code == 143
  last = errors.splitlines()[-1]
  assert last.startswith('stopped; go on with: python -m experiments.train')
  assert last.endswith(f'--workdir={folder}')
  held = max(int(path.name) for path in (folder / 'checkpoints').iterdir())
  code, errors = commands.finish(commands.start(folder), folder)
  assert code == 0
  assert f'goes on from step {held}' in errors
  commands.assert_same(commands.outcome(folder), uninterrupted)


def test_a_second_program_is_refused(
  base: pathlib.Path, uninterrupted: dict[str, Any]
) -> None:
  folder = base / 'two'
  first = commands.start(folder)
  assert commands.wait_for(first, (folder / 'run.lock').exists)
  code, errors = commands.finish(commands.start(folder), folder)
  assert code == 2
  assert errors.count('error: ') == 1
  assert f'got {folder}, which is locked; wait for the other' in errors
  assert commands.finish(first, folder)[0] == 0
  commands.assert_same(commands.outcome(folder), uninterrupted)


def contents(folder: pathlib.Path) -> dict[pathlib.Path, bytes]:
  files = [path for path in folder.rglob('*') if path.is_file()]
  return {path: path.read_bytes() for path in files}


def test_a_damaged_checkpoint_is_refused_and_kept(
  base: pathlib.Path, uninterrupted: dict[str, Any]
) -> None:
  folder = base / 'damaged'
  process = commands.start(folder)
  assert commands.wait_for(process, lambda: commands.row_count(folder) > 4)
  process.kill()
  process.join()
  held = [p for p in (folder / 'checkpoints').iterdir() if p.name.isdigit()]
  last = max(held, key=lambda path: int(path.name))
  (last / 'record' / 'metadata').write_text('')
  before = contents(folder)
  code, errors = commands.finish(commands.start(folder), folder)
  assert code == 2
  assert errors.splitlines()[-1].startswith(f'error: {last}: expected a whole')
  after = contents(folder)
  kept = [path for path in before if 'orbax-checkpoint-tmp' not in str(path)]
  assert {path: after.get(path) for path in kept} == {
    path: before[path] for path in kept
  }
  shutil.rmtree(last)  # as the message says
  assert commands.finish(commands.start(folder), folder)[0] == 0
  commands.assert_same(commands.outcome(folder), uninterrupted)


@pytest.mark.parametrize(
  'limit', [pytest.param(4_500, marks=pytest.mark.slow), 7_000]
)
def test_a_full_disk_loses_nothing(
  limit: int, base: pathlib.Path, uninterrupted: dict[str, Any]
) -> None:
  folder = base / f'full-{limit}'
  process = commands.start(folder, limit=limit)
  code, errors = commands.finish(process, folder)
  assert code == 3
  assert f'error: {folder}: expected to write in it, got File too' in errors
  assert 'Traceback' not in errors
  assert errors.count('error') == 1
  code, errors = commands.finish(commands.start(folder), folder)
  assert code == 0, errors
  commands.assert_same(commands.outcome(folder), uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize('seed', [1])
def test_twenty_kills_change_nothing(
  base: pathlib.Path, uninterrupted: dict[str, Any], seed: int
) -> None:
  kinds = random.Random(seed).choices(('write', 'step', 'start'), k=20)
  found = survives(base / f'twenty-{seed}', kinds, seed)
  assert found['torn'] >= 3
  commands.assert_same(commands.outcome(base / f'twenty-{seed}'), uninterrupted)
