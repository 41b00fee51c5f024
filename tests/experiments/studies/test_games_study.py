"""The study of cooperative games: its sums, and one small run of it."""

from __future__ import annotations

import math
import pathlib
from typing import Any

import ml_collections
import pytest

from configs import cgb
from experiments import refusals
from experiments.report import intervals
from experiments.runs import run_folder
from experiments.studies import games, trainings

pytestmark = pytest.mark.once


def row(form: str, rate: float, seed: int, loss: float | None) -> Any:
  return {
    'form': form,
    'rate': rate,
    'damping': 0.1,
    'seed': seed,
    'final_loss': loss,
    'diverged': loss is None,
    'test_accuracy': None if loss is None else 1 - loss,
    'seconds_per_step': 2.0 if form == 'ours' else 1.0,
  }


ROWS = [
  row('base', 0.1, 0, 0.4), row('base', 0.1, 1, 0.2), row('base', 0.1, 2, 0.3),
  row('base', 1.0, 0, 0.1), row('base', 1.0, 1, None), row('base', 1.0, 2, 0.1),
  row('ours', 0.1, 0, 0.3), row('ours', 0.1, 1, 0.15), row('ours', 0.1, 2, 0.2),
  row('ours', 1.0, 0, 0.1), row('ours', 1.0, 1, 0.1), row('ours', 1.0, 2, 0.1),
]  # fmt: skip


def test_forms_are_compared_at_their_own_best_and_at_the_base_s() -> None:
  base, ours = games.summaries(ROWS, ['base', 'ours'])
  assert base['best'] == ours['base_best'] == (0.1, 0.1)
  assert ours['best'] == (1.0, 0.1)
  # Differences -0.1, -0.05 and -0.1: t(0.975, 2) = 4.3027.
  assert ours['loss_gain']['mean'] == pytest.approx(-0.25 / 3)
  half = 4.30265 * (0.05 / math.sqrt(3)) / math.sqrt(3)
  assert ours['loss_gain']['half_width'] == pytest.approx(half, rel=1e-4)
  assert ours['accuracy_gain']['mean'] == pytest.approx(0.25 / 3)
  assert ours['tuned_loss_gain']['mean'] == pytest.approx(-0.2)
  assert base['loss_gain'] is None
  assert ours['step_ratio'] == 2


def test_tables_say_what_is_significant() -> None:
  found = games.summaries(ROWS, ['base', 'ours'])
  columns = games._standings(found)
  words = [column.cells for column in columns if column.head == 'significance']
  assert words == [['-', intervals.LOWER], ['-', intervals.HIGHER]]
  assert games._short(found)[0] == (
    'The 1 variants against base, all at the best rate and damping of base, '
    'train loss: 1 significantly lower, 0 significantly higher, 0 no '
    'significant difference; accuracy: 0 significantly lower, 1 significantly '
    'higher, 0 no significant difference.'
  )
  assert games._short(found)[2].startswith('Each at its own best, it is ours')


def test_a_variant_that_diverges_is_said_to() -> None:
  lost = row('ours', 0.1, 1, 300.0) | {'diverged': True}
  rows = [r for r in ROWS if r['rate'] == 0.1 and r['form'] == 'base']
  rows += [row('ours', 0.1, 0, 0.1), lost, row('ours', 0.1, 2, 0.1)]
  found = games.summaries(rows, ['base', 'ours'])
  assert found[1]['loss_gain'] == {'significance': 'diverged'}
  columns = {column.head: column.cells for column in games._standings(found)}
  assert columns['train loss'][1] == 'diverged 1/3'
  assert columns['accuracy'][1] == '-'
  assert '0 no significant difference, 1 diverged' in games._short(found)[0]


def small(base: str = 'ekfac') -> ml_collections.ConfigDict:
  config = games.COMMAND.get_config(cgb.get_config(base))
  config.model.update(widths=(2,), units=4)
  config.update(batch_size=256, epochs=1, log_every=3, eval_every=3)
  config.games.update(seeds=(0,), rates=(0.01,), dampings=(0.1, 1.0))
  return config


def test_a_study_goes_on_where_it_stopped(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  variants = [
    trainings.Variant('EKFAC'),
    trainings.Variant('GT-EKFAC', cooperation='schur'),
  ]
  monkeypatch.setattr(games, 'variants', lambda title: variants)
  config = small()
  folder = run_folder.create(
    tmp_path, config, overwrite=True, files=games.COMMAND.files
  )
  games.work(config, folder)
  lines = folder.file('metrics.jsonl').read_text().splitlines()
  assert len(lines) == 4
  # The last run again, and nothing else.
  folder.write_text('metrics.jsonl', '\n'.join(lines[:3]) + '\n')
  games.work(config, folder)
  again = folder.rows()
  assert len(again) == 4
  assert [r['damping'] for r in again] == [0.1, 0.1, 1.0, 1.0]
  assert again[0]['final_loss'] != again[1]['final_loss']
  report = folder.file('results.md').read_text()
  assert 'GT-EKFAC' in report and '0.01 / 0.1' in report
  assert folder.file('games.png').stat().st_size > 10_000


def test_the_study_needs_a_kronecker_base(tmp_path: pathlib.Path) -> None:
  config = small('adam')
  folder = run_folder.create(
    tmp_path, config, overwrite=True, files=games.COMMAND.files
  )
  with pytest.raises(refusals.ConfigError, match=r'kfac.*adam'):
    games.work(config, folder)


def test_a_form_that_cannot_be_built_is_refused_before_the_first_run(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  config = small()
  config.optimizer.base.largest = 8
  folder = run_folder.create(
    tmp_path, config, overwrite=True, files=games.COMMAND.files
  )
  monkeypatch.setattr(trainings.Study, 'train', None)
  with pytest.raises(
    refusals.ConfigError, match=r"base: .*'GT-EKFAC, kronecker'.*largest=8"
  ):
    games.work(config, folder)
  assert folder.rows() == []
