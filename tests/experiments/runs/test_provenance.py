"""The last section of a report: command, seeds, device, versions."""

from __future__ import annotations

import pathlib
import subprocess

import pytest

from configs import default
from experiments.runs import comparison, provenance, run_folder, versions
from experiments.studies.methods import study

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
  assert provenance.section(
    'python -m x --a=1', (0, 3), HELD, {}
  ).splitlines() == [
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
  assert provenance.section(None, (), gpu, {}).splitlines()[2:] == [
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
    assert (
      provenance.shareable(f'python -m a {quoted}') == f'python -m a {shown}'
    )


def test_every_report_ends_with_it(tmp_path: pathlib.Path) -> None:
  made = run_folder.create(tmp_path, default.get_config(), overwrite=False)
  config = default.get_config()
  config.batch_size, config.dataset.data_dir = 17, str(tmp_path)
  made.write_json('config.json', config.to_dict())
  run_folder.RunFolder(made.path, 'python -m x').write_report('# Found\n', [7])
  text = made.file('results.md').read_text()
  assert text.startswith('# Found\n\n## How\n\n```sh\npython -m x\n```\n')
  assert '- seeds: 7\n' in text
  assert '| config.batch_size | 17 | 64 |' in text
  assert '| config.dataset.data_dir | FOLDER | None |' in text
  assert 'config.epochs' not in text


def test_a_section_of_a_study_is_shown_in_its_report() -> None:
  command = study.COMMAND
  config = command.get_config()
  config.methods.rates.adam = (0.5,)
  config.epochs = 3
  held = comparison.plain(config.to_dict())
  text = provenance.section('python -m x', (), HELD, held, command.sections)
  assert '| config.methods.rates.adam | [0.5] |' in text
  assert '| config.epochs | 3 | 20 |' in text
  assert 'config.methods.seeds' not in text


def test_what_came_out_in_short() -> None:
  said = ['One.', 'Two - or so.']
  for title in ('', '# Found\n\n'):
    page = f'{title}- a\n\n## B\n'
    made = provenance.with_short(page, said)
    assert made.startswith(
      f'{title}## In short\n\n- One.\n- Two - or so.\n\n- a\n'
    )
    assert provenance.parted(made) == (said, page)
    assert provenance.with_short(page, []) == page
    assert provenance.parted(page) == ([], page)


def test_the_report_itself_is_no_change(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  for path in ('experiments/a.py', 'docs/results/README.md', 'docs/b.md'):
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text('old')
  for words in (['init', '-q'], ['add', '.']):
    subprocess.run(['git', *words], cwd=tmp_path, check=True)
  who = ['-c', 'user.name=a', '-c', 'user.email=a@b.c']
  subprocess.run(['git', *who, 'commit', '-qm', 'a'], cwd=tmp_path, check=True)
  monkeypatch.setattr(
    versions, '__file__', str(tmp_path / 'experiments' / 'versions.py')
  )
  (tmp_path / 'docs/results/README.md').write_text('new')
  (tmp_path / 'docs/results/figure.png').touch()
  assert versions.versions()['git_changed_files'] == []
  (tmp_path / 'docs/b.md').write_text('new')
  assert versions.versions()['git_changed_files'] == ['M docs/b.md']
