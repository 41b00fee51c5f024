"""The study of the methods: its sums, and one small run of it."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import ml_collections
import pytest

from experiments import refusals
from experiments.runs import run_folder
from experiments.studies.methods import (
  study,
)

pytestmark = pytest.mark.once


def small() -> ml_collections.ConfigDict:
  config = study.COMMAND.get_config()
  config.model.update(name='mlp', widths=(4,))
  config.dataset.update(train_samples=64, test_samples=20)
  config.update(batch_size=16, epochs=1, log_every=1, eval_every=1)
  config.methods.update(
    seeds=(0, 1), bases=('sgd', 'muon'), variants=('frozen',), target_loss=9.0
  )
  config.methods.rates.update(sgd=(0.1, 1e30), muon=(0.01,))
  return config


def test_the_study_goes_on_where_it_stopped(tmp_path: pathlib.Path) -> None:
  config = small()
  folder = run_folder.create(
    tmp_path, config, overwrite=True, files=study.COMMAND.files
  )
  study.work(config, folder)
  rows = folder.rows()
  turns = [
    ('SGD', 0.1),
    ('GT-DDP SGD, frozen', 0.1),
    ('Muon', 0.01),
    ('SGD', 1e30),
    ('GT-DDP SGD, frozen', 1e30),
  ]
  assert [(r['seed'], r['form'], r['rate']) for r in rows] == [
    (seed, *turn) for seed in (0, 1) for turn in turns
  ]
  assert [r['diverged'] for r in rows if r['rate'] > 1] == 4 * [True]
  assert not any(r['diverged'] for r in rows if r['rate'] == 0.1)
  lines = folder.file('metrics.jsonl').read_text().splitlines(keepends=True)
  folder.file('metrics.jsonl').write_text(''.join(lines[:-1]))
  study.work(config, folder)
  again = folder.rows()
  assert again[:-1] == rows[:-1]
  assert again[-1]['final_loss'] == rows[-1]['final_loss']
  result = json.loads(folder.file('result.json').read_text())
  assert [s['method'] for s in result['methods']] == list(
    dict.fromkeys(form for form, _ in turns)
  )
  report = folder.file('results.md').read_text()
  assert '64 training and 20 test samples' in report
  assert 'budgets are **not** equal' in report
  assert '## How' in report and ', jaxlib ' in report
  assert 'diverged 2/2 at 1e+30' in report
  for name in re.findall(r'!\[.*\]\((.*)\)', report):
    assert folder.file(name).stat().st_size > 10_000


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'bases': ('lion', 'muon')}, r'methods\.bases.*feedback.*sgd'),
    ({'bases': ('shampoo',)}, r'methods\.bases.*some of'),
    ({'variants': ('newton',)}, r'methods\.variants.*some of frozen'),
    ({'seeds': (0, 0)}, r'methods\.seeds.*twice'),
    ({'target_loss': 0.0}, r'methods\.target_loss'),
    ({'rates.lion': (0.1, -0.1)}, r'methods\.rates\.lion.*above 0'),
  ],
)
def test_what_it_cannot_use_is_refused(changes: Any, message: str) -> None:
  config = study.COMMAND.get_config()
  config.update_from_flattened_dict(
    {f'methods.{key}': value for key, value in changes.items()}
  )
  with pytest.raises(refusals.ConfigError, match=message):
    study.COMMAND.validate(config)


@pytest.fixture(scope='module')
def compared(tmp_path_factory: pytest.TempPathFactory) -> Any:
  """The short comparison, with a rate at which Adam diverges."""
  config = study.COMMAND.get_config()
  config.model.update(name='mlp', widths=(8,))
  config.update(batch_size=256, epochs=1, log_every=2, eval_every=2)
  config.methods.update(
    preset='compare', bases=('sgd', 'adam'), seeds=(0, 3), target_accuracy=0.2
  )
  config.learning_rates.update(sgd=0.3, adam=1e30)
  path = tmp_path_factory.mktemp('compare')
  folder = run_folder.create(path, config, True, study.FILES)
  study.work(config, folder)
  return folder


def test_a_short_comparison_has_every_pair_and_seed(compared: Any) -> None:
  rows = compared.rows()
  assert [(row['seed'], row['form'], row['rate']) for row in rows] == [
    (seed, form, rate)
    for seed in (0, 3)
    for form, rate in (
      ('SGD', 0.3),
      ('GT-DDP SGD', 0.3),
      ('Adam', 1e30),
      ('GT-DDP Adam', 1e30),
    )
  ]


def test_pairs_start_from_the_same_parameters(compared: Any) -> None:
  starts = {
    (row['seed'], row['evaluations'][0]['train_loss'])
    for row in compared.rows()
  }
  assert len(starts) == 2  # seeds


def test_a_run_that_broke_is_counted_and_not_averaged(compared: Any) -> None:
  for row in compared.rows():
    if row['form'].endswith('Adam'):
      assert 'expected a finite number' in row['stopped']
      assert 'lower config.learning_rates.adam' in row['stopped']
    else:
      assert row['stopped'] is None
  table = compared.file('results.md').read_text().split('## Accuracy')[1]
  sgd, adam = (
    next(line for line in table.splitlines() if line.startswith(f'| {name} '))
    for name in ('SGD', 'Adam')
  )
  assert '| 2/2 |' in sgd and ' ± ' in sgd
  assert '| 0/2 |' in adam and ' ± ' not in adam
  assert compared.file('accuracy.png').stat().st_size > 10_000


def test_the_preset_leaves_what_was_given() -> None:
  config = study.COMMAND.get_config()
  assert study.preset(config) == config
  config.methods.update(preset='compare', seeds=(7,))
  config.methods.rates.adam = (0.5,)
  made = study.preset(config).methods
  assert made.seeds == (7,) and made.bases == ('sgd', 'rmsprop', 'adam')
  assert made.rates.adam == (0.5,)
  assert made.rates.sgd == (config.learning_rates.sgd,)
  assert made.target_accuracy == 0.97
  variants = {form.title: form for form in study.variants(study.preset(config))}
  assert variants['GT-DDP SGD'].terminal == config.optimizer.terminal
  config.optimizer.value = 'bellman'
  config.methods.bases = ('adamw',)
  with pytest.raises(refusals.ConfigError, match=r'methods\.bases'):
    study.COMMAND.validate(config)
