"""Which runs a sweep plans, and what it refuses."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import pytest
from sweep_case import RATE, ROOT, TINY, command, swept, written

from configs import default
from experiments import sweep
from experiments.sweeps import axes, plan

# How ml_collections loads a configuration file.
pytestmark = [
  pytest.mark.once,
]


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.chdir(ROOT)


def planned(folder: pathlib.Path, **keys: Any) -> list[plan.Run]:
  return plan.runs(plan.load(str(written(folder, **keys))))


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
  (
    {'grid': (('optimizer.name', ('sgd', 'adam')),)},
    f'config.{RATE}: expected one for sgd, whose usual is',
  ),
  (
    {'random': (('epochs', 'integer', 1, 2),), 'draws': 9},
    'sweep: expected settings that differ',
  ),
  ({'grid': (('lr', (None,)),)}, 'config.lr: expected a key that may be None'),
  ({'grid': (('config', ('none.py',)),)}, '--config: expected a Python file'),
  ({'grid': 'epochs'}, 'returns a configuration, got '),
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
  ({'workers': '2'}, 'returns a configuration, got '),
  ({'seeds': ()}, 'sweep.seeds: expected a tuple of at least one int'),
  ({'seeds': (0, 0)}, 'sweep.seeds: expected seeds from 0'),
  ({'seeds': (-1,)}, 'sweep.seeds: expected seeds from 0'),
  ({'fixed': (('epochs',),)}, 'sweep.fixed: expected pairs'),
  ({'fixed': ((RATE, 0.1),), 'grid': ((RATE, (0.2,)),)}, 'sweep.fixed: expec'),
  ({'metrics': ('accuracy',)}, 'sweep.metrics: expected some of test_accuracy'),
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
    (('--config=absent.py',), 'got absent.py (no such file)'),
    ((f'--config={tmp_path}/empty.py',), 'get_config'),
    ((f'--config={tmp_path}/broken.py',), 'ZeroDivisionError'),
    ((f'--config={tmp_path}/key.py',), 'sweep.worker: expected one of'),
    ((f'--config={tmp_path}/none.py',), 'sweep: expected a ConfigDict'),
    ((f'--config={good}', f'--workdir={tmp_path}/full'), 'holds other files'),
    ((f'--config={good}', f'--workdir={good}'), 'expected a folder'),
    ((f'--config={good}', '--workers=0'), 'sweep.workers: expected'),
    ((f'--config={good}', '--workers=x'), 'command line: '),
    ((f'--config={good}', '--metric=loss'), 'sweep.plot.metric: expected'),
    ((f'--config={good}', '--what'), '--what: expected a flag'),
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
  with pytest.raises(ValueError, match='after the colon'):
    held.get_config(str(path))
