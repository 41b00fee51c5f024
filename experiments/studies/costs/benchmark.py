r"""What a GT-DDP step costs, beside the same base alone.

  python -m experiments.studies.costs.benchmark --base=sgd --rounds=15
  python -m experiments.studies.costs.benchmark --base=ekfac --every=50 \
    --workdir=runs/b

Times one step of each variant on a residual CNN (28x28x1, 16 and 32 channels,
projection shortcut) on random samples, and writes its ratio to the base, with
quartiles over the rounds, beside the goal that it has; compilation and compiled
memory; and what a batch of MNIST's size costs to read (results.md, result.json,
ratios.png). Close other programs.

The variants take turns. Each steps twice in its turn and the second step
counts, so that none pays for the memory that the one before it used. Variants
with feedback have the trust region of the studies. One that skips a step, as
one that diverges does, ends the measurement: skipped steps do not count, and
may renew factors again and again. A Kronecker base renews its factors at steps
0, 1, 2, 4, 8, ..., and then every ``every`` steps, an even number; the steps
that count are 3, 5, 7, ..., which renew nothing.

--base, --batch, --rounds, --rate and --every stand for --config.benchmark.KEY;
no other section of the config is read. A finished round is one line of
metrics.jsonl, and the same command, with --workdir, goes on where it stopped.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import gtddp_jax as gt
from configs import schema
from configs.schema import Config, Key, Section
from experiments import refusals
from experiments.data import splits
from experiments.optimizers import registry
from experiments.report import tables
from experiments.runs import cli, progress, run_folder
from experiments.studies.costs import benchmark_page, timing
from experiments.training import devices

SECTION: Section = {
  'base': Key(
    'sgd', 'whose variants are timed', schema.one_of(*registry.EXPLICIT)
  ),
  'batch': Key(128, 'samples per step', schema.whole(2)),
  'rounds': Key(15, 'timed steps of each variant', schema.whole(3)),
  'rate': Key(0.01, 'learning rate, per step', schema.POSITIVE),
  'every': Key(
    50, 'steps between renewals of the curvature; kfac, ekfac', schema.whole(1)
  ),
}
FILES = ('ratios.png',)

INPUT = 'reading a batch'
_SHAPE, _SAMPLES = (28, 28, 1), 60_000  # of MNIST
_SHORT = re.compile(r'^--?(base|batch|rounds|rate|every)(?==|$)')
_BATCH_GOAL = 0.05

Call = Callable[[], Any]


class Variant(NamedTuple):
  """What is timed."""

  options: Mapping[str, Any] | None  # of ``gt_ddp``; None for plain optax
  # of the step, in units of the base's; None for none
  goal: float | None = None

  @property
  def feedback(self) -> bool:
    """Whether it is a variant of GT-DDP."""
    return self.options is not None and self.options.get('feedback', True)


VARIANTS = {
  'plain optax': Variant(None),
  'feedback=False': Variant({'feedback': False}),
  'frozen, gradient': Variant({}, 1.4),
  'bellman, gradient': Variant({'value': 'bellman'}, 2.0),
  'coupled, gradient': Variant({'value': 'coupled'}, 2.0),
  'coupled, gauss_newton': Variant(
    {'terminal': 'gauss_newton', 'value': 'coupled'}
  ),
  'coupled, gauss_newton of 32': Variant(
    {'terminal': gt.subset('gauss_newton', 32), 'value': 'coupled'}
  ),
  'frozen, gauss_newton': Variant({'terminal': 'gauss_newton'}),
  'bellman, gauss_newton': Variant(
    {'terminal': 'gauss_newton', 'value': 'bellman'}
  ),
}


def variants(base: str) -> dict[str, Variant]:
  """Returns what is timed of a base (``registry.EXPLICIT``), by title."""
  if base not in registry.KRONECKER:
    return VARIANTS
  title = registry.BASES[base].title
  ddp = f'GT-DDP-{title}'
  alone: dict[str, Any] = {'feedback': False}
  return {
    'plain optax sgd': Variant(None),
    title: Variant(alone),
    f'GT-{title}, kronecker': Variant({**alone, 'cooperation': 'kronecker'}),
    f'GT-{title}, schur': Variant({**alone, 'cooperation': 'schur'}),
    ddp: Variant({}, 1.35),
    f'{ddp}, kronecker': Variant({'cooperation': 'kronecker'}, 1.35),
    f'{ddp}, schur': Variant({'cooperation': 'schur'}, 1.35),
    f'{ddp}, bellman': Variant({'value': 'bellman'}, 2.0),
    f'{ddp}, coupled': Variant({'value': 'coupled'}, 2.0),
  }


def reference(base: str) -> str:
  """Returns the title of the variant that ratios are to: the base alone."""
  return (
    registry.BASES[base].title if base in registry.KRONECKER else 'plain optax'
  )


def check(config: Config) -> None:
  """Raises ConfigError where a timed step would renew the curvature."""
  every = config.benchmark.every
  if config.benchmark.base in registry.KRONECKER and every % 2:
    raise refusals.ConfigError(
      'config.benchmark.every',
      'an even number, because odd steps are timed and renew nothing then',
      every,
      f'set --config.benchmark.every={every + 1}',
    )


def work(config: Config, folder: run_folder.RunFolder) -> None:
  """Measures what is left and writes the report."""
  own = config.benchmark
  found = summaries(measure(config, folder), own.base)
  folder.write_json('result.json', found)
  caption = benchmark_page.caption(config, reference(own.base))
  columns = benchmark_page.columns(found)
  short = benchmark_page.short(found, reference(own.base))
  folder.write_tables([(columns, caption)], short=short)
  benchmark_page.draw(folder.file('ratios.png'), found, reference(own.base))
  tables.show(columns, caption)


def measure(
  config: Config, folder: run_folder.RunFolder
) -> list[dict[str, Any]]:
  """Compiles every variant, then times them in turn; logs each round.

  Returns the rows: what compiling the variants costs, and the seconds of each
  variant in each round.
  """
  own, rows = config.benchmark, folder.rows()
  known = {row['form'] for row in rows if 'form' in row}
  done = sum('seconds' in row for row in rows)
  if done >= own.rounds:
    return rows

  def log(row: dict[str, Any]) -> None:
    folder.log(row)
    rows.append(row)

  titles = list(variants(own.base))
  turns = range(done, own.rounds + 1)
  with progress.bar(len(titles) + len(turns)) as bar:
    calls = {}
    problem = Problem(own)
    for title in titles:
      made, calls[title] = problem.build(title)
      if title not in known:
        cost = {'compile_seconds': made.seconds, 'memory': made.memory}
        log({'form': title, **cost})
      progress.say(f'compiled {title} in {made.seconds:.1f} s')
      bar.update(1)
    calls[INPUT] = reading(own.batch)
    for turn in turns:
      seconds = {title: timing.second(call) for title, call in calls.items()}
      problem.check()
      if turn > done:  # the first turn warms up
        log({'round': turn, 'seconds': seconds})
      bar.update(1)
  return rows


class Problem:
  """A network with one batch, and the steps that train it."""

  def __init__(self, own: Config):
    """Traces the network; ``own`` is ``config.benchmark``."""
    self.own = own
    self.problem = timing.residual(own.batch)
    network, params, (inputs, _) = self.problem
    self.graph = gt.trace(network.apply, params, inputs)
    self._held: dict[str, list[Any]] = {}  # of variants of gt_ddp

  def build(self, title: str) -> tuple[timing.Compiled, Call]:
    """Returns a variant's step, and what takes one more in a training."""
    tx, step = self._step(title)
    _, params, batch = self.problem
    held = [params, tx.init(params)]
    made = timing.compiled(step, (*held, batch))
    if variants(self.own.base)[title].options is not None:
      self._held[title] = held

    def call() -> Any:
      held[:] = made.call(*held, batch)
      return held

    return made, call

  def check(self) -> None:
    """Raises ConfigError if a variant has skipped a step."""
    for title, (_, state) in self._held.items():
      if skipped := int(gt.metrics(state)['skipped_steps']):
        raise refusals.ConfigError(
          'config.benchmark.rate',
          'one at which every step is taken',
          f'{self.own.rate:g}, at which *{title}* skipped {skipped}',
          'lower it, and take a new --workdir',
        )

  def _step(self, title: str) -> tuple[Any, timing.Step]:
    """The transformation of a variant, and its training step."""
    own = self.own
    kronecker = own.base in registry.KRONECKER
    variant = variants(own.base)[title]
    if variant.options is None:
      tx = getattr(optax, 'sgd' if kronecker else own.base)(own.rate)
      return tx, self.problem.plain_step(tx)
    words: dict[str, Any] = {}
    if kronecker:
      words['statistics'] = gt.Statistics(
        every=own.every, basis_every=own.every
      )
    base = getattr(gt, own.base)(own.rate, **words)
    bound = registry.BOUND if variant.feedback else None
    tx = gt.gt_ddp(
      self.graph,
      gt.losses.softmax_cross_entropy,
      base,
      trust_region=bound,
      **variant.options,
    )
    return tx, timing.gt_ddp_step(tx)


