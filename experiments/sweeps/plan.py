"""From a sweep to its runs, each with a folder that its config names.

The name of a folder ends with a digest of the whole config. So a sweep can be
changed and gone on with: runs that are still part of it are found, and no
result is taken for that of another config.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import operator
import pathlib
import re
from typing import Any, NamedTuple

import ml_collections
from absl import flags

from configs import default
from experiments import refusals
from experiments.runs import cli, command_line, comparison, validation
from experiments.sweeps import axes

# What can be shown, with units: the last of each that a run has logged.
METRICS = {
  'test_accuracy': '0 to 1',
  'best_test_accuracy': '0 to 1',  # over the evaluations
  'train_accuracy': '0 to 1',
  'test_loss': 'nats',
  'train_loss': 'nats',
  'batch_loss': 'nats',
  'gradient_norm': '',
  'feedback_ratio': '',
  'clipped_share': '0 to 1',
  'smallest_factor': '',
  'skipped_steps': '',
  'seconds_per_step': 's',  # median
  'compile_seconds': 's',
  'epoch': '',
}

_LONGEST = 80  # characters of a folder's name before the digest


class Run(NamedTuple):
  """One run of a sweep.

  Attributes:
    name: of its folder.
    values: of the axes, by their names; without the seed.
    seed: of the run.
    config: all of it, in JSON's types.
  """

  name: str
  values: axes.Values
  seed: int
  config: dict[str, Any]


def load(path: str) -> ml_collections.ConfigDict:
  """Returns the sweep that a file describes.

  Args:
    path: of a Python file with a function ``get_config``.

  Returns:
    The sweep, with all keys of ``default.get_sweep`` and their types.

  Raises:
    ConfigError: if there is no such file, or its sweep cannot be used.
  """
  sweep = _returned(path)
  _check_keys(sweep, default.get_sweep(), 'sweep')
  check_numbers(sweep)
  seeds = sweep.seeds
  fine = all(type(seed) is int and seed >= 0 for seed in seeds)
  if not seeds or not fine or len({*seeds}) < len(seeds):
    raise refusals.ConfigError(
      'sweep.seeds', 'seeds from 0, none twice', seeds, 'change them'
    )
  check_metrics(sweep)
  return sweep


def check_numbers(sweep: ml_collections.ConfigDict) -> None:
  """Refuses counts that are too small.

  Args:
    sweep: with keys of the right types.

  Raises:
    ConfigError: if there is one.
  """
  for key, least in (('draws', 0), ('draw_seed', 0), ('workers', 1)):
    if sweep[key] < least:
      raise refusals.ConfigError(
        f'sweep.{key}', f'an integer from {least}', sweep[key], 'raise it'
      )


def check_metrics(sweep: ml_collections.ConfigDict) -> None:
  """Refuses names of metrics that no run has.

  Args:
    sweep: with keys of the right types.

  Raises:
    ConfigError: if there is one.
  """
  pairs = [('metrics', name) for name in sweep.metrics]
  for key, name in [*pairs, ('plot.metric', sweep.plot.metric)]:
    if name not in METRICS:
      raise refusals.ConfigError(
        f'sweep.{key}',
        f'one of {", ".join(METRICS)}',
        repr(name),
        'correct the name',
      )


def runs(sweep: ml_collections.ConfigDict) -> list[Run]:
  """Returns all runs, each seed of all settings before the next.

  Ends the program, with one line, at a config that `experiments.train` would
  refuse.

  Args:
    sweep: as ``load`` returns it.

  Returns:
    At least one.

  Raises:
    ConfigError: if the axes cannot be used.
  """
  settings = list(axes.combinations(sweep))
  labels = axes.names(list(settings[0]))
  found: dict[str, Run] = {}
  for seed in sweep.seeds:
    for values in settings:
      run = _run(sweep, values, labels, seed)
      if run.name in found:
        raise refusals.ConfigError(
          'sweep',
          'settings that differ',
          f'{run.name} twice',
          'remove one from sweep.grid, or take fewer sweep.draws of whole '
          'numbers',
        )
      found[run.name] = run
  return list(found.values())


def _run(
  sweep: ml_collections.ConfigDict,
  values: axes.Values,
  labels: dict[str, str],
  seed: int,
) -> Run:
  keys: axes.Values = {'config': sweep.config}
  for entry in sweep.fixed:
    match entry:
      case (str(key), value) if key not in values and key != 'seed':
        keys[key] = value
      case _:
        raise refusals.ConfigError(
          'sweep.fixed',
          'pairs (key, value) of keys that are on no axis',
          repr(entry),
          'change it',
        )
  config = _config(keys | values | {'seed': seed})
  named = {labels[key]: value for key, value in values.items()}
  words = ','.join(f'{k}={v}' for k, v in [*named.items(), ('seed', seed)])
  name = re.sub(r'[^\w.,=+-]+', '_', words)[:_LONGEST]
  digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
  return Run(f'{name}-{digest.hexdigest()[:8]}', named, seed, config)


def _config(keys: axes.Values) -> dict[str, Any]:
  """Of a run with these values; refused as `experiments.train` does."""
  arguments = [f'--config={keys["config"]}']
  arguments += [
    f'--config.{key}={value}'
    for key, value in keys.items()
    if key != 'config' and value is not None
  ]
  values = flags.FlagValues()
  cli.parse(['sweep', *arguments, '--workdir=.new', '--overwrite'], values)
  config = values.config
  for key in (key for key, value in keys.items() if value is None):
    section, _, last = key.rpartition('.')
    try:
      holder = functools.reduce(
        operator.getitem, section.split('.') if section else [], config
      )
      holder[last] = None
    except (KeyError, TypeError) as error:
      raise refusals.ConfigError(
        f'config.{key}', 'a key that may be None', 'None', 'change it'
      ) from error
  validation.validate(config)
  command_line.check_rate(config, keys)
  plain: dict[str, Any] = comparison.plain(config.to_dict())
  return plain


def _returned(path: str) -> Any:
  """What ``get_config`` of a file returns."""
  file = pathlib.Path(path)
  spec = importlib.util.spec_from_file_location(f'sweep_{file.stem}', file)
  got = 'no such file' if not file.is_file() else 'another kind of file'
  if spec and spec.loader and file.is_file():
    module = importlib.util.module_from_spec(spec)
    try:
      spec.loader.exec_module(module)
      if hasattr(module, 'get_config'):
        return module.get_config()
      got = 'none in it'
    except Exception as error:  # of any kind: it is somebody's program
      words = ' '.join(str(error).split())
      got = f'{type(error).__name__} ({words}) when it was run'
  raise refusals.ConfigError(
    f'--config={path}',
    'a Python file whose get_config() returns a sweep',
    got,
    'start from configs/sweeps/digits.py',
  )


def _check_keys(sweep: Any, reference: Any, path: str) -> None:
  """The keys and types are those of the default."""
  if not isinstance(sweep, ml_collections.ConfigDict):
    raise refusals.ConfigError(
      path, 'a ConfigDict', repr(sweep), 'start from default.get_sweep()'
    )
  for key in sorted({*sweep, *reference}):
    name, kind = f'{path}.{key}', type(reference.get(key))
    if key not in reference:
      known = ', '.join(reference)
      raise refusals.ConfigError(
        name, f'one of {known}', 'this key', 'remove it'
      )
    if key not in sweep:
      raise refusals.ConfigError(
        name, 'a value', 'none', 'start from default.get_sweep()'
      )
    if kind is ml_collections.ConfigDict:
      _check_keys(sweep[key], reference[key], name)
    elif type(sweep[key]) is not kind:
      raise refusals.ConfigError(
        name,
        f'a value of type {kind.__name__}',
        repr(sweep[key]),
        'change it',
      )
