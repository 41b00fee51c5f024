"""What the value levels buy: steps, seconds and learning rates.

  python -m experiments.levels --config=configs/digits.py:sgd --workdir=runs/a

Trains every form of one base (``config.optimizer.base``) at every rate of
``config.levels``, on each of its seeds, and writes the steps and the time to a
train loss, the largest stable rate and the cost of a step (results.md,
result.json, levels.png). A form is compiled once, with the rate as an argument.
The forms take turns, so that whatever else the machine does slows all alike.

A finished run is one line of metrics.jsonl, and the same command goes on where
it stopped: --workdir may hold a study of the same configuration.
"""

from __future__ import annotations

import statistics
import time
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
import optax
import rich.console

import gtddp_jax as gt
from configs import default
from experiments import (
  charts,
  cli,
  data,
  optimizers,
  outcomes,
  programs,
  progress,
  report,
  runs,
  validation,
)


class Form(NamedTuple):
  """What differs between the forms; terminal None is the base alone."""

  title: str
  terminal: Any = None
  value: str = 'frozen'
  trust_region: float | None = None


FORMS = (
  Form('base alone'),
  Form('frozen, gradient', 'gradient'),
  Form('frozen, gradient, 0.3', 'gradient', trust_region=0.3),
  Form('frozen, gauss_newton', 'gauss_newton'),
  Form('frozen, sampled 1', gt.sampled(1)),
  Form('bellman, gradient, 0.3', 'gradient', 'bellman', 0.3),
  Form('bellman, gauss_newton', 'gauss_newton', 'bellman'),
  Form('coupled, gradient', 'gradient', 'coupled'),
  Form('coupled, gauss_newton on 32', gt.subset('gauss_newton', 32), 'coupled'),
  Form('coupled, gauss_newton', 'gauss_newton', 'coupled'),
  Form('coupled, sampled 1', gt.sampled(1), 'coupled'),
)


