"""The studies of structure: blocks, placement, and pairs of classes."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np
import pytest

from configs import digits
from experiments import refusals
from experiments.data import splits
from experiments.runs import run_folder
from experiments.studies import placement, trainings
from experiments.studies.anatomy import class_pairs
from experiments.studies.blocks import figures, page, study
from experiments.training import programs

pytestmark = pytest.mark.once


def test_the_pair_that_is_farthest_apart() -> None:
  labels = np.array([0, 0, 1, 1, 2, 2, 3])
  values = np.array([0.0, 2.0, 3.0, 5.0, -9.0, -7.0, 99.0])
  found = class_pairs.distances(values, labels)
  # Means 1, 4, -8, and variances 2; a class of one sample has none.
  np.testing.assert_allclose(found[0, 1], 3 / np.sqrt(2))
  np.testing.assert_allclose(found, -found.T)
  assert not found[3].any()
  pair = class_pairs.best(values, labels)
  assert (pair.low, pair.high, pair.text()) == (2, 1, '2 / 1')
  assert pair.distance == pytest.approx(12 / np.sqrt(2))
  with pytest.raises(ValueError, match=r'expected two classes.*got labels'):
    class_pairs.best(values[:3], np.array([0, 0, 1]))


def test_chance_is_what_labels_without_meaning_reach() -> None:
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 5, 200)
  noise = [
    class_pairs.best(rng.normal(size=200), labels, seed) for seed in range(20)
  ]
  # 1 of 20 is expected: chance allows for the choice among 10 pairs.
  assert sum(pair.certain for pair in noise) <= 4
  assert class_pairs.best(labels + rng.normal(size=200), labels).certain


def test_the_mass_outside_of_the_diagonal() -> None:
  assert study.mass([[3, 1], [1, 5]]) == pytest.approx(2 / 36)
  assert study.mass([[3, 0], [0, 5]]) == study.mass(np.zeros((2, 2))) == 0
  # Far below what is left of 1 - trace in double precision.
  assert study.mass([[1, 1e-9], [1e-9, 1]]) == pytest.approx(1e-18)


def with_blocks(**section: Any) -> ml_collections.ConfigDict:
  config = study.COMMAND.get_config(digits.get_config('sgd'))
  config.model.update(name='mlp', widths=(4,), norm='none')
  config.update(batch_size=512, epochs=1)
  config.blocks.update(
    {'seeds': (0, 1), 'norms': ('none',), 'epochs': (0, 1), **section}
  )
  config.blocks.update(samples=3, batches=1)
  return config


def test_a_study_of_blocks_goes_on_where_it_stopped(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(page, 'TERMINALS', ('gradient',))
  config = with_blocks()
  study.COMMAND.validate(config)
  folder = run_folder.create(tmp_path, config, True, study.FILES)
  study.work(config, folder)
  lines = folder.file('metrics.jsonl').read_text().splitlines()
  assert len(lines) == 2
  folder.write_text('metrics.jsonl', lines[0] + '\n')
  study.work(config, folder)
  first, second = folder.rows()
  assert [first['seed'], second['seed']] == [0, 1]
  assert second['moments'] == run_folder.json.loads(lines[1])['moments']
  for moment in first['moments']:
    # Without batch statistics the library's update is the exact one.
    assert moment['coupled'] < 1e-5
    assert 1e-6 < moment['mass'][0] < 1
  assert first['moments'][0]['dropped'] > 1e-4
  assert first['layers'] == ['linear']
  assert [s['epoch'] for s in folder.result()] == [0, 1]
  text = folder.file('results.md').read_text()
  assert 'off-diagonal mass (%)' in text and '## How' in text
  for name in 'blocks.png', 'masses.png':
    assert folder.file(name).stat().st_size > 10_000


def test_normalisations_are_drawn_together(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(page, 'TERMINALS', ('gradient',))

  def row(norm: str, layers: list[str]) -> Any:
    moment = {
      'epoch': 0, 'batch': 0, 'terminal': 'gradient',
      'mass': [0.0, 0.25][: len(layers)], 'dropped': 0.5, 'coupled': 0.0,
    }  # fmt: skip
    maps = [np.eye(2).tolist()] * len(layers)
    return {'norm': norm, 'seed': 0, 'layers': layers, 'maps': maps} | {
      'moments': [moment]
    }

  rows = [row('none', ['a', 'b']), row('batch', ['a'])]
  parts = page.summaries(rows)
  assert [s['norm'] for s in parts] == ['none', 'batch']
  assert parts[0]['mass'] == {'mean': 0.125, 'least': 0.0, 'largest': 0.25}
  figures.maps(tmp_path / 'a.png', rows, 'title')
  figures.masses(tmp_path / 'b.png', parts)


@pytest.mark.parametrize(
  ('section', 'words'),
  [
    ({'norms': ('none', 'instance')}, r'norms: expected some of .*instance'),
    ({'epochs': (1, 0)}, r'epochs: expected rising numbers from 0'),
    ({'seeds': (1, 1)}, r'seeds: expected seeds from 0, none twice'),
  ],
)
def test_keys_of_blocks_are_checked(section: Any, words: str) -> None:
  with pytest.raises(refusals.ConfigError, match=words):
    study.COMMAND.validate(with_blocks(**section))


def test_what_blocks_cannot_use_is_refused() -> None:
  config = with_blocks(epochs=(0, 2))
  with pytest.raises(refusals.ConfigError, match=r'up to config.epochs \(1'):
    study.check(config)
  config = digits.get_config('ekfac')
  with pytest.raises(refusals.ConfigError, match=r'curvature is a diagonal'):
    study.check(config)
  config = with_blocks()
  config.model.compute_dtype = 'bfloat16'
  with pytest.raises(refusals.ConfigError, match=r'compute_dtype: .*float32'):
    study.check(config)


def test_what_only_one_normalisation_reads_stays_there() -> None:
  config = with_blocks()
  config.model.update(norm='group', groups=4)
  assert study.with_norm(config, 'batch').model.groups == 8
  assert study.with_norm(config, 'group').model.groups == 4


def placed(**model: Any) -> ml_collections.ConfigDict:
  config = placement.COMMAND.get_config(digits.get_config('sgd'))
  config.model.update({'widths': (2, 3), 'norm': 'none', **model})
  config.update(batch_size=256, epochs=1)
  config.placement.update(seeds=(0, 1, 2), rates=(0.1,))
  return config


class FakeStudy:
  """Trainings without training: `coupled` gains from the fork."""

  steps = 1
  sparse = True

  def __init__(self, config: Any, variants: Any, target: float):
    del variants, target
    self.place = config.model.projection

  def check(self, run: trainings.Run) -> None:
    """All of them can be built."""

  def train(self, runs: Any, advice: Any) -> Any:
    del advice
    return [self.row(run.variant, run.setting, run.seed) for run in runs]

  def row(self, form: Any, setting: Any, seed: int) -> Any:
    loss = 0.1 * seed + setting['learning_rate']
    if self.place == 'fork' and form.title == 'coupled':
      loss -= 0.05 + 0.01 * seed
    return {
      'form': form.title, 'seed': seed, 'final_loss': loss, 'diverged': False,
      'test_accuracy': 1 - loss, 'steps_to_target': None,
    }  # fmt: skip


def test_a_study_of_placement_goes_on_where_it_stopped(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(trainings, 'Study', FakeStudy)
  config = placed()
  folder = run_folder.create(tmp_path, config, True, placement.FILES)
  placement.work(config, folder)
  lines = folder.file('metrics.jsonl').read_text().splitlines()
  assert len(lines) == 4 * 2 * 3
  folder.write_text('metrics.jsonl', '\n'.join(lines[:-1]) + '\n')
  placement.work(config, folder)
  assert folder.file('metrics.jsonl').read_text().splitlines() == lines
  text = folder.file('results.md').read_text()
  (coupled,) = [x for x in text.splitlines() if x.startswith('| coupled')]
  assert '| -0.06 ± 0.025 | fork lower |' in coupled
  assert coupled.rstrip(' |').endswith('| -')
  (base,) = [x for x in text.splitlines() if x.startswith('| base alone')]
  assert '+0 ± 0 | - |' in base and 'lower' not in base
  assert 'train loss: 1 fork lower, 0 fork higher, 0 no sig' in text
  assert folder.file('placement.png').stat().st_size > 10_000


def test_both_places_are_one_network() -> None:
  dataset = splits.from_config(placed().dataset)
  merge, fork = (
    programs.build_network(placement.at(placed(), place), dataset)
    for place in placement.PLACES
  )
  names = [[s.name for s in n.graph.stages] for n in (merge, fork)]
  assert sorted(names[0]) == sorted(names[1])
  where = [n.index('block_2/projection') for n in names]
  assert where[1] == where[0] - 2
  params = merge.init(0)
  jax.tree.map(np.testing.assert_array_equal, params, fork.init(0))
  images = np.ones(merge.graph.inputs.shape, np.float32)
  found = [jax.jit(n.graph.__call__)(params, images) for n in (merge, fork)]
  np.testing.assert_allclose(*found, rtol=1e-5)


@pytest.mark.parametrize(
  ('model', 'words'),
  [
    ({'projection': 'fork'}, r"projection: expected 'merge', because this"),
    ({'widths': (2, 2)}, r'widths that change'),
    ({'name': 'mlp'}, r'name: expected a network with projection shortcuts'),
  ],
)
def test_what_has_no_placement_is_refused(model: Any, words: str) -> None:
  with pytest.raises(refusals.ConfigError, match=words):
    placement.check(placed(**model))


def test_the_place_is_a_key_that_some_networks_read() -> None:
  for model, words in (
    ({'projection': 'middle'}, r'projection: expected one of merge, fork'),
    ({'name': 'mlp', 'projection': 'fork'}, r'because mlp does not read it'),
  ):
    with pytest.raises(refusals.ConfigError, match=words):
      placement.COMMAND.validate(placed(**model))
