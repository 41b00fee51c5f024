"""The studies of many trainings, and what the levels buy."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib

import ml_collections
import optax
import pytest

import gtddp_jax as gt
from experiments import refusals
from experiments.data import splits
from experiments.optimizers import registry
from experiments.report import intervals
from experiments.runs import cli, run_folder
from experiments.studies import outcomes, trainings, value_recursions
from experiments.studies.costs import benchmark, scaling
from experiments.studies.methods import study
from experiments.training import loop, programs

pytestmark = pytest.mark.once


compared = dataclasses.replace(study.COMMAND, unread=registry.COMPARED)


def small() -> ml_collections.ConfigDict:
  config = value_recursions.COMMAND.get_config()
  config.model.update(name='mlp', widths=(8,))
  config.update(batch_size=256, epochs=1, log_every=2, eval_every=2)
  config.optimizer.base.name = 'sgd'
  config.value_recursions.update(seeds=(0,), rates=(0.1, 1e30), target_loss=3.0)
  return config


def test_the_levels_go_on_and_mark_what_diverged(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  variants = (
    *value_recursions.VARIANTS[:1],
    trainings.Variant('ours', gt.sampled(1), 'coupled'),
  )
  monkeypatch.setattr(value_recursions, 'VARIANTS', variants)
  config = small()
  folder = run_folder.create(
    tmp_path, config, overwrite=True, files=value_recursions.COMMAND.files
  )
  value_recursions.work(config, folder)
  rows = folder.rows()
  assert [(row['form'], row['rate']) for row in rows] == [
    (form.title, rate) for rate in (0.1, 1e30) for form in variants
  ]
  assert [row['diverged'] for row in rows[:3]] == [False, False, True]
  assert rows[0]['steps_to_target'] == 1
  assert rows[0]['seconds_to_target'] == rows[0]['seconds_per_step']
  base, ours = json.loads(folder.file('result.json').read_text())
  assert base['best']['rate'] == 0.1
  assert base['step_ratio'] == 1
  assert base['rates'][1]['final_loss'] is None
  assert ours['best']['reached'] == 1
  assert 'diverged 1/1' in folder.file('results.md').read_text()
  assert folder.file('value_recursions.png').stat().st_size > 5000

  lines = folder.file('metrics.jsonl').read_text().splitlines(keepends=True)
  folder.file('metrics.jsonl').write_text(''.join(lines[:-1]))
  assert run_folder.resumes(tmp_path, config)
  value_recursions.work(config, folder)
  assert folder.rows()[:-1] == rows[:-1]
  assert len(folder.rows()) == len(rows)
  config.batch_size = 128
  assert not run_folder.resumes(tmp_path, config)


def test_the_base_of_the_levels_is_the_one_that_train_uses() -> None:
  config = small()
  trained = trainings.Study(config, value_recursions.VARIANTS, target=0.1)
  config.optimizer.update(name='sgd')
  config.optimizer.base.learning_rate = 0.1
  program = programs.build(trained.network, config, trained.dataset)
  rows = list(loop.Loop(program, config, trained.dataset, seed=3).rows())
  run = trainings.Run(value_recursions.VARIANTS[0], 3, {'rate': 0.1})
  (row,) = trained.train([run])
  assert row['test_accuracy'] == rows[-1]['test_accuracy']
  expected = sum(
    part['batch_loss'] * (part['step'] - before['step'])
    for before, part in itertools.pairwise(rows)
  )
  assert row['final_loss'] * row['steps'] == pytest.approx(expected)


def test_levels_need_an_explicit_curvature(tmp_path: pathlib.Path) -> None:
  config = small()
  config.optimizer.base.name = 'adamw'
  with pytest.raises(refusals.ConfigError, match='explicit curvature'):
    value_recursions.work(config, run_folder.RunFolder(tmp_path))


def test_what_a_run_came_to() -> None:
  assert outcomes.smooth([2.0, 2.0]) == pytest.approx([2.0, 2.0])
  losses = [2.0, *[0.0] * 40]
  row = outcomes.outcome(losses, 0.5, stopped=False, epoch=10, target=0.1)
  reached = row['steps_to_target']
  smoothed = outcomes.smooth(losses)
  assert smoothed[reached - 1] < 0.1 <= smoothed[reached - 2]
  assert row['seconds_to_target'] == 0.5 * reached
  assert row['final_loss'] == 0
  losses += [1e3] * 20
  row = outcomes.outcome(losses, 0.5, stopped=False, epoch=10, target=0.1)
  assert row['diverged']
  assert row['steps_to_target'] is None


def test_the_largest_stable_rate_is_stable_for_every_seed() -> None:
  rows = [
    {
      'form': 'base',
      'rate': rate,
      'seed': seed,
      'diverged': False,
      'final_loss': loss,
      'test_accuracy': 0.9,
      'steps_to_target': steps,
      'seconds_to_target': steps and 0.5 * steps,
      'seconds_per_step': 0.5,
    }
    for rate, seed, loss, steps in (
      (0.1, 0, 0.2, 40),
      (0.1, 1, 0.2, 60),
      (1.0, 0, 0.1, 10),
      (1.0, 1, 1.2, None),
    )
  ]
  (found,) = outcomes.summaries(rows, ['base'], [0.1, 1.0], classes=10)
  assert found['largest_stable_rate'] == 0.1
  assert found['best']['rate'] == 0.1
  assert found['best']['steps_to_target'] == [40, 60]
  assert outcomes.standings([found])[3].cells == ['50 ± 14']
  assert outcomes.standings([found])[4].cells == ['-']


def test_steps_to_the_target_are_compared_by_seed() -> None:
  rows = [
    {
      'form': form,
      'rate': 0.1,
      'seed': seed,
      'diverged': False,
      'final_loss': 0.1,
      'test_accuracy': 0.9,
      'steps_to_target': steps,
      'seconds_to_target': 0.5 * steps,
      'seconds_per_step': 0.5,
    }
    for form, steps_by_seed in {
      'base': {0: 40, 1: 80, 2: 160},
      'half': {2: 80, 1: 41, 0: 20},
      'close': {0: 39, 1: 79, 2: 159},
    }.items()
    for seed, steps in steps_by_seed.items()
  ]
  found = outcomes.summaries(rows, ['base', 'half', 'close'], [0.1], 10)
  assert [
    s['steps_ratio'] and s['steps_ratio']['significance'] for s in found
  ] == [
    None,
    intervals.LOWER,
    intervals.OPEN,
  ]
  assert found[1]['steps_ratio']['ratio'] == pytest.approx(0.504, abs=1e-3)
  bars = outcomes.bars(found, 0.1, ['base', 'close'])
  assert [list(part.bases) for part in bars] == [[0, 2], [0, 2]]
  table = {(c.head, c.unit): c.cells for c in outcomes.standings(found)}
  assert table['seconds', '× base'][1] == table['steps', '× base'][1]
  said = outcomes.short(found, ['base'])
  assert said == [
    'The 2 variants with feedback against the base, each at the best of 1 '
    'rates, chosen on the seeds that they are compared on; steps to the '
    'target: 1 significantly lower, 0 significantly higher, 1 no significant '
    'difference; seconds to the target: 1 significantly lower, 0 significantly '
    'higher, 1 no significant difference.',
    'The fewest steps: *half* at rate 0.1, × 0.50 [0.49, 0.52] (significantly '
    'lower), with a step of 1.00 × that of the base.',
    'The fewest seconds: *half* at rate 0.1, × 0.50 [0.49, 0.52] '
    '(significantly lower), with a step of 1.00 × that of the base.',
    'The largest rate at which all seeds end below half of chance: 0.1 of '
    '*base* and *half* and *close*.',
  ]
  lost = {'steps_to_target': None, 'seconds_to_target': None, 'final_loss': 9.0}
  never = [row | lost for row in rows]
  found = outcomes.summaries(never, ['base', 'half', 'close'], [0.1], 10)
  assert outcomes.short(found, ['base'])[1:] == [
    'No rate lets all seeds end below half of chance.'
  ]


def test_a_clipped_base_takes_no_longer_step_than_its_norm() -> None:
  config = small()
  trained = trainings.Study(config, value_recursions.VARIANTS, target=0.1)
  params = trained.network.init(0)
  batch = splits.batch(trained.dataset.train, config.batch_size, 0, 0)
  norms = {}
  for form in value_recursions.VARIANTS[:3]:
    tx = trained.optimizer(form, {'learning_rate': 2.0})
    updates, _ = tx.update(None, tx.init(params), params, batch=batch)
    norms[form.clip] = float(optax.tree.norm(updates)) / 2
  assert norms[None] > 1
  assert norms[1.0] == pytest.approx(1, rel=1e-5)
  assert norms[0.1] == pytest.approx(0.1, rel=1e-5)


def test_kfac_is_not_clipped_from_outside(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(
    value_recursions, 'VARIANTS', value_recursions.VARIANTS[:2]
  )
  config = small()
  config.optimizer.base.name = 'kfac'
  config.value_recursions.rates = (0.1,)
  folder = run_folder.create(
    tmp_path, config, overwrite=True, files=value_recursions.COMMAND.files
  )
  value_recursions.work(config, folder)
  assert [row['form'] for row in folder.rows()] == ['base alone']


def test_the_levels_refuse_what_they_do_not_read(
  tmp_path: pathlib.Path,
) -> None:
  config = small()
  folder = run_folder.create(
    tmp_path, config, overwrite=False, files=value_recursions.COMMAND.files
  )
  config.optimizer.accumulate = 2
  with pytest.raises(refusals.ConfigError, match=r'optimizer\.accumulate'):
    value_recursions.work(config, folder)
  config.optimizer.accumulate = 1
  config.optimizer.schedule.name = 'cosine'
  with pytest.raises(refusals.ConfigError, match=r'optimizer\.schedule'):
    value_recursions.work(config, folder)


@pytest.mark.parametrize(
  ('command', 'argument'),
  [
    (value_recursions.COMMAND, '--config.optimizer.trust_region=0.1'),
    (value_recursions.COMMAND, '--config.seed=7'),
    (compared, '--config.optimizer.base.learning_rate=0.5'),
    (benchmark.COMMAND, '--config.optimizer.base.eps=0.1'),
    (scaling.COMMAND, '--config.batch_size=8'),
  ],
)
def test_what_a_study_chooses_itself_is_refused(
  command: cli.Command,
  argument: str,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  argv = ['study', f'--workdir={tmp_path}']
  with pytest.raises(SystemExit) as caught:
    cli.parse(command, [*argv, argument])
  assert caught.value.code == 2
  key = argument[2:].split('=')[0]
  assert f'{key}: expected no value' in capsys.readouterr().err
  (section,) = command.sections
  own = {'benchmark': 'rounds=9', 'scaling': 'rounds=9'}
  cli.parse(
    command, [*argv, f'--config.{section}.{own.get(section, "seeds=(9,)")}']
  )
