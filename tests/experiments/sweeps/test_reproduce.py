"""All studies in one command: skipped, gone on with, failed, and reported."""

from __future__ import annotations

import importlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from configs import reproduce as plans
from experiments import reproduce
from experiments.runs import cli, run_folder
from experiments.sweeps import reproduction

pytestmark = pytest.mark.once

ROOT = pathlib.Path(__file__).resolve().parents[3]
FAKE = (sys.executable, str(pathlib.Path(__file__).with_name('fake_study.py')))


def part(name: str, what: str = '', **keys: object) -> plans.Part:
  made = plans.Part(
    name,
    f'Title of {name}',
    f'Shows {name}.',
    'experiments.fake',
    (f'--what={what}',),
    {'small': plans.Budget(3)},
    {'curves.png': f'Curves of {name}'},
  )
  return made._replace(**keys)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def fake(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr(reproduce, '_COMMAND', FAKE)
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'none'))
  monkeypatch.chdir(tmp_path)


def reproduced(*arguments: str) -> int:
  defaults = '--workdir=w', '--report=r'
  with cli.refusing():
    values = reproduce.parse(['program', *defaults, *arguments])
  return reproduce.run(values)


def test_each_budget_has_folders_of_its_own() -> None:
  found = set()
  for budget in plans.BUDGETS:
    values = reproduce.parse(['program', f'--budget={budget}'])
    session = reproduce.Session(values)
    found |= {str(session.path), str(session.report)}
  assert {'runs/reproduce', 'docs/results', 'docs/results/accuracy'} <= found
  assert len(found) == 2 * len(plans.BUDGETS)


def test_a_part_alone_leaves_the_whole_report_alone() -> None:
  values = reproduce.parse(['program', '--only=training'])
  assert str(reproduce.Session(values).report) == 'runs/reproduce'


def calls() -> list[str]:
  path = pathlib.Path('calls')
  found = path.read_text().split('\n')[:-1] if path.exists() else []
  path.unlink(missing_ok=True)
  return found


def page() -> str:
  return pathlib.Path('r', 'README.md').read_text()


