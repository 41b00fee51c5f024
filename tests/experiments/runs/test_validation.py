"""Each refusal names the key and says what to do, in one line."""

from __future__ import annotations

import importlib
import pathlib
from typing import Any

import ml_collections
import pytest

from configs import choices, default, schema
from experiments import refusals
from experiments.data import catalog, preprocessing
from experiments.networks import layers, models, precision
from experiments.optimizers import registry, schedules
from experiments.runs import cli, validation
from experiments.studies import games, value_recursions
from experiments.studies.costs import benchmark
from experiments.studies.methods import study

CONFIGS = sorted(
  path.stem
  for path in pathlib.Path(default.__file__).parent.glob('*.py')
  # The last two are words after a colon, and a plan of commands.
  if path.stem not in ('__init__', 'choices', 'reproduce', 'schema')
)

REFUSED = [
  ('batch_size', 0),
  ('devices', -1),
  ('devices', 3),
  ('batch_size', 1438),
  ('batch_size', '64'),
  ('batch_size', True),
  ('epochs', 0),
  ('epochs', 1.5),
  ('seed', -1),
  ('log_every', 0),
  ('eval_every', 47),
  ('eval_batch_size', 0),
  ('dataset.name', 'imagenet'),
  ('dataset.scaling', 'none'),
  ('dataset.augment', 1),
  ('dataset.data_dir', 3),
  ('dataset.train_samples', 0),
  ('dataset.train_samples', 1438),
  ('dataset.train_samples', 0.5),
  ('dataset.test_samples', 0),
  ('dataset.test_samples', 361),
  ('model.name', 'transformer'),
  ('model.widths', ()),
  ('model.widths', (16, 0)),
  ('model.widths', (16, 3.5)),
  ('model.activation', 'elu'),
  ('model.norm', 'instance'),
  ('model.decay', 1.0),
  ('model.decay', 0.5),  # only batch normalisation reads it
  ('model.groups', 0),
  ('model.groups', 4),
  ('model.kernels', (3, 0)),
  ('model.kernels', (5, 3)),  # the residual network does not read it
  ('model.units', 32),
  ('model.depth', 2),
  ('model.heads', 0),
  ('model.patch', 2),
  ('optimizer.name', 'shampoo'),
  ('optimizer.base.name', 'gt_ddp'),
  ('optimizer.base.learning_rate', -0.1),
  ('optimizer.base.learning_rate', float('nan')),
  ('optimizer.base.learning_rate', float('inf')),
  ('optimizer.base.learning_rate', None),
  ('optimizer.base.b1', 1.0),
  ('optimizer.base.eps', 0.0),
  ('optimizer.base.weight_decay', -1.0),
  ('checkpoint_seconds', -1.0),
  ('checkpoint_seconds', float('nan')),
  ('model.compute_dtype', 'float16'),
  ('optimizer.accumulate', 0),
  ('optimizer.accumulate', 2.0),
  ('optimizer.schedule.name', 'linear'),
  ('optimizer.schedule.warmup', 0.1),  # constant does not read it
  ('optimizer.schedule.warmup', 1.0),
  ('optimizer.schedule.final', -0.1),
  ('optimizer.schedule.factor', 0.0),
  ('optimizer.schedule.boundaries', (0.75, 0.5)),
  ('optimizer.schedule.boundaries', (0.5, 0.5)),
  ('optimizer.schedule.boundaries', (0.5, 1.0)),
  ('optimizer.schedule.boundaries', (0, 1)),
  ('optimizer.base.momentum', 0.9),  # adam does not read it
  ('optimizer.terminal', 'gradients'),
  ('optimizer.value', 'exact'),
  ('optimizer.cooperation', 'alone'),
  ('optimizer.base.damping', 0.0),
  ('optimizer.base.diagonal', 'kfac'),
  ('optimizer.base.basis_every', 0),
  ('games.dampings', (0.1, -1.0)),
  ('optimizer.feedback', 1),
  ('optimizer.trust_region', 0.0),
  ('optimizer.trust_region', 'off'),
  ('methods.bases', ('sgd', 'shampoo')),
  ('methods.bases', ('sgd', 'sgd')),
  ('methods.seeds', (-1,)),
  ('methods.target_accuracy', 97.0),
  ('learning_rates.sgd', 0.0),
  ('value_recursions.rates', ()),
  ('value_recursions.rates', (0.1, float('inf'))),
  ('value_recursions.rates', (0.1, 0.1)),
  ('value_recursions.seeds', (0, -1)),
  ('value_recursions.target_loss', 0.0),
  ('benchmark.base', 'muon'),
  ('benchmark.batch', 1),
  ('benchmark.rounds', 2),
  ('benchmark.every', 0),
  ('benchmark.rate', 0.0),
]


