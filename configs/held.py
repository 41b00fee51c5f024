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


def get_config(path: str = '') -> ml_collections.ConfigDict:
  """Returns the configuration that a file holds.

  Args:
    path: of the file; what stands after the colon.

  Returns:
    The configuration.

  Raises:
    ValueError: if there is no such file, or it is no configuration.
  """
  config = default.get_config()
  if path:
    try:
      held = json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
      raise ValueError(
        f'--config: expected the config.json of a run after the colon, got '
        f'{path!r} ({type(error).__name__}); correct the path.'
      ) from error
    _set(config, held, path)
  return config


def _set(config: ml_collections.ConfigDict, held: Any, path: str) -> None:
  """Puts values in place; lists of JSON are tuples."""
  if not isinstance(held, dict) or not set(held) <= set(config):
    unknown = sorted({*held} - {*config}) if isinstance(held, dict) else held
    raise ValueError(
      f'--config: expected keys of configs/default.py in {path}, got '
      f'{unknown!r}; it is of another version.'
    )
  for key, value in held.items():
    if isinstance(config[key], ml_collections.ConfigDict):
      _set(config[key], value, path)
    else:
      config[key] = tuple(value) if isinstance(value, list) else value
