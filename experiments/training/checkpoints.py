"""Checkpoints of a run: the last two, and the best one so far.

Each is a folder that is named by its step and holds ``params``, ``state`` (of
the optimizer, batch statistics included) and ``record`` (JSON: config, rows,
checksums). Orbax writes them in the background, under another name until they
are complete. Random keys and batches are functions of the seed and the step.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import logging
import math
import pathlib
import sys
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from configs.schema import Config
from experiments import refusals
from experiments.runs import comparison, hosts
from experiments.training import loop

_SCORE = 'test_accuracy'


class CheckpointError(refusals.Unusable):
  """A checkpoint that is damaged, or of another run.

  ::

    (folder / 'checkpoints' / '40' / 'record' / 'metadata').write_text('')
    train(config, folder)
  """


class Checkpoints:
  """The checkpoints in one folder; used as a context manager."""

  def __init__(self, path: pathlib.Path, config: Config) -> None:
    """Opens the folder of a run's checkpoints, or makes it."""
    # Orbax logs with a traceback what it raises as well.
    logging.getLogger('absl').setLevel(logging.CRITICAL)
    self._path = path.absolute()
    self._config = comparison.plain(config.to_dict())
    self._saved: tuple[int, int] | None = None  # step and number of rows

    def score(metrics: Any) -> float:
      return metrics[_SCORE]

    self._path.mkdir(parents=True, exist_ok=True)
    self._manager = ocp.CheckpointManager(
      self._path,
      options=ocp.CheckpointManagerOptions(
        create=False,
        multiprocessing_options=_alone(),
        best_fn=score,
        cleanup_tmp_directories=True,
        preservation_policy=checkpoint_managers.AnyPreservationPolicy(
          [
            checkpoint_managers.LatestN(2),
            checkpoint_managers.BestN(
              get_metric_fn=score, n=1, keep_checkpoints_without_metrics=False
            ),
          ]
        ),
      ),
    )

  def __enter__(self) -> Checkpoints:
    """Returns itself."""
    return self

  def __exit__(self, *unused: object) -> None:
    """Waits for the last checkpoint to be complete."""
    with _writing():
      self._manager.close()

  def losses(self, rows: Sequence[loop.Row]) -> dict[pathlib.Path, float]:
    """Returns the complete checkpoints, with the train losses known of them.

    By path, in the order of the steps; of an evaluation, or else of a batch.
    """
    with _writing():
      self._manager.wait_until_finished()
    known: dict[int, Any] = {
      row['step']: row.get('train_loss', row.get('batch_loss', math.inf))
      for row in rows
    }
    return {
      self._path / str(step): float(known.get(step, math.inf))
      for step in sorted(self._manager.all_steps())
    }

  def save(self, position: loop.Position) -> None:
    """Saves a position, the best so far if its last row is, in the background.

    Raises OSError if this one, or the one before, could not be written.
    """
    place = (position.step, len(position.rows))
    if place == self._saved or not position.rows or not hosts.is_first():
      return
    params, opt_state = hosts.local(position[:2])
    position = position._replace(params=params, state=opt_state)
    best = loop.best(position.rows)
    leading = best is not None and best['step'] == position.step
    pending = [
      {name: float(value) for name, value in metrics.items()}
      for metrics in jax.device_get(position.pending)
    ]
    record = {
      'config': self._config,
      'step': position.step,
      'rows': list(position.rows),
      'pending': pending,
      'seconds': position.seconds,
      'arrays': _described(position),
      'checksums': _checksums(position),
    }
    with _writing():
      if position.step in self._manager.all_steps():
        # A signal stopped the evaluation of this very step.
        self._manager.wait_until_finished()
        self._manager.delete(position.step)
      self._manager.save(
        position.step,
        args=ocp.args.Composite(
          params=ocp.args.StandardSave(position.params),
          state=ocp.args.StandardSave(position.state),
          record=ocp.args.JsonSave(record),
        ),
        metrics={_SCORE: best[_SCORE]} if best and leading else None,
      )
    self._saved = place

  def restore(self, start: loop.Position) -> loop.Position | None:
    """Returns the position of the last complete checkpoint, if there is one.

    Args:
      start: the run's first position.

    Raises:
      CheckpointError: if it is damaged, or of another config or network.
    """
    step = self._manager.latest_step()
    if step is None:
      return None
    read = functools.partial(self._read, step)
    record = read(record=ocp.args.JsonRestore()).record
    self._check(step, record, start)
    like = jax.tree.map(ocp.utils.to_shape_dtype_struct, hosts.local(start[:2]))
    found = read(
      params=ocp.args.StandardRestore(like[0]),
      state=ocp.args.StandardRestore(like[1]),
    )
    position = loop.Position(
      found.params,
      found.state,
      step,
      tuple(record['rows']),
      tuple(record['pending']),
      record['seconds'],
    )
    if _checksums(position) != record['checksums']:
      raise self._damaged(step, 'arrays with another checksum')
    self._saved = (position.step, len(position.rows))
    return position

  def _read(self, step: int, **items: Any) -> Any:
    """Reads items of a checkpoint."""
    try:
      with _quiet():
        return self._manager.restore(step, args=ocp.args.Composite(**items))
    except Exception as error:  # Orbax and its libraries raise all kinds.
      remedy = refusals.not_of_the_files(error)
      if remedy is None:
        raise self._damaged(step, type(error).__name__) from None
      raise CheckpointError(
        self._path / str(step),
        'to read the checkpoint',
        refusals.one_line(error),
        f'{remedy}, and the same command goes on',
      ) from None

  def _check(
    self, step: int, record: Mapping[str, Any], start: loop.Position
  ) -> None:
    """Raises CheckpointError for a record of another run."""
    missing = {'config', 'arrays', 'rows', 'checksums'} - set(record)
    if missing:
      raise self._damaged(step, f'a record without {", ".join(missing)}')
    elsewhere = (
      'choose a --workdir of its own, or add --overwrite to start again'
    )
    if other := comparison.difference(record['config'], self._config):
      raise CheckpointError(
        self._path / str(step),
        'a checkpoint of this config',
        f'one with {other}',
        elsewhere,
      )
    asked, held = _described(start), record['arrays']
    for name in sorted({*asked, *held}):
      if asked.get(name) != held.get(name):
        raise CheckpointError(
          self._path / str(step),
          f'{name} as {asked.get(name, "absent")}',
          f'{held.get(name, "none")}, of another network or optimizer',
          elsewhere,
        )

  def _damaged(self, step: int, got: str) -> CheckpointError:
    others = [other for other in self._manager.all_steps() if other != step]
    where = f'from step {max(others)}' if others else 'from the start'
    return CheckpointError(
      self._path / str(step),
      'a whole checkpoint',
      f'a damaged one ({got})',
      f'delete that folder, and the same command goes on {where}',
    )


