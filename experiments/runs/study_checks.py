"""Refuses the sections of the configuration that one study reads.

They are checked whatever is run, so that a mistake is not found on the day when
its study is.
"""

from __future__ import annotations

import ml_collections

from experiments import refusals
from experiments.optimizers import registry
from experiments.runs import model_checks


def check(config: ml_collections.ConfigDict) -> None:
  """Checks the values of all such sections.

  Args:
    config: with the keys and types of ``configs/default.py``.

  Raises:
    ConfigError: at the first key that cannot be used.
  """
  _compare(config)
  _studies(config)
  _benchmark(config)
  _scaling(config)
  _blocks(config)
  _methods(config)


def _compare(config: ml_collections.ConfigDict) -> None:
  refusals.fraction(config, 'compare.target')
  for key in registry.BASES:
    refusals.positive(config, f'compare.learning_rate.{key}')
  refusals.seeds(config, 'compare.seeds')
  able, reason = tuple(registry.BASES), ''
  if config.optimizer.value != 'frozen':
    able = registry.EXPLICIT
    reason = f' for optimizer.value={config.optimizer.value!r}'
  refusals.some_of(config, 'compare.bases', able, reason)


def _studies(config: ml_collections.ConfigDict) -> None:
  for study, keys in {
    'value_recursions': ('rates',),
    'games': ('rates', 'dampings'),
    'placement': ('rates',),
  }.items():
    refusals.positive(config, f'{study}.target_loss')
    refusals.seeds(config, f'{study}.seeds')
    for key in keys:
      refusals.all_positive(config, f'{study}.{key}', key)


def _methods(config: ml_collections.ConfigDict) -> None:
  refusals.positive(config, 'methods.target_loss')
  refusals.seeds(config, 'methods.seeds')
  for key in registry.BASES:
    refusals.all_positive(config, f'methods.rates.{key}', 'rates')
  refusals.some_of(config, 'methods.bases', registry.BASES)
  refusals.some_of(config, 'methods.forms', registry.FORMS)
  explicit = registry.EXPLICIT
  if not set(config.methods.bases) & set(explicit):
    raise refusals.ConfigError(
      'config.methods.bases',
      f'at least one that has forms with feedback ({", ".join(explicit)})',
      config.methods.bases,
      'add one',
    )


def _scaling(config: ml_collections.ConfigDict) -> None:
  refusals.one_of(config, 'scaling.network', ('mlp', 'resnet'))
  refusals.in_range(config, 'scaling.rounds', 1)
  refusals.positive(config, 'scaling.most_memory')
  refusals.all_positive(config, 'scaling.batches', 'batches')


def _blocks(config: ml_collections.ConfigDict) -> None:
  refusals.seeds(config, 'blocks.seeds')
  refusals.distinct(config, 'blocks.norms')
  for key, expected, got, remedy in model_checks.blocks_problems(config):
    raise refusals.ConfigError(f'config.blocks.{key}', expected, got, remedy)


def _benchmark(config: ml_collections.ConfigDict) -> None:
  refusals.one_of(config, 'benchmark.base', registry.EXPLICIT)
  for key, least in {'batch': 2, 'rounds': 3, 'every': 1}.items():
    refusals.in_range(config, f'benchmark.{key}', least)
  refusals.positive(config, 'benchmark.rate')
  every = config.benchmark.every
  if config.benchmark.base in registry.KRONECKER and every % 2:
    raise refusals.ConfigError(
      'config.benchmark.every',
      'an even number, because odd steps are timed and renew nothing then',
      every,
      'change it by one',
    )
