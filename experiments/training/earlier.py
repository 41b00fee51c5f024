"""The last checkpoint of a run that has ended."""

from __future__ import annotations

import json
import pathlib

import gtddp_jax as gt
from configs.schema import Config
from experiments.data import splits
from experiments.optimizers import registry
from experiments.runs import locks
from experiments.training import checkpoints, loop, programs


def last_position(
  source: pathlib.Path,
  own: Config,
  network: programs.Network,
  dataset: splits.Dataset,
) -> loop.Position | None:
  """Returns where a run ended, on one device; None without a checkpoint.

  Args:
    source: its folder.
    own: its config, from ``held.get_config``.
    network: that of the run.
    dataset: that of the run, for the length of its schedules.

  Raises:
    CheckpointError: if the last checkpoint is damaged.
    ConfigError: if the folder is in use.
  """
  if not (source / 'checkpoints').is_dir():
    return None
  tx = registry.build(
    own.optimizer,
    network.graph,
    gt.losses.softmax_cross_entropy,
    programs.step_count(own, dataset),
  )
  params = network.init(own.seed)
  # As it was written: a run may be older than some keys.
  written = json.loads((source / 'config.json').read_text('utf-8'))
  asked = Config(written)
  with (
    locks.locked(source),
    checkpoints.Checkpoints(source / 'checkpoints', asked) as saved,
  ):
    return saved.restore(loop.Position(params, tx.init(params)))
