"""A sweep runs what is missing, survives what fails, and says what it found."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from absl import flags

from configs import default
from experiments import data, sweep
from experiments.sweeps import axes, plan, pool

# How ml_collections loads a configuration file.
pytestmark = [
  pytest.mark.once,
  pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning'),
]

ROOT = pathlib.Path(data.__file__).parent.parent
FAKE = (sys.executable, str(pathlib.Path(__file__).with_name('fake_train.py')))
RATE = 'optimizer.base.learning_rate'
TINY = (
  "('model.name', 'mlp'), ('model.widths', (8,)), ('epochs', 1), "
  "('batch_size', 256), ('log_every', 2), ('eval_every', 4)"
)


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.chdir(ROOT)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr(pool, '_COMMAND', FAKE)


def written(folder: pathlib.Path, **keys: Any) -> pathlib.Path:
  """The file of a sweep with these keys, as they are written in Python."""
  lines = [f'  sweep.{key} = {value}' for key, value in keys.items()]
  path = folder / 'my_sweep.py'
  # Bytecode is matched by size and by the second of the last change.
  shutil.rmtree(folder / '__pycache__', ignore_errors=True)
  path.write_text(
    '\n'.join(
      [
        'from configs import default',
        'def get_config():',
        '  sweep = default.get_sweep()',
        *lines,
        '  return sweep',
      ]
    )
  )
  return path


def command(*arguments: object) -> int:
  values = flags.FlagValues()
  sweep.parse(['sweep', *map(str, arguments)], values)
  return sweep.run(values)


def swept(folder: pathlib.Path, *arguments: str, **keys: Any) -> int:
  path = written(folder, **keys)
  return command(f'--config={path}', f'--workdir={folder / "s"}', *arguments)


def planned(folder: pathlib.Path, **keys: Any) -> list[plan.Run]:
  return plan.runs(plan.load(str(written(folder, **keys))))


def calls(folder: pathlib.Path) -> dict[str, int]:
  return {
    path.parent.name.rsplit('-', 1)[0]: len(path.read_text())
    for path in (folder / 's' / 'runs').glob('*/calls')
  }


def test_grid_draws_and_seeds_are_multiplied(tmp_path: pathlib.Path) -> None:
  keys: dict[str, Any] = {
    'fixed': f'({TINY},)',
    'grid': (
      (
        ('optimizer.name', 'optimizer.base.name'),
        (('sgd', 'sgd'), ('gt_ddp', 'sgd')),
      ),
      ('optimizer.trust_region', (None, 0.3)),
    ),
    'random': ((RATE, 'log', 1e-3, 1.0), ('model.units', 'integer', 1, 1)),
    'draws': 3,
    'seeds': (4, 5),
  }
  keys['random'] = ((RATE, 'log', 1e-3, 1.0),)
  runs = planned(tmp_path, **keys)
  assert len(runs) == 2 * 2 * 3 * 2
  assert [run.seed for run in runs] == [4] * 12 + [5] * 12
  assert len({run.name for run in runs}) == 24
  for run in runs:
    section = run.config['optimizer']
    assert run.config['seed'] == run.seed
    assert run.config['model']['widths'] == [8]
    assert run.values == {
      'optimizer.name': section['name'],
      'base.name': 'sgd',
      'trust_region': section['trust_region'],
      'learning_rate': section['base']['learning_rate'],
    }
    assert 1e-3 <= section['base']['learning_rate'] <= 1
  # More draws, the same first ones.
  more = planned(tmp_path, **keys | {'draws': 4})
  assert {run.name for run in runs} < {run.name for run in more}


def test_a_run_is_named_by_all_of_its_config(tmp_path: pathlib.Path) -> None:
  keys = {'grid': ((RATE, (0.1, 0.2)),), 'seeds': (0,)}
  one = planned(tmp_path, fixed=f'({TINY},)', **keys)
  other = planned(tmp_path, fixed=f"({TINY}, ('epochs', 2))", **keys)
  for a, b in zip(one, other, strict=True):
    assert a.name.rsplit('-', 1)[0] == b.name.rsplit('-', 1)[0]
    assert a.name != b.name


def test_the_shortest_names_that_differ() -> None:
  assert axes.names(['a.name', 'b.name', 'b.c.rate', 'rate']) == {
    'a.name': 'a.name',
    'b.name': 'b.name',
    'b.c.rate': 'c.rate',
    'rate': 'rate',
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
    'from experiments.sweeps import pool; from absl import flags; '
    f'pool._COMMAND = {FAKE!r}; v = flags.FlagValues(); '
    'sweep.parse(sys.argv, v); sys.exit(sweep.run(v))'
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
    assert set(row['metrics']) == set(sweep.outcomes.METRICS)


BAD = [
  ({'grid': ((RATE, ()),)}, 'sweep.grid: expected axes'),
  ({'grid': (RATE,)}, 'sweep.grid: expected axes'),
  ({'grid': ((RATE, 0.1),)}, 'sweep.grid: expected axes'),
  ({'grid': ((RATE, (0.1, 0.1)),)}, 'sweep.grid: expected no value twice'),
  ({'grid': (((RATE, 'epochs'), ((0.1,),)),)}, 'sweep.grid: expected axes'),
  ({'grid': ((RATE, (0.1,)), (RATE, (0.2,)))}, 'expected each key on one axis'),
  ({'grid': (('seed', (0, 1)),)}, 'sweep.seeds: expected each key on one axis'),
  ({'grid': (('optimizer.lr', (0.1,)),)}, 'config.optimizer.lr: expected one'),
  ({'grid': ((RATE, (-0.1,)),)}, f'config.{RATE}: expected a finite number'),
  ({'grid': ((RATE, ('much',)),)}, f'config.{RATE}: expected a value of type'),
  ({'grid': (('epochs', (None,)),)}, 'config.epochs: expected'),
  ({'grid': (('lr', (None,)),)}, 'config.lr: expected a key that may be None'),
  ({'grid': (('config', ('none.py',)),)}, '--config: expected a Python file'),
  ({'grid': 'epochs'}, 'get_config() returns a sweep, got TypeError'),
  ({'random': ((RATE, 'log', 0.0, 1.0),), 'draws': 1}, 'sweep.random: expec'),
  (
    {'random': ((RATE, 'normal', 0.1, 1.0),), 'draws': 1},
    'sweep.random: expec',
  ),
  (
    {'random': ((RATE, 'linear', 2.0, 1.0),), 'draws': 1},
    'sweep.random: expec',
  ),
  ({'random': ((RATE, 0.1, 1.0),), 'draws': 1}, 'sweep.random: expected axes'),
  ({'random': ((RATE, 'log', 0.1, 1.0),)}, 'sweep.draws: expected a number fr'),
  ({'draws': 2}, 'sweep.draws: expected a number from 1 with random axes'),
  ({'draws': -1}, 'sweep.draws: expected an integer from 0'),
  ({'workers': 0}, 'sweep.workers: expected an integer from 1'),
  ({'workers': '2'}, 'get_config() returns a sweep, got TypeError'),
  ({'seeds': ()}, 'sweep.seeds: expected seeds from 0'),
  ({'seeds': (0, 0)}, 'sweep.seeds: expected seeds from 0'),
  ({'seeds': (-1,)}, 'sweep.seeds: expected seeds from 0'),
  ({'fixed': (('epochs',),)}, 'sweep.fixed: expected pairs'),
  ({'fixed': ((RATE, 0.1),), 'grid': ((RATE, (0.2,)),)}, 'sweep.fixed: expec'),
  ({'metrics': ('accuracy',)}, 'sweep.metrics: expected one of test_accuracy'),
  ({'plot.metric': 'loss'}, 'sweep.plot.metric: expected one of'),
  ({'plot.x': 'width'}, 'sweep.plot.x: expected one of seed'),
  ({'plot.x': 'seed', 'plot.lines': 'seed'}, 'each once'),
]


@pytest.mark.parametrize(('keys', 'line'), BAD, ids=str)
def test_bad_sweeps(
  keys: dict[str, Any],
  line: str,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  with pytest.raises(SystemExit) as caught:
    swept(tmp_path, **{key: repr(value) for key, value in keys.items()})
  assert caught.value.code == 2
  said = capsys.readouterr().err
  assert said.startswith('error: ')
  assert line in said
  assert len(said.splitlines()) == 1
  assert not (tmp_path / 's').exists()


def test_bad_files_flags_and_folders(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  good = written(tmp_path, seeds=(0,))
  (tmp_path / 'empty.py').touch()
  (tmp_path / 'broken.py').write_text('1 / 0')
  (tmp_path / 'key.py').write_text(
    'from configs import default\n'
    'def get_config():\n'
    '  sweep = default.get_sweep()\n'
    '  sweep.worker = 2\n'
    '  return sweep\n'
  )
  (tmp_path / 'none.py').write_text('def get_config(): pass\n')
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full' / 'notes.txt').write_text('mine')
  for arguments, line in (
    ((), '--config: expected the file of a sweep, got none'),
    (('--config=absent.py',), 'got no such file; start from'),
    ((f'--config={tmp_path}/empty.py',), 'got none in it'),
    ((f'--config={tmp_path}/broken.py',), 'ZeroDivisionError'),
    ((f'--config={tmp_path}/key.py',), 'sweep.worker: expected one of'),
    ((f'--config={tmp_path}/none.py',), 'sweep: expected a ConfigDict'),
    ((f'--config={good}', f'--workdir={tmp_path}/full'), 'holds other files'),
    ((f'--config={good}', f'--workdir={good}'), 'expected a folder'),
    ((f'--config={good}', '--workers=0'), 'sweep.workers: expected'),
    ((f'--config={good}', '--workers=x'), 'command line: '),
    ((f'--config={good}', '--metric=loss'), 'sweep.plot.metric: expected'),
    ((f'--config={good}', '--what'), 'command line: '),
    ((f'--config={good}', 'word'), 'word: expected only flags'),
  ):
    with pytest.raises(SystemExit) as caught:
      command(*arguments)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith('error: ')
    assert line in said
    assert len(said.splitlines()) == 1
  assert os.listdir(tmp_path / 'full') == ['notes.txt']


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


@pytest.mark.parametrize(
  'path', sorted((ROOT / 'configs' / 'sweeps').glob('[!_]*.py')), ids=str
)
def test_the_examples_are_valid(path: pathlib.Path) -> None:
  loaded = plan.load(str(path))
  runs = plan.runs(loaded)
  assert len(runs) == 24
  sweep.figures.layout(loaded.plot, runs)


def test_a_config_of_a_run_is_a_config(tmp_path: pathlib.Path) -> None:
  from configs import held

  path = tmp_path / 'config.json'
  config = default.get_config()
  config.model.widths = (3, 4)
  config.optimizer.trust_region = 0.5
  config.seed = 5
  path.write_text(json.dumps(config.to_dict()))
  assert held.get_config(str(path)).to_dict() == config.to_dict()
  path.write_text('{"sed": 1}')
  with pytest.raises(ValueError, match='another version'):
    held.get_config(str(path))
  path.write_text('{')
  with pytest.raises(ValueError, match='correct the path'):
    held.get_config(str(path))
