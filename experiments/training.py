"""Training one network: the loop, its rows of numbers, and its folder.

The metrics of an interval are fetched together at its end, so that the host
runs ahead of the device.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from experiments import data, optimizers, programs, progress, report, runs

Row = dict[str, Any]


class NonFiniteError(FloatingPointError):
  """A loss, or every update of an interval, stopped being finite.

  ::

    config.optimizer.base.learning_rate = 1e9
    train(config, folder)
  """

  def __init__(self, quantity: str, step: int):
    """Makes the message.

    Args:
      quantity: what is not finite.
      step: after how many steps.
    """
    self.step = step
    super().__init__(
      f'{quantity} at step {step}: expected a finite number, got inf or nan; '
      f'lower config.optimizer.base.learning_rate or set '
      f'config.optimizer.trust_region.'
    )


def intervals(
  program: programs.Program,
  config: ml_collections.ConfigDict,
  dataset: data.Dataset,
  seed: int,
) -> Iterator[Row]:
  """Trains, and stops to report after each interval of ``log_every`` steps.

  Args:
    program: of this config and data set.
    config: of the experiment; its seed is not used.
    dataset: to train on.
    seed: of the initial parameters, the order and the augmentation.

  Yields:
    The row to log; the first is that of the initial parameters.

  Raises:
    NonFiniteError: once the row that shows it has been yielded.
  """
  params, state = program.init(seed)
  key = programs.step_key(seed)
  skipped = 0.0
  yield {'step': 0, 'epoch': 0.0, **program.evaluate(params, state)}
  for first in range(0, program.steps, config.log_every):
    last = min(first + config.log_every, program.steps)
    begin = time.perf_counter()
    pending = []
    for step in range(first, last):
      samples = data.batch(dataset.train, config.batch_size, seed, step)
      params, state, metrics = program.step(
        params, state, *samples, key, np.uint32(step)
      )
      pending.append(metrics)
    fetched = jax.device_get(pending)
    seconds = (time.perf_counter() - begin) / (last - first)
    row = {
      'step': last,
      'epoch': last * config.batch_size / dataset.train.size,
      'seconds_per_step': seconds,
      **_summary(fetched),
    }
    if last % config.eval_every == 0 or last == program.steps:
      row |= program.evaluate(params, state)
    yield row
    _check_finite(fetched, first, row)
    if row['skipped_steps'] - skipped == last - first:
      raise NonFiniteError('parameter update', first + 1)
    skipped = row['skipped_steps']


def _summary(fetched: Sequence[Mapping[str, Any]]) -> Row:
  """Means over an interval; the extreme where a mean would hide it."""
  columns = {
    name: [float(metrics[name]) for metrics in fetched] for name in fetched[0]
  }
  batch_loss = statistics.fmean(columns.pop('loss'))
  row: Row = {'batch_loss': batch_loss}
  for name, values in columns.items():
    match name:
      case 'smallest_factor':
        row[name] = min(values)
      case 'skipped_steps':  # counted since the start
        row[name] = values[-1]
      case _:
        row[name] = statistics.fmean(values)
  return row


def _check_finite(
  fetched: Sequence[Mapping[str, Any]], first: int, row: Row
) -> None:
  """Raises if a loss is not finite."""
  for offset, metrics in enumerate(fetched):
    if not np.isfinite(metrics['loss']):
      raise NonFiniteError('batch loss', first + offset + 1)
  if 'train_loss' in row and not math.isfinite(row['train_loss']):
    raise NonFiniteError('train loss', row['step'])


def train(config: ml_collections.ConfigDict, folder: runs.RunFolder) -> Row:
  """Trains one network and fills its folder.

  Args:
    config: validated.
    folder: new.

  Returns:
    What result.json holds.

  Raises:
    NonFiniteError: if a loss is not finite.
  """
  dataset = data.from_config(config.dataset)
  title = optimizers.title(config.optimizer)
  rows: list[Row] = []
  result: Row = {'status': 'interrupted', 'optimizer': title}
  try:
    network = programs.build_network(config, dataset)
    program = programs.build(network, config, dataset)
    result['compile_seconds'] = program.compile_seconds
    with progress.Progress(program.steps) as bar:
      for row in intervals(program, config, dataset, config.seed):
        folder.log(row)
        bar.advance(row['step'] - (rows[-1]['step'] if rows else 0))
        rows.append(row)
        if 'test_loss' in row:
          bar.say(f'{title}: {report.line(row)}')
    result['status'] = 'finished'
  except NonFiniteError as error:
    result['status'] = str(error)
    raise
  finally:
    result |= last_evaluation(rows)
    folder.write_json('result.json', result)
  report.curves(folder.file('curves.png'), [report.Curve(title, [rows])])
  return result


def last_evaluation(rows: Sequence[Row]) -> Row:
  """Returns the last evaluation of a run, and its median time per step."""
  evaluated = [row for row in rows if 'test_loss' in row]
  times = [row['seconds_per_step'] for row in rows if 'batch_loss' in row]
  summary: Row = {}
  if evaluated:
    keys = ('step', 'epoch', 'train_loss', 'train_accuracy', 'test_loss')
    summary |= {key: evaluated[-1][key] for key in (*keys, 'test_accuracy')}
  if times:
    summary['seconds_per_step'] = statistics.median(times)
  return summary
