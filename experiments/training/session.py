"""Training one network: its folder, its checkpoints, its report.

Where a program was stopped, however it was, the next goes on in the same folder
from the last complete checkpoint, and the files end up as if it had not been.
"""

from __future__ import annotations

import math
import pathlib
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from configs.schema import Config
from experiments.data import splits
from experiments.optimizers import registry
from experiments.report import tables
from experiments.runs import hosts, progress, run_folder, signals
from experiments.training import (
  checkpoints,
  devices,
  loop,
  programs,
  run_page,
  tensorboard,
  warm_start,
)

FINISHED = 'finished'


class Built(NamedTuple):
  """What a training needs beside its folder."""

  dataset: splits.Dataset
  program: programs.Program
  start: warm_start.Start | None


def build(
  config: Config, folder: run_folder.RunFolder | None = None
) -> Built | None:
  """Traces, builds and compiles; whatever can be refused is, and no file made.

  Args:
    config: validated.
    folder: of the run that is gone on with; None for a new one.

  Returns:
    What ``train`` needs; None if that run has finished.

  Raises:
    GtddpError: if the optimizer cannot train this network.
    ConfigError: if ``config.start_from`` is no place to start from.
  """
  devices.check(config)
  held, begun = None, False
  if folder is not None:
    held = hosts.from_first(folder.result)
    begun = hosts.from_first(lambda: _begun(folder))
  if held is not None and held['status'] == FINISHED:
    return None
  dataset = splits.from_config(config.dataset)
  network = programs.build_network(config, dataset)
  start = None
  if not begun:
    start = hosts.from_first(
      lambda: hosts.local(warm_start.read(config, network, dataset))
    )
  return Built(dataset, programs.build(network, config, dataset), start)


def _begun(folder: run_folder.RunFolder) -> bool:
  """Whether it has a checkpoint, so that its start no longer matters."""
  return any(p.name.isdigit() for p in folder.folder('checkpoints').glob('*'))


def train(
  config: Config,
  folder: run_folder.RunFolder,
  built: Built | None = None,
) -> loop.Row:
  """Trains one network and fills its folder, or what is left of both.

  Args:
    config: validated.
    folder: new, or of an earlier run of this config.
    built: of ``build``; None to build it here.

  Returns:
    What result.json holds.

  Raises:
    NonFiniteError: if a loss is not finite.
    CheckpointError: if the last checkpoint cannot be gone on from.
    Stopped: where a signal said so; a checkpoint has been written.
  """
  held = hosts.from_first(folder.result)
  if held is not None and held['status'] == FINISHED:
    # The first process alone has the rows; a report that is there stays.
    if hosts.is_first() and not folder.file('curves.png').exists():
      _report(config, folder, held, folder.rows())
    return held
  built = built or build(config, folder)
  assert built is not None
  title = registry.title(config.optimizer)
  result: loop.Row = {'status': 'interrupted', 'optimizer': title}
  result['compile_seconds'] = built.program.compile_seconds
  try:
    rows = _train(config, folder, built)
    result |= _outcome(rows)
    _report(config, folder, result, rows)
    result['status'] = FINISHED
  except checkpoints.CheckpointError:
    raise  # Nothing has changed.
  except BaseException as error:
    if isinstance(error, loop.NonFiniteError):
      result['status'] = str(error)
    result |= _outcome(folder.rows())
    folder.write_json('result.json', result)
    raise
  folder.write_json('result.json', result)
  return result


def _report(
  config: Config,
  folder: run_folder.RunFolder,
  result: loop.Row,
  rows: list[loop.Row],
) -> None:
  title = result['optimizer']
  tables.curves(folder.file('curves.png'), [tables.Curve(title, [rows])])
  folder.write_report(
    run_page.text(config, result, rows),
    [config.seed],
    run_page.short(config, result, rows),
  )


def _train(
  config: Config,
  folder: run_folder.RunFolder,
  built: Built,
) -> list[loop.Row]:
  """Trains from the last checkpoint to the end; returns all rows."""
  title, (dataset, program, warm) = registry.title(config.optimizer), built
  pair = program.begin(*warm) if warm else program.init(config.seed)
  start = loop.Position(*pair)
  with (
    signals.Deferred() as stop,
    checkpoints.Checkpoints(folder.folder('checkpoints'), config) as saved,
  ):
    position = _restored(saved, start, program)
    folder.log_anew(position.rows)
    say = progress.say if hosts.is_first() else lambda text: None
    run = loop.Loop(program, config, dataset, config.seed, position, stop)
    with (
      tensorboard.Events(folder.folder('tensorboard'), position.rows) as board,
      progress.bar(program.steps, hosts.is_first()) as bar,
    ):
      bar.update(position.step)
      if position.step:
        say(f'{title}: goes on from step {position.step}')
      keeper = _Keeper(saved, config.checkpoint_seconds)
      try:
        for row in run.rows():
          folder.log(row)
          board.log(row)
          bar.update(row['step'] - bar.n)
          if 'test_loss' in row:
            say(f'{title}: {tables.line(row)}')
          run.check()
          keeper.keep(run.position, row['step'] == program.steps)
      except signals.Stopped:
        saved.save(run.position)
        raise
      except loop.NonFiniteError as error:
        kept = saved.losses(run.position.rows)
        raise loop.NonFiniteError(
          error.quantity,
          error.step,
          error.advice,
          left(kept, math.log(dataset.classes)),
        ) from error
    return list(run.position.rows)


def _restored(
  saved: checkpoints.Checkpoints,
  start: loop.Position,
  program: programs.Program,
) -> loop.Position:
  """Where the last checkpoint was, or the start; the same in all processes."""
  if hosts.count() == 1:
    return saved.restore(start) or start
  found = hosts.from_first(lambda: jax.device_get(saved.restore(start)))
  if found is None:
    return start
  params, state = program.layout.everywhere(found[:2])
  return loop.Position(params, state, *found[2:])


def left(kept: Mapping[pathlib.Path, float], chance: float) -> str:
  """Says which checkpoints a run that diverged has, and what they are worth.

  Args:
    kept: train losses by path, in the order of the steps.
    chance: the loss of a constant guess.
  """

  def worth(path: pathlib.Path) -> str:
    return f'{path} (train loss {kept[path]:.3g} nats)'

  if not kept:
    return 'No checkpoint is left.'
  last, best = [*kept][-1], min(kept, key=lambda path: kept[path])
  text = f'The last checkpoint: {worth(last)}'
  if kept[last] > chance:
    text += ', worse than a constant guess'
    if best != last:
      text += f'; the best one left: {worth(best)}'
  return f'{text}.'


class _Keeper:
  """Decides which rows get a checkpoint."""

  def __init__(self, saved: checkpoints.Checkpoints, seconds: float):
    self._saved, self._seconds = saved, seconds
    self._time = time.monotonic()

  def keep(self, position: loop.Position, final: bool) -> None:
    """Saves the best so far and the final one, others at their time."""
    leading = loop.best(position.rows) is position.rows[-1]
    if leading or final or time.monotonic() - self._time >= self._seconds:
      self._saved.save(position)
      self._time = time.monotonic()


def _outcome(rows: list[loop.Row]) -> dict[str, Any]:
  """The last evaluation, and which checkpoint is the best."""
  found = loop.last_evaluation(rows)
  if best := loop.best(rows):
    found['best'] = {key: best[key] for key in ('step', 'test_accuracy')}
  return found
