"""What a GT-DDP step costs, beside the same base in plain optax.

::

    python -m experiments.benchmark --base=sgd --rounds=15
    python -m experiments.benchmark --base=ekfac --every=50

Times one step of each form on a residual CNN (28x28x1, 16 and 32 channels,
projection shortcut), in turn within one run, and prints medians as ratios to
plain optax, with compile time and compiled memory. Each form steps twice in its
turn and the second step counts, so that none pays for the memory that the one
before it used. A Kronecker base renews its factors at its first step and then
every ``--every`` steps; medians are of steps between. Close other programs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from absl import app, flags
from rich import console as rich_console
from rich import table as rich_table

import gtddp_jax as gt
from experiments.networks import resnets

BASE = flags.DEFINE_enum(
  'base', 'sgd', ['sgd', 'rmsprop', 'adam', 'kfac', 'ekfac'], 'Base.'
)
EVERY = flags.DEFINE_integer(
  'every', 50, 'Steps between renewals; kfac, ekfac.', lower_bound=1
)
BATCH = flags.DEFINE_integer('batch', 128, 'Batch size.', lower_bound=2)
ROUNDS = flags.DEFINE_integer('rounds', 15, 'Timed steps.', lower_bound=3)
RATE = flags.DEFINE_float('rate', 0.01, 'Learning rate.', lower_bound=0.0)

# Form -> arguments of gt_ddp; None is plain optax.
FORMS: dict[str, dict[str, Any] | None] = {
  'plain optax': None,
  'feedback=False': {'feedback': False},
  'frozen, gradient': {},
  'bellman, gradient': {'value': 'bellman'},
  'coupled, gradient': {'value': 'coupled'},
  'coupled, gauss_newton': {'terminal': 'gauss_newton', 'value': 'coupled'},
  'coupled, gauss_newton of 32': {
    'terminal': gt.subset('gauss_newton', 32),
    'value': 'coupled',
  },
  'frozen, gauss_newton': {'terminal': 'gauss_newton'},
  'bellman, gauss_newton': {'terminal': 'gauss_newton', 'value': 'bellman'},
}

# The same for bases with a Kronecker curvature; plain optax is its sgd.
KRONECKER: dict[str, dict[str, Any] | None] = {
  'plain optax sgd': None,
  'alone': {'feedback': False},
  'alone, kronecker': {'feedback': False, 'cooperation': 'kronecker'},
  'alone, schur': {'feedback': False, 'cooperation': 'schur'},
  'frozen': {},
  'frozen, schur': {'cooperation': 'schur'},
  'bellman': {'value': 'bellman'},
  'coupled': {'value': 'coupled'},
}

Step = Callable[[Any, Any, Any], tuple[Any, Any]]


class Cost(NamedTuple):
  """Measured cost of one form: seconds, seconds, bytes."""

  step: float
  compile: float
  memory: int


class Compiled(NamedTuple):
  """A compiled step with its arguments."""

  step: Step
  arguments: tuple[Any, Any, Any]
  seconds: float
  memory: int


def main(argv: Sequence[str]) -> None:
  """Prints the table."""
  del argv
  forms = KRONECKER if BASE.value in ('kfac', 'ekfac') else FORMS
  costs = measure(
    list(forms), BASE.value, BATCH.value, ROUNDS.value, RATE.value
  )
  rich_console.Console(width=88).print(table(costs, BASE.value, BATCH.value))


def measure(
  forms: Sequence[str], base: str, batch: int, rounds: int, rate: float
) -> dict[str, Cost]:
  """Compiles every form, then times them in turn; medians over rounds."""
  network = resnets.ResNet((16, 32), 10)
  inputs = jax.random.normal(jax.random.key(0), (batch, 28, 28, 1))
  targets = jnp.arange(batch) % 10
  params = network.init(jax.random.key(1), inputs)
  graph = gt.trace(network.apply, params, inputs)
  compiled = {
    form: _compile(
      _step(form, base, rate, graph, network.apply), params, (inputs, targets)
    )
    for form in forms
  }
  seconds: dict[str, list[float]] = {form: [] for form in forms}
  arguments = {form: one.arguments for form, one in compiled.items()}

  def step(form: str) -> None:
    """One more step of a training."""
    *_, data = arguments[form]
    after = jax.block_until_ready(compiled[form].step(*arguments[form]))
    arguments[form] = (*after, data)

  for turn in range(rounds + 1):
    for form in forms:
      step(form)
      start = time.perf_counter()
      step(form)
      if turn:  # the first turn warms up
        seconds[form].append(time.perf_counter() - start)
  return {
    form: Cost(statistics.median(seconds[form]), one.seconds, one.memory)
    for form, one in compiled.items()
  }


def _step(
  form: str,
  base: str,
  rate: float,
  graph: gt.LayerGraph,
  apply_fn: Callable[[Any, Any], Any],
) -> tuple[Any, Step]:
  """The transformation of a form, and its training step."""
  kronecker = base in ('kfac', 'ekfac')
  options = (KRONECKER if kronecker else FORMS)[form]
  loss = gt.losses.softmax_cross_entropy
  if options is None:
    tx = getattr(optax, 'sgd' if kronecker else base)(rate)

    def mean_loss(params: Any, data: Any) -> jax.Array:
      return jnp.mean(loss(apply_fn(params, data[0]), data[1]))

    def step(params: Any, state: Any, data: Any) -> tuple[Any, Any]:
      grads = jax.grad(mean_loss)(params, data)
      updates, state = tx.update(grads, state, params)
      return optax.apply_updates(params, updates), state
  else:
    own: dict[str, Any] = {}
    if kronecker:
      every = EVERY.value
      own['statistics'] = gt.Statistics(every=every, basis_every=every)
    tx = gt.gt_ddp(graph, loss, getattr(gt, base)(rate, **own), **options)

    def step(params: Any, state: Any, data: Any) -> tuple[Any, Any]:
      updates, state = tx.update(None, state, params, batch=data)
      return optax.apply_updates(params, updates), state

  return tx, step


def _compile(tx_and_step: tuple[Any, Step], params: Any, data: Any) -> Compiled:
  tx, step = tx_and_step
  arguments = (params, tx.init(params), data)
  start = time.perf_counter()
  compiled = jax.jit(step).lower(*arguments).compile()
  seconds = time.perf_counter() - start
  analysis: Any = compiled.memory_analysis()
  memory = analysis.temp_size_in_bytes + analysis.argument_size_in_bytes
  return Compiled(compiled, arguments, seconds, memory)


def table(costs: dict[str, Cost], base: str, batch: int) -> rich_table.Table:
  """Renders costs; ratios are to the first form."""
  first = next(iter(costs.values()))
  result = rich_table.Table(
    title=f'One step over {base}, batch {batch}, {jax.default_backend()}'
  )
  for heading in ('form', 'step ms', 'x', 'compile s', 'x', 'memory MB', 'x'):
    result.add_column(heading, justify='left' if heading == 'form' else 'right')
  for form, cost in costs.items():
    result.add_row(
      form,
      f'{cost.step * 1e3:.1f}',
      f'{cost.step / first.step:.2f}',
      f'{cost.compile:.1f}',
      f'{cost.compile / first.compile:.2f}',
      f'{cost.memory / 1e6:.0f}',
      f'{cost.memory / first.memory:.2f}',
    )
  return result


if __name__ == '__main__':
  app.run(main)
