"""Refuses a configuration before anything is created or run.

Every refusal is one line: the key, what was expected, what was got, what to do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import ml_collections

from configs import default
from experiments import (
  data,
  model_checks,
  models,
  optimizers,
  precision,
  schedules,
)


class ConfigError(ValueError):
  """A key of the configuration, or a flag, that cannot be used.

  ::

    config.batch_size = -1
    validate(config)
  """

  def __init__(self, key: str, expected: str, got: object, remedy: str):
    """Makes the message.

    Args:
      key: its path, as on the command line.
      expected: values that would do.
      got: the value that does not.
      remedy: what to do, as a command.
    """
    super().__init__(f'{key}: expected {expected}, got {got}; {remedy}.')


def validate(config: ml_collections.ConfigDict) -> None:
  """Checks all keys, their types and their values.

  Args:
    config: of an experiment; see ``configs/default.py``.

  Raises:
    ConfigError: at the first key that cannot be used.
  """
  _check_keys(config, default.get_config(), 'config')
  _one_of(config, 'dataset.name', data.SIZES)
  _one_of(config, 'dataset.scaling', data.SCALINGS)
  _check_schedule(config)
  _check_model(config)
  _check_optimizer(config)
  _check_rate(config)
  _check_compare(config)
  _check_studies(config)
  _check_scaling(config)
  _check_blocks(config)
  _check_methods(config)


def _check_keys(
  config: ml_collections.ConfigDict,
  reference: ml_collections.ConfigDict,
  path: str,
) -> None:
  """The keys and types are those of the default configuration."""
  for key in sorted({*config, *reference}):
    name = f'{path}.{key}'
    if key not in reference:
      known = ', '.join(reference)
      raise ConfigError(name, f'one of {known}', 'this key', 'remove it')
    if key not in config:
      raise ConfigError(
        name, 'a value', 'none', 'start from configs/default.py'
      )
    _check_type(config, reference, key, name)


def _check_type(
  config: ml_collections.ConfigDict,
  reference: ml_collections.ConfigDict,
  key: str,
  name: str,
) -> None:
  value, kind = config[key], reference.get_type(key)
  if issubclass(kind, ml_collections.ConfigDict):
    if not isinstance(value, ml_collections.ConfigDict):
      raise ConfigError(name, 'a section', repr(value), 'set the keys in it')
    _check_keys(value, reference[key], name)
  elif value is None and reference[key] is None:
    return
  elif type(value) is not kind:
    raise ConfigError(
      name, f'a value of type {kind.__name__}', repr(value), 'change it'
    )
  elif kind is tuple:
    inner = type(reference[key][0])
    if not value or any(type(item) is not inner for item in value):
      raise ConfigError(
        name,
        f'a tuple of at least one {inner.__name__}',
        repr(value),
        f'write it as --{name}="{reference[key]}"',
      )


def _check_schedule(config: ml_collections.ConfigDict) -> None:
  train, test = data.SIZES[config.dataset.name]
  if config.dataset.train_samples is not None:
    _in_range(config, 'dataset.train_samples', 1, train, 'all of them')
    train = config.dataset.train_samples
  if config.dataset.test_samples is not None:
    _in_range(config, 'dataset.test_samples', 1, test, 'all of them')
  _in_range(config, 'seed', 0, 2**31 - 1)
  _in_range(config, 'batch_size', 1, train, 'the size of the training split')
  _in_range(config, 'devices', 0)
  if config.devices and config.batch_size % config.devices:
    raise ConfigError(
      'config.devices',
      f'a divisor of config.batch_size ({config.batch_size})',
      config.devices,
      'change one of them',
    )
  _in_range(config, 'epochs', 1)
  _in_range(config, 'log_every', 1)
  _in_range(config, 'eval_every', 1)
  _in_range(config, 'eval_batch_size', 1)
  _from_zero(config, 'checkpoint_seconds')
  if config.eval_every % config.log_every:
    raise ConfigError(
      'config.eval_every',
      f'a multiple of log_every ({config.log_every})',
      config.eval_every,
      'change one of them',
    )


def _check_model(config: ml_collections.ConfigDict) -> None:
  _one_of(config, 'model.name', models.MODELS)
  _one_of(config, 'model.activation', models.ACTIVATIONS)
  _one_of(config, 'model.norm', models.NORMS)
  _one_of(config, 'model.compute_dtype', precision.DTYPES)
  _one_of(config, 'model.projection', models.PROJECTIONS)
  for key, expected, got, remedy in model_checks.problems(config):
    raise ConfigError(f'config.model.{key}', expected, got, remedy)


def _check_optimizer(config: ml_collections.ConfigDict) -> None:
  _one_of(config, 'optimizer.name', (*optimizers.BASES, 'gt_ddp'))
  _one_of(config, 'optimizer.base.name', optimizers.BASES)
  _one_of(config, 'optimizer.terminal', optimizers.TERMINALS)
  _one_of(config, 'optimizer.value', optimizers.VALUES)
  _one_of(config, 'optimizer.cooperation', optimizers.COOPERATIONS)
  _positive(config, 'optimizer.base.learning_rate')
  _positive(config, 'optimizer.base.eps')
  _check_kronecker(config)
  if config.optimizer.trust_region is not None:
    _positive(config, 'optimizer.trust_region')
  for key in ('momentum', 'decay', 'b1', 'b2'):
    _fraction(config, f'optimizer.base.{key}')
  _from_zero(config, 'optimizer.base.weight_decay')
  name = optimizers.base_name(config.optimizer)
  _check_base(config, name)
  if config.optimizer.name == 'gt_ddp':
    _check_curvature(config, name)


def _check_kronecker(config: ml_collections.ConfigDict) -> None:
  base = config.optimizer.base
  for key in ('damping', 'diagonal_rate', 'norm_constraint'):
    if base[key] is not None:
      _positive(config, f'optimizer.base.{key}')
  for key in ('statistics_every', 'basis_every', 'largest'):
    _in_range(config, f'optimizer.base.{key}', 1)
  _fraction(config, 'optimizer.base.statistics_decay')
  _one_of(config, 'optimizer.base.diagonal', optimizers.DIAGONALS)
  _one_of(config, 'optimizer.base.source', ('slope', 'curvature'))
  _one_of(config, 'optimizer.base.positions', ('expand', 'reduce'))


def _check_rate(config: ml_collections.ConfigDict) -> None:
  """The schedule of the learning rate, and accumulation."""
  _in_range(config, 'optimizer.accumulate', 1)
  _one_of(config, 'optimizer.schedule.name', schedules.SCHEDULES)
  _fraction(config, 'optimizer.schedule.warmup')
  _from_zero(config, 'optimizer.schedule.final')
  _positive(config, 'optimizer.schedule.factor')
  places = config.optimizer.schedule.boundaries
  if list(places) != sorted({*places}) or not 0 < places[0] <= places[-1] < 1:
    raise ConfigError(
      'config.optimizer.schedule.boundaries',
      'rising numbers between 0 and 1',
      places,
      'change them',
    )
  name = config.optimizer.schedule.name
  _check_read(
    config, 'optimizer.schedule', name, schedules.SCHEDULES[name].reads
  )


def _check_base(config: ml_collections.ConfigDict, name: str) -> None:
  """The base reads what was changed."""
  reads = ('learning_rate', *optimizers.BASES[name].reads)
  _check_read(config, 'optimizer.base', name, reads)


def _check_read(
  config: ml_collections.ConfigDict,
  path: str,
  name: str,
  reads: Sequence[str],
) -> None:
  """Refuses a changed key that what a section names would not read."""
  reference = _get(default.get_config(), path)
  for key, value in _get(config, path).items():
    if key not in ('name', *reads) and value != reference[key]:
      raise ConfigError(
        f'config.{path}.{key}',
        f'{reference[key]!r}, because {name} does not read it',
        repr(value),
        f'leave it or choose another {path.rsplit(".", maxsplit=1)[-1]}',
      )


def _check_curvature(config: ml_collections.ConfigDict, name: str) -> None:
  value, cooperation = config.optimizer.value, config.optimizer.cooperation
  if cooperation != 'none' and name not in ('kfac', 'ekfac'):
    raise ConfigError(
      'config.optimizer.cooperation',
      f"'none', because {name} has no curvature between layers",
      repr(cooperation),
      'change it, or choose the base kfac or ekfac',
    )
  if value != 'frozen' and name not in optimizers.EXPLICIT:
    raise ConfigError(
      'config.optimizer.value',
      f"'frozen', because the base {name} has no explicit curvature",
      repr(value),
      f'change it, or choose a base that has one '
      f'({", ".join(optimizers.EXPLICIT)})',
    )


def _check_compare(config: ml_collections.ConfigDict) -> None:
  _fraction(config, 'compare.target')
  for key in optimizers.BASES:
    _positive(config, f'compare.learning_rate.{key}')
  _distinct(config, 'compare.bases')
  _seeds(config, 'compare.seeds')
  able, reason = tuple(optimizers.BASES), ''
  if config.optimizer.value != 'frozen':
    able = optimizers.EXPLICIT
    reason = f' for optimizer.value={config.optimizer.value!r}'
  if not set(config.compare.bases) <= set(able):
    raise ConfigError(
      'config.compare.bases',
      f'some of {", ".join(able)}{reason}',
      config.compare.bases,
      'remove the others',
    )


def _check_studies(config: ml_collections.ConfigDict) -> None:
  for study, keys in {
    'levels': ('rates',),
    'games': ('rates', 'dampings'),
    'placement': ('rates',),
  }.items():
    _positive(config, f'{study}.target_loss')
    _seeds(config, f'{study}.seeds')
    for key in keys:
      _all_positive(config, f'{study}.{key}', key)


def _check_methods(config: ml_collections.ConfigDict) -> None:
  _positive(config, 'methods.target_loss')
  _seeds(config, 'methods.seeds')
  for key in optimizers.BASES:
    _all_positive(config, f'methods.rates.{key}', 'rates')
  for key, able in (('bases', optimizers.BASES), ('forms', optimizers.FORMS)):
    _distinct(config, f'methods.{key}')
    if not set(config.methods[key]) <= set(able):
      raise ConfigError(
        f'config.methods.{key}',
        f'some of {", ".join(able)}',
        config.methods[key],
        'remove the others',
      )
  explicit = optimizers.EXPLICIT
  if not set(config.methods.bases) & set(explicit):
    raise ConfigError(
      'config.methods.bases',
      f'at least one that has forms with feedback ({", ".join(explicit)})',
      config.methods.bases,
      'add one',
    )


def _check_scaling(config: ml_collections.ConfigDict) -> None:
  _one_of(config, 'scaling.network', ('mlp', 'resnet'))
  _in_range(config, 'scaling.rounds', 1)
  _positive(config, 'scaling.most_memory')
  _all_positive(config, 'scaling.batches', 'batches')


def _check_blocks(config: ml_collections.ConfigDict) -> None:
  _seeds(config, 'blocks.seeds')
  _distinct(config, 'blocks.norms')
  for key, expected, got, remedy in model_checks.blocks_problems(config):
    raise ConfigError(f'config.blocks.{key}', expected, got, remedy)


def _get(config: ml_collections.ConfigDict, path: str) -> Any:
  for key in path.split('.'):
    config = config[key]
  return config


def _one_of(config: ml_collections.ConfigDict, path: str, allowed: Any) -> None:
  got = _get(config, path)
  if got not in allowed:
    raise ConfigError(
      f'config.{path}', f'one of {", ".join(allowed)}', repr(got), 'change it'
    )


def _in_range(
  config: ml_collections.ConfigDict,
  path: str,
  low: int,
  high: int | None = None,
  what: str = 'the largest value',
) -> None:
  got = _get(config, path)
  if got < low or (high is not None and got > high):
    upper = '' if high is None else f' to {high} ({what})'
    remedy = 'raise it' if got < low else 'lower it'
    raise ConfigError(
      f'config.{path}', f'an integer from {low}{upper}', got, remedy
    )


def _distinct(config: ml_collections.ConfigDict, path: str) -> None:
  got = _get(config, path)
  if len(set(got)) != len(got):
    raise ConfigError(f'config.{path}', 'no value twice', got, 'remove one')


def _seeds(config: ml_collections.ConfigDict, path: str) -> None:
  got = _get(config, path)
  _distinct(config, path)
  if min(got) < 0:
    raise ConfigError(f'config.{path}', 'seeds from 0', got, 'raise them')


def _all_positive(
  config: ml_collections.ConfigDict, path: str, what: str
) -> None:
  got = _get(config, path)
  _distinct(config, path)
  if not all(0 < number < math.inf for number in got):
    raise ConfigError(
      f'config.{path}', f'finite {what} above 0', got, 'change them'
    )


def _positive(config: ml_collections.ConfigDict, path: str) -> None:
  got = _get(config, path)
  if not 0 < got < math.inf:
    raise ConfigError(
      f'config.{path}', 'a finite number above 0', got, 'change it'
    )


def _from_zero(config: ml_collections.ConfigDict, path: str) -> None:
  got = _get(config, path)
  if not 0 <= got < math.inf:
    raise ConfigError(
      f'config.{path}', 'a finite number from 0', got, 'change it'
    )


def _fraction(config: ml_collections.ConfigDict, path: str) -> None:
  got = _get(config, path)
  if not 0 <= got < 1:
    raise ConfigError(
      f'config.{path}', 'a number from 0 to below 1', got, 'change it'
    )