def test_the_report(
  monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
  parts = (
    part('one'),
    part('two', 'run', source='one'),
    part('three', dataset='mnist'),
  )
  monkeypatch.setattr(plans, 'PARTS', parts)
  assert reproduced() == 0
  said = capsys.readouterr().err
  assert '[1/3] one: begins, about 3 min' in said
  assert '[3/3] three: not run (needs prepared mnist: put train-' in said
  text = page()
  assert text.startswith(f'{reproduction.MARK}\n# Results\n')
  assert 'Budget `small` (' in text
  assert '2 of 3 parts in 0 minutes on 2 CPU cores; about 9 minutes' in text
  assert '| [Title of one](#title-of-one) |  | `one` | done | 0.0 |' in text
  first, second, third = re.split(r'^## ', text, flags=re.M)[3:]
  assert first.splitlines() == [
    'Title of one',
    '',
    'Shows one.',
    '',
    '### Found',
    '',
    '| a | b |',
    '',
    '![Curves of one](one-curves.png)',
    '',
    '*Curves of one. 2 CPU cores, budget `small`.*',
    '',
    '### How',
    '',
    '```sh',
    'python -m study',
    '```',
    '',
    '- seeds: 4, 5',
    '- wall time: 0.0 minutes',
    '- device: 2 CPU cores',
    '',
  ]
  # A study without a report of its own.
  assert '![Curves of two](two-curves.png)' in second
  assert (
    'python -m experiments.fake --run=w/one --what=run --workdir=w/two'
  ) in second
  for line in (
    '- wall time: 0.0 minutes\n- device: 2 CPU cores\n',
    '- versions: Python 3.12, jax 0.8\n',
  ):
    assert line in second
  assert '**not run**: needs prepared mnist: put train-' in third
  assert '--dataset=mnist --manual_dir=FOLDER' in third
  copied = {path.name for path in pathlib.Path('r').iterdir()}
  assert copied == {'README.md', 'one-curves.png', 'two-curves.png'}
  assert pathlib.Path('r', 'two-curves.png').read_text() == 'picture of two'


def test_what_came_out_in_short_is_under_the_title(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  parts = (
    part('one', 'short'),
    part('two'),
    part('three', dataset='mnist'),
    part('four', budgets={'full': plans.Budget(3)}),
  )
  monkeypatch.setattr(plans, 'PARTS', parts)
  assert reproduced() == 0
  head, first = re.split(r'^## ', page(), flags=re.M)[1:4:2]
  assert head.splitlines() == [
    'In short',
    '',
    reproduction._WORDS,
    '',
    '- [Title of one](#title-of-one)',
    '  - It is so.',
    '  - It is not.',
    '- Not run here: Title of three (not run), Title of four (budget `full`).',
    '',
  ]
  assert 'It is so' not in first and '### Found' in first


def test_what_is_done_is_kept_until_its_command_changes(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  parts = part('one'), part('two', source='one'), part('three')
  monkeypatch.setattr(plans, 'PARTS', parts)
  assert reproduced('--only=one') == 0
  assert calls() == ['one']
  assert '**not yet run**' in page()
  assert reproduced() == 0
  assert calls() == ['two', 'three']
  assert reproduced() == 0
  assert calls() == []
  # In a new folder, as is what takes the changed one's.
  monkeypatch.setattr(plans, 'PARTS', (part('one', 'new'), *parts[1:]))
  assert reproduced() == 0
  assert calls() == ['one', 'two']
  pathlib.Path('w', 'three', 'curves.png').unlink()
  assert reproduced() == 0
  assert calls() == ['three again']


def test_what_fails_stops_no_other_and_is_retried(
  monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
  parts = (
    part('bad', 'fail'),
    part('next', source='bad'),
    part('anew', 'fail', resumes=False),
    part('bare', 'bare'),
    part('good'),
  )
  monkeypatch.setattr(plans, 'PARTS', parts)
  assert reproduced() == 1
  assert calls() == ['bad', 'anew', 'bare', 'good']
  said = capsys.readouterr().err.splitlines()
  assert said[-1].startswith('error: failed: bad, next, anew, bare; ')
  text = page()
  assert '**failed**: exit code 7: error: FOLDER: something broke.' in text
  assert '**failed**: needs the part bad, which is not done.' in text
  assert '**failed**: it made no curves.png.' in text
  assert '![Curves of good](good-curves.png)' in text
  pathlib.Path('mended').touch()
  assert reproduced('--only=next,anew') == 0  # bad is read by next
  assert calls() == ['bad again', 'next', 'anew']


COMMAND = (
  'import sys; from experiments import reproduce; '
  'from configs import reproduce as plans; '
  'from configs.reproduce import Budget, Part; '
  f'reproduce._COMMAND = {FAKE!r}; '
  'plans.PARTS = %r; '
  'sys.exit(reproduce.run(reproduce.parse(sys.argv)))'
)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL], ids=str)
def test_what_was_stopped_ends_with_the_report_of_one_that_was_not(
  number: int, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  parts = part('one'), part('two', 'wait'), part('three')
  words = [sys.executable, '-c', COMMAND % (parts,), '--workdir=w']
  process = subprocess.Popen(
    [*words, '--report=r'], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    env={'PYTHONPATH': str(ROOT)},
  )  # fmt: skip
  waiting = tmp_path / 'waiting'
  while not (waiting.exists() and waiting.read_text().endswith('\n')):
    assert process.poll() is None
    time.sleep(0.02)
  process.send_signal(number)
  said = process.communicate()[1].splitlines()
  if number == signal.SIGTERM:  # passed on to the part
    assert process.returncode == 143
    assert said[-1] == 'stopped; the same command goes on.'
    assert (tmp_path / 'w' / 'two.log').read_text() == 'stopped\n'
  else:  # as if the power had failed
    os.kill(int(waiting.read_text()), number)
  assert not (tmp_path / 'r' / 'README.md').exists()
  (tmp_path / 'mended').touch()
  monkeypatch.setattr(plans, 'PARTS', parts)
  assert reproduced() == 0
  assert calls() == ['one', 'two', 'two again', 'three']
  broken = page()
  assert reproduced('--workdir=v') == 0
  assert calls() == ['one', 'two', 'three']
  assert 'rows 1, 2\n' in broken
  minutes = re.compile(r'\d+(\.\d)?(?= minutes| \|$)', re.M)
  assert minutes.sub('N', broken) == minutes.sub('N', page())


def test_no_folder_of_this_machine_is_reported(
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  monkeypatch.setattr(plans, 'PARTS', (part('one', 'data'),))
  folders = f'--workdir={tmp_path}/w', f'--data_dir={tmp_path}/my data'
  assert reproduced(*folders) == 0
  assert 'from FOLDER/x\n' in page()
  assert str(tmp_path) not in page()
  monkeypatch.setattr(plans, 'PARTS', (part('one', 'leak'),))
  with pytest.raises(SystemExit) as caught:
    reproduced()
  assert caught.value.code == 2
  said = capsys.readouterr().err.splitlines()[-1]
  assert said.startswith('error: --report: expected no folder of this machine')


def test_refusals(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  (tmp_path / 'file').touch()
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine' / 'README.md').write_text('# Mine\n')
  (tmp_path / 'large').mkdir()
  (tmp_path / 'large' / 'reproduce.json').write_text('{"budget": "full"}')
  for arguments, line in (
    (
      ('--budget=tiny',),
      "--budget: expected one of small, accuracy, extended, full, got 'tiny'",
    ),
    (('--only=blocks,b',), '--only: expected some of methods-digits, vari'),
    (('--only=methods-cifar10',), "got 'methods-cifar10'; add --budget=full"),
    (('--only=methods-mnist',), '--only=methods-mnist: expected mnist in '),
    (('--workdir=file',), '--workdir: expected a folder, got the file'),
    (('--workdir=mine',), 'which holds other files'),
    (('--workdir=large',), 'got large, of the budget full'),
    (('--report=file',), '--report: expected a folder that can be written'),
    (('--report=mine',), '--report: expected a folder without a README.md of'),
    (('--what',), '--what: expected a flag that there is'),
    (('word',), 'word: expected only flags'),
  ):
    with pytest.raises(SystemExit) as caught:
      reproduced(*arguments)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith('error: ') and len(said.splitlines()) == 1
    assert line in said
  assert not (tmp_path / 'w').exists()
  assert (tmp_path / 'mine' / 'README.md').read_text() == '# Mine\n'


@pytest.mark.parametrize('budget', plans.BUDGETS)
def test_the_plan_can_be_used(
  budget: str, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.chdir(ROOT)  # configs are named from there
  parts = plans.get_plan(budget)
  assert len({one.name for one in parts}) == len(parts)
  for one in parts:
    module = one.module
    if (ROOT / module.replace('.', '/')).is_dir():
      module += '.study'
    own = importlib.import_module(module).COMMAND
    assert f'experiments.{own.name}' == one.module
    assert {*one.figures} <= {*run_folder.FILES, *own.files}
    assert one.source in ('', *(p.name for p in parts[: parts.index(one)]))
    if not one.source:
      words = reproduction.command(one, budget, 'w')[2:]
      monkeypatch.setattr('experiments.data.catalog.check', lambda *_: None)
      cli.parse(own, ['program', *words])
