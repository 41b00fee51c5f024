"""The studies: what a step costs, and how it stands high learning rates."""

from __future__ import annotations

import json
import pathlib

import pytest

from configs import default
from experiments import benchmark, rates, runs


def test_the_benchmark_compares_forms_with_plain_optax() -> None:
  costs = benchmark.measure(
    ['plain optax', 'frozen, gradient'], 'sgd', batch=2, rounds=1, rate=0.01
  )
  assert all(cost.step > 0 and cost.memory > 0 for cost in costs.values())
  table = benchmark.table(costs, 'sgd', 2)
  assert table.row_count == 2
  assert next(iter(table.columns[2].cells)) == '1.00'


def test_every_form_of_the_benchmark_is_one() -> None:
  assert next(iter(benchmark.FORMS.values())) is None


def test_rates_marks_what_diverged(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(rates, 'RATES', (0.1, 1e30))
  forms = (rates.Form(), rates.Form('gradient', 'bellman', 0.3))
  monkeypatch.setattr(rates, 'FORMS', forms)
  config = default.get_config()
  config.model.update(name='mlp', widths=(8,))
  config.update(batch_size=256, epochs=1, log_every=2, eval_every=2)
  config.optimizer.base.name = 'sgd'
  config.compare.seeds = (0,)
  folder = runs.create(tmp_path, config, overwrite=True)
  rates.work(config, folder)
  rows = json.loads(folder.file('result.json').read_text())
  assert [row['rate'] for row in rows] == [0.1, 1e30] * 2
  assert rows[0]['train_losses'][0] > 0
  assert rows[1]['train_losses'] == [None]
  assert 'bellman, gradient, 0.3' in folder.file('results.md').read_text()
  assert folder.file('rates.png').stat().st_size > 5000
