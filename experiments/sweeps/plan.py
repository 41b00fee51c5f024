"""From a sweep to its runs, each with a folder that its config names.

The name of a folder ends with a digest of the whole config. So a sweep can be
changed and gone on with: runs that are still part of it are found, and no
result is taken for that of another config.
"""

from __future__ import annotations

import functools
import hashlib
import json
import operator
import re
from typing import Any, NamedTuple

import ml_collections

from configs import sweeps
from configs.schema import Config
from experiments import refusals
from experiments.runs import comparison, overrides, validation
from experiments.sweeps import axes

_LONGEST = 80  # characters of a folder's name before the digest


class Run(NamedTuple):
  """One run of a sweep."""

  name: str  # of its folder
  values: axes.Values  # of the axes, by their names; without the seed
  seed: int  # of the run
  config: dict[str, Any]  # all of it, in JSON's types


def load(path: str) -> Config:
  """Returns the sweep of a Python file, with all keys of ``default.get_sweep``.

  Raises ConfigError if there is no such file, or its sweep cannot be used.
  """
  sweep = overrides.load(path)
  check(sweep)
  return sweep


def check(sweep: Any) -> None:
  """Raises ConfigError at the first key of a sweep that cannot be used."""
  if not isinstance(sweep, ml_collections.ConfigDict):
    raise refusals.ConfigError(
      'sweep', 'a ConfigDict', repr(sweep), 'start from default.get_sweep()'
    )
  validation.check(sweep, sweeps.SCHEMA, 'sweep')


def runs(sweep: Config) -> list[Run]:
  """Returns all runs, each seed of all settings before the next.

  Raises ConfigError if the axes cannot be used, and at a config that
  `experiments.train` would refuse.
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
  sweep: Config,
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
  asked = overrides.read(['sweep', *arguments], {})
  config = asked.config
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
  overrides.check_rate(config, keys)
  plain: dict[str, Any] = comparison.plain(config.to_dict())
  return plain