class Study:
  """The runs of one study, and the steps that were compiled for them."""

  def __init__(self, config: ml_collections.ConfigDict):
    """Loads the data and traces the network."""
    self.config = config
    self.dataset = data.from_config(config.dataset)
    self.network = programs.build_network(config, self.dataset)
    self.steps = programs.step_count(config, self.dataset)
    # A subset that would be the whole batch is the form without it.
    self.forms = [
      form
      for form in FORMS
      if getattr(form.terminal, 'samples', 0) < config.batch_size
    ]
    self._compiled: dict[str, Any] = {}

  def optimizer(
    self, form: Form, rate: Any
  ) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer of a form; the rate may be traced."""
    section = self.config.optimizer.base
    base = optimizers.BASES[section.name].build(
      ml_collections.ConfigDict({**section, 'learning_rate': rate})
    )
    return gt.gt_ddp(
      self.network.graph,
      gt.losses.softmax_cross_entropy,
      base,
      terminal='gradient' if form.terminal is None else form.terminal,
      value=form.value,
      feedback=form.terminal is not None,
      trust_region=form.trust_region,
    )

  def step(self, form: Form) -> Any:
    """Returns ``(rate, *arguments of Program.step)``, compiled once."""
    if form.title not in self._compiled:

      def step(rate: jax.Array, *arguments: Any) -> Any:
        tx = self.optimizer(form, rate)
        return programs.stepper(tx, self.config, self.dataset)(*arguments)

      params = self.network.init(0)
      samples = data.batch(self.dataset.train, self.config.batch_size, 0, 0)
      begin = time.perf_counter()
      self._compiled[form.title] = (
        jax.jit(step)
        .lower(
          np.float32(1),
          params,
          self.optimizer(form, 1.0).init(params),
          *samples,
          programs.step_key(0),
          np.uint32(0),
        )
        .compile()
      )
      seconds = time.perf_counter() - begin
      cli.say(f'compiled {form.title} in {seconds:.1f} s')
    return self._compiled[form.title]

  def train(self, form: Form, rate: float, seed: int) -> outcomes.Row:
    """Trains one network; stops at what is not finite.

    Args:
      form: of the optimizer.
      rate: of its base.
      seed: as in ``loop.Loop``, whose batches these are.

    Returns:
      The line of the run.
    """
    config, dataset = self.config, self.dataset
    compiled, key = self.step(form), programs.step_key(seed)
    params = self.network.init(seed)
    state = self.optimizer(form, rate).init(params)
    losses: list[float] = []
    times: list[float] = []
    skipped, stopped = 0, False
    while len(losses) < self.steps and not stopped:
      first = len(losses)
      last = min(first + config.log_every, self.steps)
      begin = time.perf_counter()
      pending = []
      for step in range(first, last):
        samples = data.batch(dataset.train, config.batch_size, seed, step)
        params, state, metrics = compiled(
          np.float32(rate), params, state, *samples, key, np.uint32(step)
        )
        pending.append(metrics['loss'])
      losses += map(float, jax.device_get(pending))
      times.append((time.perf_counter() - begin) / (last - first))
      before, skipped = skipped, int(metrics['skipped_steps'])
      finite = np.isfinite(losses[first:]).all()
      stopped = not finite or skipped - before == last - first
    epoch = -(-dataset.train.size // config.batch_size)
    target = config.levels.target_loss
    evaluation = {}
    if not stopped:
      evaluation = self.network.evaluate(params, gt.collections(state))
    return {
      'form': form.title,
      'rate': rate,
      'seed': seed,
      **outcomes.outcome(
        losses, statistics.median(times), stopped, epoch, target
      ),
      'test_accuracy': evaluation.get('test_accuracy'),
      'skipped_steps': skipped,
      'smoothed_losses': outcomes.smooth(losses)[
        config.log_every - 1 :: config.log_every
      ],
    }


def work(config: ml_collections.ConfigDict, folder: runs.RunFolder) -> None:
  """Runs what is left of the study and prints the table."""
  name = config.optimizer.base.name
  if not optimizers.BASES[name].explicit:
    raise validation.ConfigError(
      'config.optimizer.base.name',
      'a base with an explicit curvature',
      repr(name),
      'choose sgd, rmsprop or adam',
    )
  for key in ('accumulate', 'schedule'):
    usual = default.get_config().optimizer[key]
    if config.optimizer[key] != usual:
      raise validation.ConfigError(
        f'config.optimizer.{key}',
        'the default, because this study does not read it',
        'another value',
        'leave it',
      )
  study, rows = Study(config), folder.rows()
  done = {(row['form'], row['rate'], row['seed']) for row in rows}
  left = [
    (form, rate, seed)
    for seed in config.levels.seeds
    for rate in config.levels.rates
    for form in study.forms
    if (form.title, rate, seed) not in done
  ]
  with progress.Progress(len(left) * study.steps) as bar:
    for form, rate, seed in left:
      row = study.train(form, rate, seed)
      folder.log(row)
      rows.append(row)
      bar.say(_line(row))
      bar.advance(study.steps)
  _conclude(study, folder, rows)


def _line(row: outcomes.Row) -> str:
  head = f'{row["form"]}, rate {row["rate"]:g}, seed {row["seed"]}: '
  if row['final_loss'] is None:
    return f'{head}stopped after {row["steps"]} steps'
  reached = row['steps_to_target'] or 'never'
  return f'{head}train loss {row["final_loss"]:.3g}, target: {reached}'


def _conclude(
  study: Study, folder: runs.RunFolder, rows: list[outcomes.Row]
) -> None:
  """Writes the tables and the figure."""
  config, titles = study.config, [form.title for form in study.forms]
  rates, target = config.levels.rates, config.levels.target_loss
  found = outcomes.summaries(rows, titles, rates, study.dataset.classes)
  folder.write_json('result.json', found)
  columns, losses = outcomes.standings(found), outcomes.final_losses(found)
  caption = outcomes.caption(config)
  second = 'Mean train loss (nats) over the last epoch, by learning rate.'
  folder.write_text(
    'results.md',
    f'{report.markdown(columns, caption)}\n{report.markdown(losses, second)}',
  )
  charts.levels(
    folder.file('levels.png'),
    titles,
    [f'{rate:g}' for rate in rates],
    [[part['final_loss'] for part in s['rates']] for s in found],
    outcomes.bars(found, target),
  )
  console = rich.console.Console(width=140)
  console.print(report.table(columns, caption))
  console.print(report.table(losses, second))


if __name__ == '__main__':
  cli.launch('levels', work, resume=True)
