"""A sweep runs what is missing, survives what fails, and says what it found."""

from __future__ import annotations

import json
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from sweep_case import RATE, ROOT, TINY, swept, written

from configs import sweeps
from experiments.sweeps import pool

# How ml_collections loads a configuration file.
pytestmark = [
  pytest.mark.once,
  pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning'),
]

FAKE = (sys.executable, str(pathlib.Path(__file__).with_name('fake_train.py')))


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.chdir(ROOT)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr(pool, '_COMMAND', FAKE)


def calls(folder: pathlib.Path) -> dict[str, int]:
  return {
    path.parent.name.rsplit('-', 1)[0]: len(path.read_text())
    for path in (folder / 's' / 'runs').glob('*/calls')
  }


def test_what_fails_stops_no_other_and_is_retried(
  tmp_path: pathlib.Path, fake: None, capsys: pytest.CaptureFixture[str]
) -> None:
  del fake
  keys: dict[str, Any] = {
    'grid': ((RATE, (0.125, 0.5, 1.0)),),
    'seeds': (0, 1),
    'workers': 2,
    'metrics': ('test_accuracy', 'best_test_accuracy'),
  }
  assert swept(tmp_path, **keys) == 1
  once = {
    f'learning_rate={rate},seed={seed}': 1
    for rate in ('0.125', '0.5', '1.0')
    for seed in (0, 1)
  }
  assert calls(tmp_path) == once
  page = (tmp_path / 's' / 'results.md').read_text()
  lines = page.splitlines()
  # 0.125 and 0.135; the sample standard deviation.
  assert '| 0.125 | 2/2 | 0.13 ± 0.007071 | 0.905 ± 0.007071 |' in lines
  assert '| 0.5 | 0/2 | - | - |' in lines
  assert '| 1.0 | 0/2 | - | - |' in lines
  assert page.count('- not finished: ') == page.count('- diverged: ') == 2
  assert 'error: something broke' in page
  said = capsys.readouterr().err
  assert '6 runs, 6 of them to do' in said
  assert 'not finished (exit code 7: error: something broke)' in said

  # Only what failed is run again; what diverged would again.
  (tmp_path / 's' / 'mended').touch()
  assert swept(tmp_path, **keys) == 0
  again = {name: 1 + ('=0.5,' in name) for name in once}
  assert calls(tmp_path) == again
  rows = json.loads((tmp_path / 's' / 'results.json').read_text())
  assert [row['status'] for row in rows].count('finished') == 4
  assert rows[1]['metrics']['test_accuracy'] == 0.5
  assert rows[1]['values'] == {'learning_rate': 0.5}

  # A new value of an axis, and nothing else, is run.
  wider = {**keys, 'grid': ((RATE, (0.0625, 0.125, 0.5, 1.0)),)}
  assert swept(tmp_path, **wider) == 0
  assert calls(tmp_path) == again | {
    f'learning_rate=0.0625,seed={seed}': 1 for seed in (0, 1)
  }
  # Another figure trains nothing.
  picture = (tmp_path / 's' / 'sweep.png').read_bytes()
  assert swept(tmp_path, '--metric=train_loss', '--x=seed', **wider) == 0
  assert (tmp_path / 's' / 'sweep.png').read_bytes() != picture
  assert sum(calls(tmp_path).values()) == 10


def test_a_signal_stops_the_runs_and_the_command_goes_on(
  tmp_path: pathlib.Path,
) -> None:
  path = written(tmp_path, grid=((RATE, (0.125, 0.25)),), seeds=(0,), workers=2)
  code = (
    'import sys; from experiments import sweep; '
    'from experiments.sweeps import pool; '
    f'pool._COMMAND = {FAKE!r}; '
    'sys.exit(sweep.run(sweep.parse(sys.argv)))'
  )
  arguments = [f'--config={path}', f'--workdir={tmp_path / "s"}']
  process = subprocess.Popen(
    [sys.executable, '-c', code, *arguments],
    cwd=ROOT,
    stderr=subprocess.PIPE,
    stdout=subprocess.DEVNULL,
    text=True,
  )
  # The other run has to be done, or it is stopped as well.
  ended = 'runs/learning_rate=0.125*/result.json'
  while not (
    (tmp_path / 's' / 'waiting').exists() and any((tmp_path / 's').glob(ended))
  ):
    assert process.poll() is None
    time.sleep(0.05)
  process.send_signal(signal.SIGTERM)
  said = process.communicate()[1]
  assert process.returncode == 143
  assert said.splitlines()[-1].startswith('stopped; the same command')
  log = next((tmp_path / 's' / 'logs').glob('learning_rate=0.25*'))
  assert log.read_text() == 'stopped\n'
  assert (tmp_path / 's' / 'results.md').exists()
  (tmp_path / 's' / 'mended').touch()
  done = subprocess.run(
    [sys.executable, '-c', code, *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0
  assert '2 runs, 1 of them to do' in done.stderr
  assert calls(tmp_path)['learning_rate=0.25,seed=0'] == 2


def test_real_runs(tmp_path: pathlib.Path) -> None:
  keys = {
    'config': repr('configs/digits.py:sgd'),
    'fixed': f'({TINY},)',
    'grid': (('optimizer.name', ('sgd', 'gt_ddp')),),
    'seeds': (0,),
  }
  assert swept(tmp_path, **keys) == 0
  found = json.loads((tmp_path / 's' / 'results.json').read_text())
  assert [row['status'] for row in found] == ['finished', 'finished']
  for row in found:
    folder = tmp_path / 's' / 'runs' / row['run']
    config = json.loads((folder / 'config.json').read_text())
    assert config['optimizer']['name'] == row['values']['name']
    result = json.loads((folder / 'result.json').read_text())
    assert row['metrics']['test_accuracy'] == result['test_accuracy']
    # Every metric that a sweep can show is one that runs have.
    assert set(row['metrics']) == set(sweeps.METRICS)


def test_a_file_that_cannot_be_written_is_named(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  (tmp_path / 's' / 'sweep.json').mkdir(parents=True)
  assert swept(tmp_path, seeds=(0,)) == 3
  said = capsys.readouterr().err
  assert said.startswith('error: --workdir: expected to write')
  assert len(said.splitlines()) == 1


def test_a_dry_run_lists_and_makes_nothing(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  assert swept(tmp_path, '--dry_run', grid=((RATE, (0.1,)),), seeds=(7,)) == 0
  (line,) = capsys.readouterr().out.splitlines()
  assert line.startswith('learning_rate=0.1,seed=7-')
  assert line.endswith(': not finished')
  assert not (tmp_path / 's').exists()