def reading(batch: int) -> Call:
  """Returns what takes the next batch of a training to the device.

  Of random images of MNIST's size and number.
  """
  random = np.random.default_rng(0)
  images = random.integers(0, 256, (_SAMPLES, *_SHAPE), np.uint8)
  split = splits.Split(images, np.arange(_SAMPLES, dtype=np.int32) % 10)
  layout = devices.Layout(Config({'devices': 1}))
  steps = iter(range(10**9))

  def call() -> Any:
    return jax.device_put(layout.batch(split, batch, 0, next(steps)))

  return call


def summaries(
  rows: Sequence[Mapping[str, Any]], base: str
) -> list[dict[str, Any]]:
  """Returns what each variant costs, from the rows of ``measure``.

  Of each the median step (s); the ratio to the base, round by round, by median
  and quartiles; the goal, and in how many rounds it was met; seconds of the
  compilation and bytes of memory.
  """
  turns = [row['seconds'] for row in rows if 'seconds' in row]
  costs = {row['form']: row for row in rows if 'form' in row}
  own = {**variants(base), INPUT: Variant(None, _BATCH_GOAL)}
  found = []
  for title in turns[0]:
    ratios = [turn[title] / turn[reference(base)] for turn in turns]
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75)).tolist()
    goal, cost = own[title].goal, costs.get(title, {})
    found.append(
      {
        'form': title,
        'feedback': own[title].feedback,
        'seconds': float(np.median([turn[title] for turn in turns])),
        'ratio': middle,
        'quartiles': (low, high),
        'goal': goal,
        'met_in': goal and sum(ratio <= goal for ratio in ratios),
        'rounds': len(turns),
        'compile_seconds': cost.get('compile_seconds'),
        'memory': cost.get('memory'),
      }
    )
  return found


def expanded(words: Sequence[str]) -> list[str]:
  """Returns the command line with short flags written out."""
  return [_SHORT.sub(r'--config.benchmark.\1', word) for word in words]


COMMAND = cli.Command(
  'studies.costs.benchmark',
  work,
  SECTION,
  check=check,
  files=FILES,
  only=True,
  resumes=True,
)


if __name__ == '__main__':
  sys.argv[1:] = expanded(sys.argv[1:])
  cli.launch(COMMAND)