# What depends on other keys.
REFUSED_TOGETHER = [
  ('widths', 'four|4 widths', {'name': 'resnet18'}),
  ('widths', 'one width', {'name': 'vit', 'widths': (32, 32)}),
  ('kernels', 'two sizes', {'name': 'cgb', 'kernels': (3, 3, 3)}),
  ('heads', r'divisor of the width \(32\)', {'name': 'vit', 'heads': 3}),
  ('patch', 'divisor of 8 and 8', {'name': 'mixer', 'patch': 3}),
  ('heads', 'mixer does not read', {'name': 'mixer', 'heads': 2}),
  ('groups', 'divisor of each of 12', {'norm': 'group', 'widths': (12,)}),
  (
    'groups',
    'divisor of each of 32, 20',
    {'name': 'cgb', 'norm': 'group', 'units': 20},
  ),
]


COMMANDS = {
  command.word: command
  for command in (
    benchmark.COMMAND,
    games.COMMAND,
    study.COMMAND,
    value_recursions.COMMAND,
  )
}
PLAIN = cli.Command('test', print)


def changed(
  command: cli.Command = PLAIN, **changes: Any
) -> ml_collections.ConfigDict:
  """The default config with keys replaced, whatever their types."""
  values = command.get_config().to_dict()
  for path, value in changes.items():
    *sections, key = path.split('.')
    section = values
    for name in sections:
      section = section[name]
    section[key] = value
  return ml_collections.ConfigDict(values, convert_dict=True)


@pytest.mark.parametrize(('path', 'value'), REFUSED, ids=str)
def test_refusals(path: str, value: Any) -> None:
  command = COMMANDS.get(path.split('.')[0], PLAIN)
  with pytest.raises(refusals.ConfigError) as caught:
    command.validate(changed(command, **{path: value}))
  message = str(caught.value)
  assert message.startswith(f'config.{path}: expected ')
  assert ', got ' in message
  assert message.endswith('.')
  assert len(message.splitlines()) == 1


@pytest.mark.parametrize(('key', 'match', 'model'), REFUSED_TOGETHER, ids=str)
def test_networks_that_do_not_fit(key: str, match: str, model: Any) -> None:
  changes = {f'model.{name}': value for name, value in model.items()}
  with pytest.raises(refusals.ConfigError, match=match) as caught:
    validation.validate(changed(**changes))
  assert str(caught.value).startswith(f'config.model.{key}: expected ')
  assert len(str(caught.value).splitlines()) == 1


def test_one_sample_has_no_statistics() -> None:
  changes = {'model.norm': 'batch', 'batch_size': 1}
  with pytest.raises(refusals.ConfigError, match='one sample in a batch'):
    validation.validate(changed(**changes))


@pytest.mark.parametrize('network', sorted(choices.NETWORKS))
@pytest.mark.parametrize('name', ['digits', 'cifar10'])
def test_a_network_after_the_comma(network: str, name: str) -> None:
  module = importlib.import_module(f'configs.{name}')
  config = module.get_config(f'sgd,{network}')
  validation.validate(config)
  assert config.model.name == network
  assert config.model.widths == choices.NETWORKS[network]['widths']
  assert config.optimizer.name == 'sgd'
  with pytest.raises(ValueError, match='after the comma'):
    module.get_config('sgd,alexnet')


def test_a_key_too_many() -> None:
  with pytest.raises(refusals.ConfigError, match=r'model\.blocks: .*widths'):
    validation.validate(changed(**{'model.blocks': 3}))


