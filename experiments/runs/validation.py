"""Refuses a configuration before anything is created or run.

The schema says of each key its type, its values, and by which of the names that
its section chooses it is read; what depends on several keys is here.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, NoReturn

import ml_collections

from configs import default, schema
from configs.schema import Config
from experiments import refusals
from experiments.data import catalog
from experiments.networks import models
from experiments.optimizers import registry


def validate(config: Config, sections: schema.Section | None = None) -> None:
  """Raises ConfigError at the first key that cannot be used.

  Args:
    config: of an experiment; see ``configs/default.py``.
    sections: that studies bring, by their names.
  """
  check(config, {**default.SCHEMA, **(sections or {})})
  _check_batches(config)
  optimizer, model = config.optimizer, config.model
  base = registry.base_name(optimizer)
  for path, names in (
    ('optimizer.schedule', (optimizer.schedule.name,)),
    ('model', (model.name, f'norm {model.norm}')),
    ('optimizer.base', (base,)),
  ):
    _check_unread(config, path, names)
  _check_model(config)
  if optimizer.name == 'gt_ddp':
    _check_curvature(optimizer, base)


def check(
  config: Config,
  section: schema.Section,
  path: str = 'config',
) -> None:
  """Checks keys, types and values one by one.

  Args:
    config: anything that should be of the schema.
    section: the schema.
    path: of the section, for messages.

  Raises:
    ConfigError: at the first key that is not.
  """
  for name in sorted({*config, *section}):
    where = f'{path}.{name}'
    if name not in section:
      raise unknown(where, section)
    if name not in config:
      raise refusals.ConfigError(
        where, 'a value', 'none', 'start from configs/default.py'
      )
    entry, value = section[name], config[name]
    if isinstance(entry, schema.Key):
      _check_value(value, entry, where)
    elif isinstance(value, ml_collections.ConfigDict):
      check(value, entry, where)
    else:
      raise refusals.ConfigError(
        where, 'a section', repr(value), 'set the keys in it'
      )


def unknown(path: str, section: Mapping[str, Any]) -> refusals.ConfigError:
  """Returns the refusal of a key that is not in its section."""
  name = path.rpartition('.')[2]
  close = [
    *(k for k in section if ''.join(w[:1] for w in k.split('_')) == name),
    *difflib.get_close_matches(name, section, 1),
  ]
  return refusals.ConfigError(
    path,
    f'one of {", ".join(sorted(section))}',
    repr(name),
    f'perhaps {close[0]} was meant' if close else 'remove it',
  )


def _check_value(value: Any, key: schema.Key, path: str) -> None:
  if value is None and key.default is None:
    return
  usual = 'None' if key.default is None else schema.shown(key.default)
  remedy = f'give another, as in --{path}={usual}'
  if type(value) is not key.type:
    raise refusals.ConfigError(
      path, f'a value of type {key.type.__name__}', repr(value), remedy
    )
  if isinstance(value, tuple) and key.default:
    inner = type(key.default[0])
    if not value or any(type(item) is not inner for item in value):
      raise refusals.ConfigError(
        path, f'a tuple of at least one {inner.__name__}', repr(value), remedy
      )
  if key.rule and not key.rule.holds(value):
    raise refusals.ConfigError(path, key.rule.expected, repr(value), remedy)


def _refuse(key: str, expected: str, got: object, remedy: str) -> NoReturn:
  raise refusals.ConfigError(f'config.{key}', expected, got, remedy)


def _check_batches(config: Config) -> None:
  """Splits, batches and intervals."""
  spec, asked = catalog.SPECS[config.dataset.name], config.dataset
  train = asked.train_samples or spec.train
  for key, got, most, what in (
    ('dataset.train_samples', train, spec.train, 'all of them'),
    ('dataset.test_samples', asked.test_samples or 1, spec.test, 'all of them'),
    ('batch_size', config.batch_size, train, 'the size of the training split'),
  ):
    if got > most:
      _refuse(key, f'an integer from 1 to {most} ({what})', got, 'lower it')
  for key, one, other, what in (
    ('devices', config.batch_size, config.devices or 1, 'a divisor'),
    ('eval_every', config.eval_every, config.log_every, 'a multiple'),
  ):
    if one % other:
      of = 'batch_size' if key == 'devices' else 'log_every'
      _refuse(
        key,
        f'{what} of config.{of} ({config[of]})',
        config[key],
        'change one of them',
      )


def _check_unread(config: Config, path: str, names: tuple[str, ...]) -> None:
  """A key that was changed is one that what its section names reads."""
  section: Any = schema.find(default.SCHEMA, path)
  for part in path.split('.'):
    config = config[part]
  for name, key in section.items():
    read = not key.readers or {*key.readers} & {*names}
    if not read and config[name] != key.default:
      which = names[key.readers[0].startswith('norm ')]
      _refuse(
        f'{path}.{name}',
        f'{key.default!r}, because {which} does not read it',
        repr(config[name]),
        f'leave it, or choose one that does ({", ".join(key.readers)})',
      )


def _check_model(config: Config) -> None:
  """A network that can be built."""
  model = config.model
  kind = models.MODELS[model.name]
  if kind.widths not in (None, len(model.widths)):
    noun = 'one width' if kind.widths == 1 else f'{kind.widths} widths'
    _refuse(
      'model.widths',
      f'{noun} for {model.name}',
      model.widths,
      f'give so many, or choose the network with --config=FILE:BASE,'
      f'{model.name}',
    )
  if len(model.kernels) != 2:
    _refuse(
      'model.kernels', 'two sizes, one a player', model.kernels, 'give two'
    )
  size = catalog.SPECS[config.dataset.name].shape[:2]
  units = (model.units,) if reads('model.units', model.name) else ()
  for key, needed, numbers, what in (
    ('heads', True, model.widths[:1], f'the width ({model.widths[0]})'),
    ('patch', True, size, f'{size[0]} and {size[1]}, the size of the images'),
    (
      'groups',
      model.norm == 'group',
      (*model.widths, *units),
      f'each of {", ".join(map(str, (*model.widths, *units)))}',
    ),
  ):
    read = key == 'groups' or reads(f'model.{key}', model.name)
    if needed and read and any(number % model[key] for number in numbers):
      _refuse(
        f'model.{key}', f'a divisor of {what}', model[key], 'change one of them'
      )
  if model.norm == 'batch' and config.batch_size == 1:
    _refuse(
      'model.norm',
      "another than 'batch' with one sample in a batch",
      repr(model.norm),
      'choose one, or raise config.batch_size',
    )


def reads(path: str, name: str) -> bool:
  """Returns whether what a section names reads a key of it."""
  key = schema.find(default.SCHEMA, path)
  return isinstance(key, schema.Key) and name in key.readers


def _check_curvature(optimizer: Config, base: str) -> None:
  """What a base offers to gt_ddp."""
  if optimizer.cooperation != 'none' and base not in registry.KRONECKER:
    _refuse(
      'optimizer.cooperation',
      f"'none', because {base} has no curvature between layers",
      repr(optimizer.cooperation),
      'remove it, or choose the base kfac or ekfac',
    )
  if optimizer.value != 'frozen' and base not in registry.EXPLICIT:
    _refuse(
      'optimizer.value',
      f"'frozen', because the base {base} has no explicit curvature",
      repr(optimizer.value),
      f'remove it, or choose a base that has one '
      f'({", ".join(registry.EXPLICIT)})',
    )