def _alone() -> Any:
  """Orbax is not to wait for other processes."""
  if hosts.count() == 1:
    return ocp.options.MultiprocessingOptions()
  own = jax.process_index()
  return ocp.options.MultiprocessingOptions(
    primary_host=own,
    active_processes={own},
    barrier_sync_key_prefix=f'process-{own}',
  )


def _leaves(position: loop.Position) -> dict[str, Any]:
  pair = {'params': position.params, 'state': position.state}
  return {
    jax.tree_util.keystr(path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(pair)
  }


def _described(position: loop.Position) -> dict[str, str]:
  """Shape and type of every array."""
  return {
    name: f'{leaf.dtype}{list(leaf.shape)}'
    for name, leaf in _leaves(position).items()
  }


def _checksums(position: loop.Position) -> dict[str, int]:
  """Of every array; the storage format has none for their values."""
  return {
    name: zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8).data)
    for name, leaf in jax.device_get(_leaves(position)).items()
  }


@contextlib.contextmanager
def _writing() -> Iterator[None]:
  """Raises OSError for whatever keeps a checkpoint from being written."""
  try:
    yield
  except Exception as error:
    # Orbax leaves some behind, of which Python would tell at its exit.
    warnings.filterwarnings('ignore', 'coroutine .* was never awaited')
    if isinstance(error, OSError):
      raise
    raise OSError(
      errno.EIO, f'no complete checkpoint ({type(error).__name__})'
    ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Without what is printed of coroutines that an error has left behind."""
  hook = sys.unraisablehook
  sys.unraisablehook = lambda unused: None
  try:
    yield
  finally:
    gc.collect()
    sys.unraisablehook = hook