def test_a_key_too_few() -> None:
  config = default.get_config()
  del config.model.norm
  with pytest.raises(refusals.ConfigError, match=r'model\.norm: .*default'):
    validation.validate(config)


def test_a_section_replaced_by_a_value() -> None:
  with pytest.raises(refusals.ConfigError, match='a section'):
    validation.validate(changed(model=3))


def test_bellman_needs_an_explicit_curvature() -> None:
  opaque = {
    'optimizer.name': 'gt_ddp',
    'optimizer.base.name': 'adamw',
    'optimizer.value': 'bellman',
  }
  with pytest.raises(refusals.ConfigError) as caught:
    validation.validate(changed(**opaque))
  assert 'config.optimizer.value' in str(caught.value)
  assert 'sgd, rmsprop, adam' in str(caught.value)
  validation.validate(changed(**opaque | {'optimizer.value': 'frozen'}))
  validation.validate(changed(**opaque | {'optimizer.base.name': 'sgd'}))


def test_momentum_where_it_is_read() -> None:
  validation.validate(
    changed(**{'optimizer.name': 'sgd', 'optimizer.base.momentum': 0.9})
  )


@pytest.mark.parametrize('name', CONFIGS)
def test_every_configuration_is_valid(name: str) -> None:
  config = importlib.import_module(f'configs.{name}').get_config()
  validation.validate(config)
  models.build(config.model, catalog.SPECS[config.dataset.name].classes)
  registry.title(config.optimizer)


def test_a_batch_comes_from_what_is_left_of_the_training_split() -> None:
  few = {'dataset.train_samples': 63, 'batch_size': 63}
  validation.validate(changed(**few))
  with pytest.raises(refusals.ConfigError, match=r'batch_size: .* to 63'):
    validation.validate(changed(**few | {'batch_size': 64}))


@pytest.mark.parametrize('name', sorted({*CONFIGS} - {'default', 'held'}))
@pytest.mark.parametrize('base', sorted(registry.BASES))
def test_a_configuration_brings_the_rate_of_its_base(
  name: str, base: str
) -> None:
  config = importlib.import_module(f'configs.{name}').get_config(base)
  validation.validate(config)
  assert config.optimizer.name == base
  assert config.optimizer.base.learning_rate == config.learning_rates[base]


def test_every_base_has_a_rate() -> None:
  assert set(default.get_config().learning_rates) == set(registry.BASES)


def test_timed_steps_of_a_benchmark_renew_nothing() -> None:
  command = benchmark.COMMAND
  config = changed(command, **{'benchmark.every': 25})
  command.validate(config)
  config.benchmark.base = 'ekfac'
  with pytest.raises(refusals.ConfigError, match='an even number'):
    command.validate(config)


@pytest.mark.parametrize(
  ('path', 'names'),
  [
    ('dataset.name', catalog.SPECS),
    ('dataset.scaling', preprocessing.SCALINGS),
    ('model.name', models.MODELS),
    ('model.activation', layers.ACTIVATIONS),
    ('model.norm', layers.NORMS),
    ('model.projection', layers.PROJECTIONS),
    ('model.compute_dtype', precision.DTYPES),
    ('optimizer.base.name', registry.BASES),
    ('optimizer.schedule.name', schedules.SCHEDULES),
  ],
)
def test_the_schema_knows_what_there_is(path: str, names: Any) -> None:
  key = schema.find(default.SCHEMA, path)
  assert isinstance(key, schema.Key) and key.rule is not None
  assert key.rule.expected == f'one of {", ".join(names)}'
  for _, other in schema.keys(default.SCHEMA):
    readers = {reader for reader in other.readers if ' ' not in reader}
    assert readers <= {*models.MODELS, *registry.BASES, *schedules.SCHEDULES}


def test_a_key_is_known_by_its_initials_and_its_neighbours() -> None:
  for name, meant in (('lr', 'learning_rate'), ('momentun', 'momentum')):
    with pytest.raises(refusals.ConfigError, match=f'perhaps {meant} was'):
      validation.validate(changed(**{f'optimizer.base.{name}': 1}))
