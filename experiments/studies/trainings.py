"""Trainings of many variants, each compiled once.

What a study varies are the variant (a base and options of ``gt_ddp``), a
setting of numbers of the base (rates, dampings) and the seed. Its commands are
``value_recursions``, ``games``, ``methods`` and ``placement``.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import gtddp_jax as gt
from configs import default
from configs.schema import Config
from experiments import refusals
from experiments.data import splits
from experiments.optimizers import registry
from experiments.runs import cli, progress, run_folder
from experiments.studies import outcomes
from experiments.training import devices, loop, programs

# Labels of a run that are keys of its base.
_NUMBERS = {'rate': 'learning_rate', 'damping': 'damping'}


class Variant(NamedTuple):
  """What differs between the variants of a study."""

  title: str  # for tables and figures
  # see ``gt.gt_ddp``; None for the base alone, without feedback.
  terminal: Any = None
  value: str = 'frozen'  # see ``gt.gt_ddp``.
  trust_region: float | None = None  # see ``gt.gt_ddp``.
  cooperation: str = 'none'  # see ``gt.gt_ddp``.
  # its name in a config; None for that of ``config.optimizer.base``.
  base: str | None = None
  # global norm to which the gradient of a base alone is clipped, which is the
  # usual bound on a step; None for none. Not for kfac and ekfac.
  clip: float | None = None


class Run(NamedTuple):
  """One training of a study."""

  variant: Variant  # of the optimizer
  seed: int  # of the training
  # what else tells its row from others. Of these, 'rate' and 'damping' are
  # numbers of the base.
  labels: dict[str, Any]

  @property
  def setting(self) -> dict[str, float]:
    """The numbers of the base, by their keys in a config."""
    return {
      key: self.labels[label]
      for label, key in _NUMBERS.items()
      if label in self.labels
    }


class Study:
  """The runs of one study, and the steps that were compiled for them.

  A *setting* gives keys of ``optimizer.base`` their numbers, such as
  ``{'learning_rate': 0.1}``; they are arguments of the compiled step.
  """

  def __init__(
    self,
    config: Config,
    variants: Sequence[Variant],
    target: float,
    sparse: bool = True,
  ):
    """Loads the data and traces the network.

    Args:
      config: of the study.
      variants: that will be trained.
      target: a smoothed train loss to reach (nats).
      sparse: whether runs are evaluated at their end alone.
    """
    self.config, self.target, self.sparse = config, target, sparse
    self._layout = devices.Layout(config)
    self.dataset = splits.from_config(config.dataset)
    self.network = programs.build_network(config, self.dataset)
    self.steps = programs.step_count(config, self.dataset)
    # A subset that would be the whole batch is the variant without it.
    self.variants = [
      variant
      for variant in variants
      if getattr(variant.terminal, 'samples', 0) < config.batch_size
    ]
    self.compile_seconds: dict[str, float] = {}  # by title
    self._compiled: dict[str, Any] = {}

  def optimizer(
    self, variant: Variant, setting: Mapping[str, Any]
  ) -> optax.GradientTransformationExtraArgs:
    """Returns the optimizer of a variant; the numbers may be traced."""
    section = self.config.optimizer.base
    base = registry.BASES[variant.base or section.name].build(
      Config({**section, **setting})
    )
    if variant.clip is not None:
      base = optax.chain(optax.clip_by_global_norm(variant.clip), base)
    return gt.gt_ddp(
      self.network.graph,
      gt.losses.softmax_cross_entropy,
      base,
      terminal='gradient' if variant.terminal is None else variant.terminal,
      value=variant.value,
      feedback=variant.terminal is not None,
      trust_region=variant.trust_region,
      cooperation=variant.cooperation,
    )

  def check(self, run: Run) -> None:
    """Refuses a variant that cannot be built on its base, without a step.

    Raises ConfigError if the library refuses it.
    """
    try:
      tx = self.optimizer(run.variant, run.setting)
      jax.eval_shape(tx.init, self.network.graph.params)
    except gt.errors.GtddpError as error:
      raise refusals.ConfigError(
        'config.optimizer.base',
        f'one on which {run.variant.title!r} can be built',
        f'"{error}"',
        'change it; a number of Statistics is a key of it',
      ) from error

  def step(self, variant: Variant, keys: Sequence[str]) -> Any:
    """Returns ``(setting, *arguments of Program.step)``, compiled once."""
    if variant.title not in self._compiled:
      ones = {key: np.float32(1) for key in keys}

      def step(setting: Mapping[str, jax.Array], *arguments: Any) -> Any:
        tx = self.optimizer(variant, setting)
        return programs.stepper(tx, self.config, self.dataset)(*arguments)

      params = self.network.init(0)
      samples = splits.batch(self.dataset.train, self.config.batch_size, 0, 0)
      begin = time.perf_counter()
      self._compiled[variant.title] = (
        jax.jit(step)
        .lower(
          ones,
          params,
          self.optimizer(variant, ones).init(params),
          *samples,
          programs.step_key(0),
          np.uint32(0),
        )
        .compile()
      )
      seconds = time.perf_counter() - begin
      self.compile_seconds[variant.title] = seconds
      cli.say(f'compiled {variant.title} in {seconds:.1f} s')
    return self._compiled[variant.title]

  def program(
    self, variant: Variant, setting: Mapping[str, float]
  ) -> programs.Program:
    """Returns what ``loop.Loop`` trains: a variant at a setting."""
    compiled = self.step(variant, [*setting])
    numbers = {key: np.float32(value) for key, value in setting.items()}

    def begin(params: Any, collections: Any = None) -> tuple[Any, Any]:
      del collections
      return params, self.optimizer(variant, numbers).init(params)

    return programs.Program(
      lambda seed: begin(self.network.init(seed)),
      begin,
      functools.partial(compiled, numbers),
      lambda params, state: self.network.evaluate(
        params, gt.collections(state)
      ),
      self.steps,
      self._layout,
      self.compile_seconds[variant.title],
    )

  def train(
    self, runs: Sequence[Run], advice: Callable[[Run], str] = lambda run: ''
  ) -> list[outcomes.Row]:
    """Trains networks, an interval each in turn; stops at what is not finite.

    So whatever else the machine does slows all of them alike. ``advice``
    returns which keys to change where a run diverges.
    """
    config, dataset = self.config, self.dataset
    made = [
      loop.Loop(
        self.program(run.variant, run.setting),
        config,
        dataset,
        run.seed,
        advice=advice(run) or None,
      )
      for run in runs
    ]
    logged: list[list[outcomes.Row]] = [[] for _ in runs]
    problems: list[str | None] = [None for _ in runs]
    live = {i: one.rows(self.sparse) for i, one in enumerate(made)}
    while live:
      for i, rows in [*live.items()]:
        try:
          logged[i].append(next(rows))
        except StopIteration:
          del live[i]
        except loop.NonFiniteError as error:
          # After the last step there are losses of all of them.
          if error.quantity != 'train loss':
            problems[i] = str(error)
          del live[i]
    return [
      self._row(*parts)
      for parts in zip(runs, made, logged, problems, strict=True)
    ]

  def _row(
    self,
    own: Run,
    run: loop.Loop,
    rows: Sequence[outcomes.Row],
    problem: str | None,
  ) -> outcomes.Row:
    """The line of a run that has ended."""
    config, dataset, variant = self.config, self.dataset, own.variant
    times = [row['seconds_per_step'] for row in rows[1:]]
    epoch = -(-dataset.train.size // config.batch_size)
    found = {} if problem else rows[-1]
    made = {
      'form': variant.title,
      'seed': own.seed,
      **outcomes.outcome(
        run.losses,
        statistics.median(times),
        problem is not None,
        epoch,
        self.target,
      ),
      'test_accuracy': found.get('test_accuracy'),
      'skipped_steps': int(rows[-1]['skipped_steps']),
      'compile_seconds': self.compile_seconds[variant.title],
      'smoothed_losses': outcomes.smooth(run.losses)[
        config.log_every - 1 :: config.log_every
      ],
    }
    if not self.sparse:
      made['stopped'] = problem
      made['evaluations'] = [row for row in rows if 'test_loss' in row]
    return made


def left(asked: Sequence[Run], rows: Sequence[outcomes.Row]) -> list[Run]:
  """Returns the runs that have no row yet, in their order.

  The labels of all have equal names.
  """
  names = ('form', 'seed', *asked[0].labels)
  done = {tuple(row[name] for name in names) for row in rows}
  return [
    run
    for run in asked
    if (run.variant.title, run.seed, *run.labels.values()) not in done
  ]


def finish(
  folder: run_folder.RunFolder,
  asked: Sequence[Run],
  study: Callable[[Run], Study],
  note: Callable[[outcomes.Row, Sequence[Run]], str] = lambda row, rest: '',
  advice: Callable[[Run], str] = lambda run: '',
) -> list[outcomes.Row]:
  """Trains what is left of a study, logs every run that has ended: all rows.

  Args:
    folder: of the study.
    asked: all its runs, in their order.
    study: that trains a run; all have as many steps.
    note: returns a line to show after a run, of its row and the runs that are
      still left; '' for none.
    advice: returns which keys to change where a run diverges.

  Raises:
    ConfigError: for a variant that cannot be built, before the first training.
  """
  rows = folder.rows()
  rest = left(asked, rows)
  kinds = {(study(run), run.variant.title): run for run in rest}
  for (trainer, _), run in kinds.items():
    trainer.check(run)
  with progress.bar(len(rest) * study(asked[0]).steps) as bar:
    count = 0
    for group in _groups(rest, study):
      trainer = study(group[0])
      made = trainer.train(group, advice)
      for run, row in zip(group, made, strict=True):
        count += 1
        row |= run.labels
        folder.log(row)
        rows.append(row)
        if text := note(row, rest[count:]):
          progress.say(text)
        bar.update(trainer.steps)
  return rows


def _groups(
  rest: Sequence[Run], study: Callable[[Run], Study]
) -> list[list[Run]]:
  """One run at a time; those of a seed in turns where they are evaluated."""
  if not rest or study(rest[0]).sparse:
    return [[run] for run in rest]
  return [
    [run for run in rest if run.seed == seed]
    for seed in dict.fromkeys(run.seed for run in rest)
  ]


def check_explicit(name: str, remedy: str) -> None:
  """Raises ConfigError for a base without an explicit curvature."""
  if name not in registry.EXPLICIT:
    raise refusals.ConfigError(
      'config.optimizer.base.name',
      f'a base with an explicit curvature ({", ".join(registry.EXPLICIT)})',
      repr(name),
      remedy,
    )


def check(config: Config) -> None:
  """Raises ConfigError for a key that a study would not read."""
  # As dicts: a locked config and an open one are never equal.
  own = config.optimizer.to_dict()
  usual = default.get_config().optimizer.to_dict()
  for key in ('accumulate', 'schedule'):
    if own[key] != usual[key]:
      raise refusals.ConfigError(
        f'config.optimizer.{key}',
        'the default, because this study does not read it',
        'another value',
        'leave it',
      )
