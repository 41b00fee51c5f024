"""The last checkpoint of a run that has ended."""

from __future__ import annotations

import json
import pathlib

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
)


def last_position(
  source: pathlib.Path, network: programs.Network, dataset: data.Dataset
) -> loop.Position | None:
  """Reads where a run ended; on one device.

  Args:
    source: its folder.
    network: that of the run.
    dataset: that of the run, for the length of its schedules.

  Returns:
    The position; None if the folder holds no checkpoint.

  Raises:
    ValueError: if there is no config.json of a run.
    CheckpointError: if the last checkpoint is damaged.
    ConfigError: if the folder is in use.
  """
  path = source / 'config.json'
  own = held.get_config(str(path))
  if not (source / 'checkpoints').is_dir():
    return None
  tx = optimizers.build(
    own.optimizer,
    network.graph,
    gt.losses.softmax_cross_entropy,
    programs.step_count(own, dataset),
  )
  params = network.init(own.seed)
  # As it was written: a run may be older than some keys.
  asked = ml_collections.ConfigDict(json.loads(path.read_text('utf-8')))
  with (
    folders.locked(source),
    checkpoints.Checkpoints(source / 'checkpoints', asked) as saved,
  ):
    return saved.restore(loop.Position(params, tx.init(params)))
