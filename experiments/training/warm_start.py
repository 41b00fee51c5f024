"""Initial parameters from another run of the same network."""

from __future__ import annotations

import pathlib
from typing import Any, NamedTuple

import gtddp_jax as gt
from configs import held
from configs.schema import Config
from experiments import refusals
from experiments.data import splits
from experiments.runs import comparison
from experiments.training import checkpoints, earlier, programs


class Start(NamedTuple):
  """Where a training begins: parameters, and batch statistics if there are."""

  params: Any
  collections: Any


def read(
  config: Config,
  network: programs.Network,
  dataset: splits.Dataset,
) -> Start | None:
  """Returns what the last checkpoint of ``config.start_from`` holds, if set.

  Raises ConfigError if there is none, or it is of another network.
  """
  if config.start_from is None:
    return None
  source = pathlib.Path(config.start_from)
  try:
    own = held.get_config(str(source / 'config.json'))
  except ValueError as error:
    missing = isinstance(error.__cause__, FileNotFoundError)
    reason = 'without config.json' if missing else f'({error})'
    raise _refused(f'{source} {reason}') from error
  models = ({'model': c.model.to_dict()} for c in (own, config))
  if other := comparison.difference(*map(comparison.plain, models)):
    raise _refused(f'{source}, whose run has {other}')
  try:
    found = earlier.last_position(source, own, network, dataset)
  except checkpoints.CheckpointError as error:
    raise _refused(f'"{error}"') from error
  except refusals.ConfigError as error:
    raise _refused(f'{source}, which is in use or cannot be written') from error
  if found is None:
    raise _refused(f'{source} without one')
  return Start(found.params, gt.collections(found.state))


def _refused(got: str) -> refusals.ConfigError:
  return refusals.ConfigError(
    'config.start_from',
    'the folder of a run of this network with a checkpoint',
    got,
    'choose another, or leave it out to start from fresh parameters',
  )
