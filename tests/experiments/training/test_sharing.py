"""Devices and processes share a batch; a run does not depend on how many."""

from __future__ import annotations

import json
import pathlib
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
import sharing_case

from configs import default
from experiments import refusals
from experiments.data import splits
from experiments.runs import flags, hosts, run_folder
from experiments.training import devices

pytestmark = pytest.mark.once

ROOT = pathlib.Path(__file__).resolve().parents[3]
CASE = pathlib.Path(__file__).with_name('sharing_case.py')
QUICK = 'frozen', 'ekfac'
TINY = (
  '--config=configs/digits.py:sgd',
  '--config.model.name=mlp',
  '--config.model.widths=(6,)',
  '--config.model.activation=tanh',
  '--config.batch_size=72',
  '--config.log_every=5',
  '--config.eval_every=10',
  '--config.optimizer.name=gt_ddp',
  '--config.optimizer.trust_region=0.3',
)


def started(*arguments: str, module: bool = False) -> subprocess.Popen[str]:
  words = ['-m'] if module else []
  return subprocess.Popen(
    [sys.executable, *words, *arguments],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
  out, err = process.communicate(timeout=240)
  return process.returncode, out, err


def address() -> str:
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    return f'127.0.0.1:{free.getsockname()[1]}'


@pytest.fixture(scope='module')
def found(request: pytest.FixtureRequest) -> dict[str, Any]:
  """Runs on 1 and 4 devices of one process, and on 1 of each of two."""
  slow = request.config.getoption('--slow')
  forms = ','.join(sharing_case.FORMS if slow else QUICK)
  where = address()
  common = str(CASE), str(ROOT), forms
  both = [started(*common, '0', where, '2', number) for number in '01']
  results = [ended(process) for process in (started(*common, '1,4'), *both)]
  assert [code for code, _, _ in results] == [0, 0, 0], results
  whole, first, second = (
    json.loads(out.splitlines()[-1]) for _, out, _ in results
  )
  assert first == second
  return {**whole, **first}


@pytest.mark.parametrize(
  'form',
  [
    pytest.param(form, marks=[] if form in QUICK else [pytest.mark.slow])
    for form in sharing_case.FORMS
  ],
)
@pytest.mark.parametrize('how', ['4', '0'], ids=['4 devices', '2 processes'])
def test_a_run_is_the_same(how: str, form: str, found: dict[str, Any]) -> None:
  one, other = found[f'1 {form}'], found[f'{how} {form}']
  expected, actual = (np.array(run['params']) for run in (one, other))
  apart = np.linalg.norm(actual - expected)
  assert apart < 1e-5 * np.linalg.norm(expected)
  assert one['last'].keys() == other['last'].keys()
  assert one['last']['feedback_ratio'] > 1e-3
  for name, value in one['last'].items():
    assert other['last'][name] == pytest.approx(value, rel=1e-4), name


def together(
  folder: pathlib.Path, *arguments: str
) -> list[subprocess.Popen[str]]:
  """Two processes that train one network."""
  where = address()
  return [
    started(
      'experiments.train',
      *TINY,
      '--config.devices=0',
      f'--workdir={folder}',
      f'--coordinator={where}',
      '--num_processes=2',
      f'--process_id={number}',
      *arguments,
      module=True,
    )
    for number in range(2)
  ]


@pytest.mark.slow
def test_two_processes_keep_one_folder(tmp_path: pathlib.Path) -> None:
  """A signal to one stops both; they go on, and end as if they had not."""
  args = '--config.epochs=40', '--config.checkpoint_seconds=0.0'
  whole = tmp_path / 'whole'
  codes = [ended(process) for process in together(whole, *args)]
  assert [code for code, _, _ in codes] == [0, 0], codes
  assert 'run folder' not in codes[1][2]
  assert 'epoch' not in codes[1][2]

  stopped = tmp_path / 'stopped'
  pair = together(stopped, *args)
  log = stopped / 'metrics.jsonl'
  while not log.exists() or log.read_bytes().count(b'\n') < 4:
    assert pair[0].poll() is None
    time.sleep(0.01)
  pair[1].send_signal(signal.SIGTERM)
  codes = [ended(process) for process in pair]
  assert [code for code, _, _ in codes] == [143, 143], codes
  assert 'go on with' in codes[0][2]

  codes = [ended(process) for process in together(stopped, *args)]
  assert [code for code, _, _ in codes] == [0, 0], codes
  assert 'goes on from step' in codes[0][2]
  rows = [
    [{k: v for k, v in row.items() if 'sec' not in k} for row in folder.rows()]
    for folder in map(run_folder.RunFolder, (whole, stopped))
  ]
  assert rows[0] == rows[1]

  codes = [ended(process) for process in together(stopped, *args)]
  assert [code for code, _, _ in codes] == [0, 0], codes  # finished

  codes = [ended(p) for p in together(stopped, *args, '--config.seed=7')]
  assert [code for code, _, _ in codes] == [2, 2], codes  # of another config
  assert all('config.seed' in err for _, _, err in codes)


def test_one_device_leaves_everything_as_it_is() -> None:
  layout = devices.Layout(default.get_config())
  split = splits.load('digits', 'unit').train
  images, labels = layout.batch(split, 8, seed=0, step=3)
  expected = splits.batch(split, 8, seed=0, step=3)
  np.testing.assert_array_equal(images, expected.images)
  np.testing.assert_array_equal(labels, expected.labels)
  assert layout.mesh is None
  assert layout.words('ab') == {}


def test_no_more_devices_than_there_are() -> None:
  config = default.get_config()
  config.devices = 2
  with pytest.raises(refusals.ConfigError, match='expected at most 1, '):
    devices.Layout(config)


def test_all_devices_may_be_one() -> None:
  config = default.get_config()
  config.devices = 0
  assert devices.check(config) == 1


@pytest.mark.parametrize(
  ('given', 'words'),
  [
    (['--coordinator=h:1'], '--num_processes: expected a value, as for --coo'),
    (['--process_id=0'], '--coordinator: expected a value'),
    (
      ['--coordinator=h', '--num_processes=2', '--process_id=0'],
      "--coordinator: expected HOST:PORT, got 'h'",
    ),
    (
      ['--coordinator=h:1', '--num_processes=0', '--process_id=0'],
      '--num_processes: expected an integer from 1, got 0',
    ),
    (
      ['--coordinator=h:1', '--num_processes=2', '--process_id=2'],
      '--process_id: expected an integer from 0 to 1, got 2',
    ),
    (['--distributed'], '--distributed: expected the other processes, got'),
  ],
)
def test_flags_that_do_not_fit_are_refused(
  given: list[str], words: str
) -> None:
  parser = flags.Flags(None)
  hosts.define_flags(parser)
  values = parser.read(['train', *given])
  with pytest.raises(refusals.ConfigError) as caught:
    hosts.join(values)
  assert str(caught.value).startswith(words)
  assert len(str(caught.value).splitlines()) == 1


def test_without_flags_there_is_one_process() -> None:
  parser = flags.Flags(None)
  hosts.define_flags(parser)
  hosts.join(parser.read(['train']))
  assert hosts.count() == 1
  assert hosts.is_first()
  assert hosts.from_first(lambda: 3) == 3
