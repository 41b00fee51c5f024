r"""The configuration of an earlier run, from the config.json in its folder.

  python -m experiments.train --config=configs/held.py:runs/x/config.json \
    --config.seed=1 --workdir=runs/y

Keys that are newer than the run have their default values.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import ml_collections

from configs import default
from configs.schema import Config
from experiments import refusals


def get_config(path: str = '') -> Config:
  """Returns the configuration in a file; the defaults if none is named.

  Raises ConfigError if there is no such file, or it is no configuration.
  """
  config = default.get_config()
  if path:
    try:
      held = json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
      raise refusals.ConfigError(
        '--config',
        'the config.json of a run after the colon',
        f'{path!r} ({type(error).__name__})',
        'give the path of one',
      ) from error
    if isinstance(held, dict):
      held = _present(held, config)
    _set(config, held, path)
  return config


def _present(held: dict[str, Any], config: Config) -> dict[str, Any]:
  """Renames what had another name; sections of studies are handed on."""
  found = {default.renamed(name): value for name, value in held.items()}
  compared = found.pop('compare', {})
  if 'learning_rate' in compared:
    found['learning_rates'] = compared['learning_rate']
  for name, value in found.items():
    if name not in config and isinstance(value, dict):
      own = {_last(f'{name}.{key}'): item for key, item in value.items()}
      config[name] = Config(_tuples(own))
  return found


def _last(path: str) -> str:
  return default.renamed(path).rpartition('.')[2]


def _tuples(value: Any) -> Any:
  """The same with tuples for JSON's lists."""
  if isinstance(value, dict):
    return {name: _tuples(item) for name, item in value.items()}
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _set(config: Config, held: Any, path: str) -> None:
  """Puts values in place; lists of JSON are tuples."""
  if not isinstance(held, dict) or not set(held) <= set(config):
    unknown = sorted({*held} - {*config}) if isinstance(held, dict) else held
    raise refusals.ConfigError(
      '--config',
      f'keys of configs/default.py in {path}',
      repr(unknown),
      'it is of another version',
    )
  for key, value in held.items():
    if isinstance(config[key], ml_collections.ConfigDict):
      _set(config[key], value, path)
    else:
      config[key] = _tuples(value)
