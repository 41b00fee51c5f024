"""The last section of a report: command, seeds, device, versions."""

from __future__ import annotations

import pathlib

import pytest

from configs import default
from experiments import how, runs

pytestmark = pytest.mark.once

HELD = {
  'python': '3.12.1',
  'packages': {'jax': '0.8.1', 'scikit-learn': None},
  'platform': 'Linux',
  'cpus': 2,
  'backend': 'cpu',
  'devices': ['cpu'],
  'git_commit': 'abcdef0123456789',
  'git_changed_files': ['M a', 'M b'],
}


def test_the_section() -> None:
  assert how.section('python -m x --a=1', (0, 3), HELD, {}).splitlines() == [
    '## How',
    '',
    '```sh',
    'python -m x --a=1',
    '```',
    '',
    '- seeds: 0, 3',
    '- device: 2 CPU cores',
    '- versions: Python 3.12.1, jax 0.8.1, commit abcdef012345 and '
    'changes in 2 files',
  ]
  gpu = {**HELD, 'backend': 'gpu', 'devices': ['H9', 'H9'], 'git_commit': None}
  assert how.section(None, (), gpu, {}).splitlines()[2:] == [
    '- device: 2 × H9',
    '- versions: Python 3.12.1, jax 0.8.1',
  ]


def test_a_command_names_no_folder_of_this_machine(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.chdir(tmp_path)
  here, root = str(tmp_path), tmp_path.anchor
  for word, shown in (
    (f'--workdir={here}/runs/x', '--workdir=runs/x'),
    (f'--workdir={root}somewhere', '--workdir=FOLDER'),
    ('--workdir=../x', '--workdir=FOLDER'),
    (f'--config={root}mine/a.py:sgd', '--config=FILE.py:sgd'),
    (
      f'--config=configs/held.py:{here}/c.json',
      '--config=configs/held.py:c.json',
    ),
    ('--config.dataset.data_dir=data', '--config.dataset.data_dir=FOLDER'),
    ('--config.compare.seeds=(0, 1)', "'--config.compare.seeds=(0, 1)'"),
    ('--config=configs/digits.py:adam', '--config=configs/digits.py:adam'),
    ('--run=runs/../runs/x', '--run=runs/../runs/x'),
  ):
    quoted = f"'{word}'"
    assert how.shareable(f'python -m a {quoted}') == f'python -m a {shown}'


def test_every_report_ends_with_it(tmp_path: pathlib.Path) -> None:
  made = runs.create(tmp_path, default.get_config(), overwrite=False)
  config = default.get_config()
  config.batch_size, config.dataset.data_dir = 17, str(tmp_path)
  made.write_json('config.json', config.to_dict())
  runs.RunFolder(made.path, 'python -m x').write_report('# Found\n', [7])
  text = made.file('results.md').read_text()
  assert text.startswith('# Found\n\n## How\n\n```sh\npython -m x\n```\n')
  assert '- seeds: 7\n' in text
  assert '| config.batch_size | 17 | 64 |' in text
  assert '| config.dataset.data_dir | FOLDER | None |' in text
  assert 'config.epochs' not in text
