"""Refuses the sections of the configuration that one study reads.

They are checked whatever is run, so that a mistake is not found on the day when
its study is.
"""

from __future__ import annotations

import ml_collections

from experiments import conditions, model_checks, optimizers


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
  conditions.fraction(config, 'compare.target')
  for key in optimizers.BASES:
    conditions.positive(config, f'compare.learning_rate.{key}')
  conditions.seeds(config, 'compare.seeds')
  able, reason = tuple(optimizers.BASES), ''
  if config.optimizer.value != 'frozen':
    able = optimizers.EXPLICIT
    reason = f' for optimizer.value={config.optimizer.value!r}'
  conditions.some_of(config, 'compare.bases', able, reason)


def _studies(config: ml_collections.ConfigDict) -> None:
  for study, keys in {
    'levels': ('rates',),
    'games': ('rates', 'dampings'),
    'placement': ('rates',),
  }.items():
    conditions.positive(config, f'{study}.target_loss')
    conditions.seeds(config, f'{study}.seeds')
    for key in keys:
      conditions.all_positive(config, f'{study}.{key}', key)


def _methods(config: ml_collections.ConfigDict) -> None:
  conditions.positive(config, 'methods.target_loss')
  conditions.seeds(config, 'methods.seeds')
  for key in optimizers.BASES:
    conditions.all_positive(config, f'methods.rates.{key}', 'rates')
  conditions.some_of(config, 'methods.bases', optimizers.BASES)
  conditions.some_of(config, 'methods.forms', optimizers.FORMS)
  explicit = optimizers.EXPLICIT
  if not set(config.methods.bases) & set(explicit):
    raise conditions.ConfigError(
      'config.methods.bases',
      f'at least one that has forms with feedback ({", ".join(explicit)})',
      config.methods.bases,
      'add one',
    )


def _scaling(config: ml_collections.ConfigDict) -> None:
  conditions.one_of(config, 'scaling.network', ('mlp', 'resnet'))
  conditions.in_range(config, 'scaling.rounds', 1)
  conditions.positive(config, 'scaling.most_memory')
  conditions.all_positive(config, 'scaling.batches', 'batches')


def _blocks(config: ml_collections.ConfigDict) -> None:
  conditions.seeds(config, 'blocks.seeds')
  conditions.distinct(config, 'blocks.norms')
  for key, expected, got, remedy in model_checks.blocks_problems(config):
    raise conditions.ConfigError(f'config.blocks.{key}', expected, got, remedy)


def _benchmark(config: ml_collections.ConfigDict) -> None:
  conditions.one_of(config, 'benchmark.base', optimizers.EXPLICIT)
  for key, least in {'batch': 2, 'rounds': 3, 'every': 1}.items():
    conditions.in_range(config, f'benchmark.{key}', least)
  conditions.positive(config, 'benchmark.rate')
  every = config.benchmark.every
  if config.benchmark.base in optimizers.KRONECKER and every % 2:
    raise conditions.ConfigError(
      'config.benchmark.every',
      'an even number, because odd steps are timed and renew nothing then',
      every,
      'change it by one',
    )
