"""Initial parameters from another run of the same network."""

from __future__ import annotations

import json
import pathlib
from typing import Any, NamedTuple

import ml_collections

import gtddp_jax as gt
from configs import held
from experiments import (
  checkpoints,
  data,
  folders,
  loop,
  optimizers,
  programs,
  validation,
)


class Start(NamedTuple):
  """Where a training begins: parameters, and batch statistics if there are."""

  params: Any
  collections: Any


def read(
  config: ml_collections.ConfigDict,
  network: programs.Network,
  dataset: data.Dataset,
) -> Start | None:
  """Returns what the last checkpoint of ``config.start_from`` holds.

  Args:
    config: validated.
    network: of this config.
    dataset: to train on.

  Returns:
    The start; None if the config names no run.

  Raises:
    ConfigError: if there is no such checkpoint, or it is of another network.
  """
  if config.start_from is None:
    return None
  source = pathlib.Path(config.start_from)
  try:
    path = source / 'config.json'
    asked, own = json.loads(path.read_text()), held.get_config(str(path))
  except (OSError, ValueError) as error:
    raise _refused(f'{source} ({type(error).__name__})') from error
  models = ({'model': c.model.to_dict()} for c in (own, config))
  if other := folders.difference(*map(folders.plain, models)):
    raise _refused(f'{source}, whose run has {other}')
  if not (source / 'checkpoints').is_dir():
    raise _refused(f'{source} without one')
  params = network.init(0)
  tx = optimizers.build(
    own.optimizer,
    network.graph,
    gt.losses.softmax_cross_entropy,
    programs.step_count(own, dataset),
  )
  like = loop.Position(params, tx.init(params))
  try:
    with (
      folders.locked(source),
      checkpoints.Checkpoints(
        source / 'checkpoints', ml_collections.ConfigDict(asked)
      ) as saved,
    ):
      found = saved.restore(like)
  except checkpoints.CheckpointError as error:
    raise _refused(f'"{error.what}"') from error
  except validation.ConfigError as error:
    raise _refused(f'{source}, which is in use or cannot be written') from error
  if found is None:
    raise _refused(f'{source} without one')
  return Start(found.params, gt.collections(found.state))


def _refused(got: str) -> validation.ConfigError:
  return validation.ConfigError(
    'config.start_from',
    'the folder of a run of this network with a checkpoint',
    got,
    'choose another, or leave it out to start from fresh parameters',
  )
