"""Refuses a configuration before anything is created or run.

Sections that one study reads are checked by ``study_checks``.
"""

from __future__ import annotations

from collections.abc import Sequence

import ml_collections

from configs import default
from experiments import refusals
from experiments.data import splits
from experiments.networks import models, precision
from experiments.optimizers import registry, schedules
from experiments.runs import model_checks, study_checks


def validate(config: ml_collections.ConfigDict) -> None:
  """Checks all keys, their types and their values.

  Args:
    config: of an experiment; see ``configs/default.py``.

  Raises:
    ConfigError: at the first key that cannot be used.
  """
  _check_keys(config, default.get_config(), 'config')
  refusals.one_of(config, 'dataset.name', splits.SIZES)
  refusals.one_of(config, 'dataset.scaling', splits.SCALINGS)
  _check_schedule(config)
  _check_model(config)
  _check_optimizer(config)
  _check_rate(config)
  study_checks.check(config)


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
      raise refusals.ConfigError(
        name, f'one of {known}', 'this key', 'remove it'
      )
    if key not in config:
      raise refusals.ConfigError(
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
      raise refusals.ConfigError(
        name, 'a section', repr(value), 'set the keys in it'
      )
    _check_keys(value, reference[key], name)
  elif value is None and reference[key] is None:
    return
  elif type(value) is not kind:
    raise refusals.ConfigError(
      name, f'a value of type {kind.__name__}', repr(value), 'change it'
    )
  elif kind is tuple:
    inner = type(reference[key][0])
    if not value or any(type(item) is not inner for item in value):
      raise refusals.ConfigError(
        name,
        f'a tuple of at least one {inner.__name__}',
        repr(value),
        f'write it as --{name}="{reference[key]}"',
      )


def _check_schedule(config: ml_collections.ConfigDict) -> None:
  train, test = splits.SIZES[config.dataset.name]
  if config.dataset.train_samples is not None:
    refusals.in_range(config, 'dataset.train_samples', 1, train, 'all of them')
    train = config.dataset.train_samples
  if config.dataset.test_samples is not None:
    refusals.in_range(config, 'dataset.test_samples', 1, test, 'all of them')
  refusals.in_range(config, 'seed', 0, 2**31 - 1)
  refusals.in_range(
    config, 'batch_size', 1, train, 'the size of the training split'
  )
  refusals.in_range(config, 'devices', 0)
  if config.devices and config.batch_size % config.devices:
    raise refusals.ConfigError(
      'config.devices',
      f'a divisor of config.batch_size ({config.batch_size})',
      config.devices,
      'change one of them',
    )
  refusals.in_range(config, 'epochs', 1)
  refusals.in_range(config, 'log_every', 1)
  refusals.in_range(config, 'eval_every', 1)
  refusals.in_range(config, 'eval_batch_size', 1)
  refusals.from_zero(config, 'checkpoint_seconds')
  if config.eval_every % config.log_every:
    raise refusals.ConfigError(
      'config.eval_every',
      f'a multiple of log_every ({config.log_every})',
      config.eval_every,
      'change one of them',
    )


def _check_model(config: ml_collections.ConfigDict) -> None:
  refusals.one_of(config, 'model.name', models.MODELS)
  refusals.one_of(config, 'model.activation', models.ACTIVATIONS)
  refusals.one_of(config, 'model.norm', models.NORMS)
  refusals.one_of(config, 'model.compute_dtype', precision.DTYPES)
  refusals.one_of(config, 'model.projection', models.PROJECTIONS)
  for key, expected, got, remedy in model_checks.problems(config):
    raise refusals.ConfigError(f'config.model.{key}', expected, got, remedy)


def _check_optimizer(config: ml_collections.ConfigDict) -> None:
  refusals.one_of(config, 'optimizer.name', (*registry.BASES, 'gt_ddp'))
  refusals.one_of(config, 'optimizer.base.name', registry.BASES)
  refusals.one_of(config, 'optimizer.terminal', registry.TERMINALS)
  refusals.one_of(config, 'optimizer.value', registry.VALUES)
  refusals.one_of(config, 'optimizer.cooperation', registry.COOPERATIONS)
  refusals.positive(config, 'optimizer.base.learning_rate')
  refusals.positive(config, 'optimizer.base.eps')
  _check_kronecker(config)
  if config.optimizer.trust_region is not None:
    refusals.positive(config, 'optimizer.trust_region')
  for key in ('momentum', 'decay', 'b1', 'b2'):
    refusals.fraction(config, f'optimizer.base.{key}')
  refusals.from_zero(config, 'optimizer.base.weight_decay')
  name = registry.base_name(config.optimizer)
  _check_base(config, name)
  if config.optimizer.name == 'gt_ddp':
    _check_curvature(config, name)


def _check_kronecker(config: ml_collections.ConfigDict) -> None:
  base = config.optimizer.base
  for key in ('damping', 'diagonal_rate', 'norm_constraint'):
    if base[key] is not None:
      refusals.positive(config, f'optimizer.base.{key}')
  for key in ('statistics_every', 'basis_every', 'largest'):
    refusals.in_range(config, f'optimizer.base.{key}', 1)
  refusals.fraction(config, 'optimizer.base.statistics_decay')
  refusals.one_of(config, 'optimizer.base.diagonal', registry.DIAGONALS)
  refusals.one_of(config, 'optimizer.base.source', ('slope', 'curvature'))
  refusals.one_of(config, 'optimizer.base.positions', ('expand', 'reduce'))


def _check_rate(config: ml_collections.ConfigDict) -> None:
  """The schedule of the learning rate, and accumulation."""
  refusals.in_range(config, 'optimizer.accumulate', 1)
  refusals.one_of(config, 'optimizer.schedule.name', schedules.SCHEDULES)
  refusals.fraction(config, 'optimizer.schedule.warmup')
  refusals.from_zero(config, 'optimizer.schedule.final')
  refusals.positive(config, 'optimizer.schedule.factor')
  places = config.optimizer.schedule.boundaries
  if list(places) != sorted({*places}) or not 0 < places[0] <= places[-1] < 1:
    raise refusals.ConfigError(
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
  reads = ('learning_rate', *registry.BASES[name].reads)
  _check_read(config, 'optimizer.base', name, reads)


def _check_read(
  config: ml_collections.ConfigDict,
  path: str,
  name: str,
  reads: Sequence[str],
) -> None:
  """Refuses a changed key that what a section names would not read."""
  reference = refusals.get(default.get_config(), path)
  for key, value in refusals.get(config, path).items():
    if key not in ('name', *reads) and value != reference[key]:
      raise refusals.ConfigError(
        f'config.{path}.{key}',
        f'{reference[key]!r}, because {name} does not read it',
        repr(value),
        f'leave it or choose another {path.rsplit(".", maxsplit=1)[-1]}',
      )


def _check_curvature(config: ml_collections.ConfigDict, name: str) -> None:
  value, cooperation = config.optimizer.value, config.optimizer.cooperation
  if cooperation != 'none' and name not in registry.KRONECKER:
    raise refusals.ConfigError(
      'config.optimizer.cooperation',
      f"'none', because {name} has no curvature between layers",
      repr(cooperation),
      'change it, or choose the base kfac or ekfac',
    )
  if value != 'frozen' and name not in registry.EXPLICIT:
    raise refusals.ConfigError(
      'config.optimizer.value',
      f"'frozen', because the base {name} has no explicit curvature",
      repr(value),
      f'change it, or choose a base that has one '
      f'({", ".join(registry.EXPLICIT)})',
    )
