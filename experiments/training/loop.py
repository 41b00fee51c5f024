"""The training loop: steps, evaluations, and rows of numbers.

The metrics of an interval are fetched together at its end, so that the host
runs ahead of the device, but only by so many steps that a signal is answered
soon. A loop can stop after any step, and another goes on from its position.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from configs.schema import Config
from experiments.data import splits
from experiments.optimizers import registry
from experiments.runs import hosts, signals
from experiments.training import programs

Row = dict[str, Any]

_AHEAD = 8  # steps that the host may be ahead of the device


class NonFiniteError(FloatingPointError):
  """A loss, or every update of an interval, stopped being finite.

  ::

    config.optimizer.base.learning_rate = 1e9
    train(config, folder)
  """

  def __init__(
    self, quantity: str, step: int, advice: str = '', left: str = ''
  ):
    """Makes the message.

    Args:
      quantity: what is not finite.
      step: after how many steps.
      advice: which keys to change; see ``registry.advice``.
      left: which checkpoints there are, as a sentence.
    """
    self.quantity, self.step, self.advice = quantity, step, advice
    words = [f'; {advice}.' if advice else '.', f' {left}' if left else '']
    super().__init__(
      f'{quantity} at step {step}: expected a finite number, got inf or nan'
      + ''.join(words)
    )


class Position(NamedTuple):
  """Where a run stands: with config and seed, all that the rest depends on."""

  params: Any  # the parameters
  state: Any  # of the optimizer, batch statistics included
  step: int = 0  # steps done; the next batch and its keys are functions of it
  rows: tuple[Row, ...] = ()  # logged so far
  # metrics of the steps since the last row
  pending: tuple[Mapping[str, Any], ...] = ()
  seconds: float = 0.0  # what those steps took


class Loop:
  """One run on its way.

  Attributes:
    position: where it stands; whole whenever the loop is not at work.
    losses: of the batches (nats), each before its step; since the last start.
  """

  def __init__(
    self,
    program: programs.Program,
    config: Config,
    dataset: splits.Dataset,
    seed: int,
    position: Position | None = None,
    stop: signals.Deferred | None = None,
    advice: str | None = None,
  ):
    """Prepares the run.

    Args:
      program: of this config and data set.
      config: of the experiment; its seed is not used.
      dataset: to train on.
      seed: of the initial parameters, the order and the augmentation.
      position: where to go on; None for the start.
      stop: who says when to stop; None if nobody.
      advice: which keys to change where it diverges; None for those of config.
    """
    self.position = position or Position(*program.init(seed))
    self._program, self._dataset, self._seed = program, dataset, seed
    self.losses: list[float] = []
    self._batch_size = config.batch_size
    self._log_every, self._eval_every = config.log_every, config.eval_every
    self._accumulate = config.optimizer.accumulate
    self._advice = advice or registry.advice(config.optimizer)
    self._stop = stop
    self._problem: NonFiniteError | None = None

  def rows(self, sparse: bool = False) -> Iterator[Row]:
    """Trains, and yields a row to log after each ``log_every`` steps.

    The first is that of the initial parameters. If ``sparse``, only the last is
    evaluated.

    Raises:
      NonFiniteError: once the row that shows it has been yielded.
      Stopped: where a signal said so; ``position`` is where to go on.
    """
    if not self.position.rows:
      found = {} if sparse else self._evaluate()
      yield self._log({'step': 0, 'epoch': 0.0, **found})
    while self.position.rows[-1]['step'] < self._program.steps:
      first = self.position.rows[-1]['step']
      last = min(first + self._log_every, self._program.steps)
      self.advance(last)
      fetched = jax.device_get(self.position.pending)
      self.losses += [float(metrics['loss']) for metrics in fetched]
      row = {
        'step': last,
        'epoch': last * self._batch_size / self._dataset.train.size,
        'seconds_per_step': self.position.seconds / (last - first),
        **_summary(fetched),
      }
      due = last % self._eval_every == 0 and not sparse
      if due or last == self._program.steps:
        row |= self._evaluate()
      self._problem = self._found(fetched, first, row)
      yield self._log(row)
      self.check()

  def check(self) -> None:
    """Raises NonFiniteError if the last row shows one."""
    if self._problem is not None:
      raise self._problem

  def advance(self, last: int) -> None:
    """Trains up to a step."""
    layout = self._program.layout
    key = layout.everywhere(programs.step_key(self._seed))
    begin, before = time.perf_counter(), self.position.seconds
    while self.position.step < last:
      at = self.position
      # Several processes have to agree, which takes time.
      due = hosts.count() == 1 or at.step % _AHEAD == 0
      if self._stop is not None and due:
        self._stop.check()
      samples = layout.batch(
        self._dataset.train, self._batch_size, self._seed, at.step
      )
      params, state, metrics = self._program.step(
        at.params, at.state, *samples, key, np.uint32(at.step)
      )
      pending = (*at.pending, metrics)
      jax.block_until_ready(pending[-_AHEAD:][0])
      seconds = before + time.perf_counter() - begin
      self.position = at._replace(
        params=params,
        state=state,
        step=at.step + 1,
        pending=pending,
        seconds=seconds,
      )
    jax.block_until_ready(self.position.pending)
    seconds = before + time.perf_counter() - begin
    self.position = self.position._replace(seconds=seconds)

  def _evaluate(self) -> dict[str, float]:
    now: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if self._stop and hosts.count() == 1:
      now = self._stop.immediate()
    with now:
      return self._program.evaluate(self.position.params, self.position.state)

  def _log(self, row: Row) -> Row:
    rows = (*self.position.rows, row)
    self.position = self.position._replace(rows=rows, pending=(), seconds=0.0)
    return row

  def _found(
    self, fetched: Sequence[Mapping[str, Any]], first: int, row: Row
  ) -> NonFiniteError | None:
    """What is not finite in a new row and the metrics it was made of."""
    for offset, metrics in enumerate(fetched):
      if not np.isfinite(metrics['loss']):
        return NonFiniteError('batch loss', first + offset + 1, self._advice)
    if 'train_loss' in row and not math.isfinite(row['train_loss']):
      return NonFiniteError('train loss', row['step'], self._advice)
    before = self.position.rows[-1].get('skipped_steps', 0)
    updates = row['step'] // self._accumulate - first // self._accumulate
    if updates and row['skipped_steps'] - before == updates:
      return NonFiniteError('parameter update', first + 1, self._advice)
    return None


def _summary(fetched: Sequence[Mapping[str, Any]]) -> Row:
  """Means over an interval; the extreme where a mean would hide it.

  What belongs to an update is of the batches with one; absent without any.
  """
  row: Row = {'batch_loss': statistics.fmean(float(m['loss']) for m in fetched)}
  updates = [metrics for metrics in fetched if metrics.get('updated', True)]
  for name in fetched[0]:
    if name in ('loss', 'updated'):
      continue
    values = [float(metrics[name]) for metrics in updates]
    match name:
      case 'skipped_steps':  # counted since the start
        row[name] = float(fetched[-1][name])
      case _ if not values:
        continue
      case 'smallest_factor':
        row[name] = min(values)
      case _:
        row[name] = statistics.fmean(values)
  return row


def best(rows: Sequence[Row]) -> Row | None:
  """Returns the first of the rows with the highest test accuracy, if any."""
  evaluated = [row for row in rows if 'test_accuracy' in row]
  return max(evaluated, key=lambda row: row['test_accuracy'], default=None)


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
