"""What a step costs: its sums, one small run of it, and its refusals."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import ml_collections
import pytest

from experiments import refusals
from experiments.optimizers import registry
from experiments.runs import run_folder
from experiments.studies.costs import benchmark, benchmark_page

pytestmark = pytest.mark.once


def small(**keys: Any) -> ml_collections.ConfigDict:
  config = benchmark.COMMAND.get_config()
  config.benchmark.update(batch=2, rounds=3, **keys)
  return config


def turn(number: int, *seconds: float) -> dict[str, Any]:
  titles = 'plain optax', 'frozen, gradient', benchmark.INPUT
  return {
    'round': number,
    'seconds': dict(zip(titles, seconds, strict=True)),
  }


def test_ratios_are_of_one_round_and_goals_of_their_median() -> None:
  rows = [
    {'form': 'plain optax', 'compile_seconds': 2.0, 'memory': 3_000_000},
    {'form': 'frozen, gradient', 'compile_seconds': 4.0, 'memory': 6_000_000},
    turn(1, 0.1, 0.12, 0.001),
    turn(2, 0.2, 0.26, 0.001),
    turn(3, 0.4, 0.6, 0.04),
  ]
  base, ours, read = benchmark.summaries(rows, 'sgd')
  assert base['ratio'] == 1 and base['goal'] is None
  assert ours['seconds'] == 0.26
  assert ours['ratio'] == pytest.approx(1.3)
  assert ours['quartiles'] == pytest.approx((1.25, 1.4))
  assert (ours['goal'], ours['met_in'], ours['rounds']) == (1.4, 2, 3)
  assert ours['feedback'] and not base['feedback']
  assert read['met_in'] == 2 and read['memory'] is None
  columns = benchmark_page.columns([base, ours, read])
  assert [column.cells[1] for column in columns] == [
    'frozen, gradient', '260', '1.3 [1.25, 1.4]', '≤ 1.4',
    'met (2/3 rounds)', '4.0', '6',
  ]  # fmt: skip
  assert columns[5].cells[2] == '-'
  goals = f'frozen, gradient 1.3 (goal ≤ 1.4: met), {benchmark.INPUT} 0.01'
  (said,) = benchmark_page.short([base, ours, read], 'plain optax')
  assert said.startswith(f'Time over that of a step of plain optax: {goals} (')
  late = benchmark.summaries([*rows, turn(4, 1, 2, 1), turn(5, 1, 2, 1)], 'sgd')
  assert benchmark_page.columns(late)[4].cells[1] == 'missed (2/5 rounds)'


def only(monkeypatch: pytest.MonkeyPatch, *titles: str) -> None:
  variants = {title: benchmark.VARIANTS[title] for title in titles}
  monkeypatch.setattr(benchmark, 'VARIANTS', variants)


def test_a_study_goes_on_where_it_stopped(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  titles = 'plain optax', 'frozen, gradient'
  only(monkeypatch, *titles)
  config = small()
  folder = run_folder.create(
    tmp_path, config, overwrite=False, files=benchmark.COMMAND.files
  )
  held = [
    {'form': 'plain optax', 'compile_seconds': 1.0, 'memory': 1},
    turn(1, 0.1, 0.2, 0.001),
    turn(2, 0.1, 0.2, 0.001),
  ]
  for row in held:
    folder.log(row)
  benchmark.work(config, folder)
  *first, compiled, last = folder.rows()
  assert first == held
  assert compiled['form'] == 'frozen, gradient' and compiled['memory'] > 1e5
  assert last['round'] == 3 and min(last['seconds'].values()) > 0
  assert [*last['seconds']] == [*titles, benchmark.INPUT]
  page = folder.file('results.md').read_text()
  assert '| plain optax |' in page and '| reading a batch |' in page
  assert '\n## How\n' in page
  assert folder.file('ratios.png').stat().st_size > 5000
  found = json.loads(folder.file('result.json').read_text())
  assert [part['form'] for part in found] == [*titles, benchmark.INPUT]
  # What is done is not compiled again.
  monkeypatch.setattr(benchmark, 'Problem', None)
  benchmark.work(config, folder)


def test_a_form_that_skips_steps_is_not_timed(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  only(monkeypatch, 'plain optax', 'feedback=False')
  config = small(rate=1e38)
  folder = run_folder.create(
    tmp_path, config, overwrite=False, files=benchmark.COMMAND.files
  )
  with pytest.raises(refusals.ConfigError, match='skipped'):
    benchmark.work(config, folder)
  assert not [row for row in folder.rows() if 'seconds' in row]


@pytest.mark.parametrize('base', registry.EXPLICIT)
def test_every_goal_is_beside_the_base_alone(base: str) -> None:
  variants = benchmark.variants(base)
  assert next(iter(variants.values())).options is None
  alone = variants[benchmark.reference(base)]
  assert alone.options in (None, {'feedback': False}) and alone.goal is None
  assert all(form.feedback for form in variants.values() if form.goal)


def test_short_flags_are_keys() -> None:
  words = ['--base=ekfac', '-rounds', '7', '--batchy=1', '--workdir=rate']
  assert benchmark.expanded(words) == [
    '--config.benchmark.base=ekfac', '--config.benchmark.rounds', '7',
    '--batchy=1', '--workdir=rate',
  ]  # fmt: skip
