"""What a step costs against the batch size, in time and in memory.

::

    python -m experiments.scaling --network=mlp --workdir=runs/scaling-mlp

Every form of GT-DDP over SGD, plain SGD, and batch-augmented DDP computed
directly (``augmented``; for 'mlp' alone), batches of 32 to 1024. A form whose
compiled memory exceeds ``--most_memory`` is not run, nor at larger batches.
Writes scaling.md, scaling.json and scaling.png; the exponents are slopes of
cost over batch size between the last two sizes, in double logarithmic scale.
"""

from __future__ import annotations

import json
import math
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib
import optax
from absl import app, flags
from matplotlib import figure

import gtddp_jax as gt
from experiments import augmented, report
from experiments.networks import layers, mlps, resnets

NETWORK = flags.DEFINE_enum('network', 'mlp', ['mlp', 'resnet'], 'Network.')
BATCHES = flags.DEFINE_list(
  'batches', ['32', '64', '128', '256', '512', '1024'], 'Batch sizes.'
)
REPEATS = flags.DEFINE_integer('repeats', 5, 'Timed steps.', lower_bound=1)
MOST = flags.DEFINE_float('most_memory', 8.0, 'Largest compiled memory, GB.')
WORKDIR = flags.DEFINE_string('workdir', 'runs/scaling', 'Where to write.')

RATE = 0.01
DIRECT = 'batch-augmented DDP'
FORMS: dict[str, dict[str, Any]] = {
  'frozen, gradient': {},
  'bellman, gradient': {'value': 'bellman'},
  'coupled, gradient': {'value': 'coupled'},
  'coupled, gauss_newton of 32': {
    'terminal': gt.subset('gauss_newton', 32),
    'value': 'coupled',
  },
  'coupled, gauss_newton': {'terminal': 'gauss_newton', 'value': 'coupled'},
}


class Cost(NamedTuple):
  """Of one form at one batch size."""

  form: str
  batch: int
  seconds: float
  memory: int  # bytes


def main(argv: Sequence[str]) -> None:
  """Measures, writes and prints."""
  del argv
  folder = pathlib.Path(WORKDIR.value)
  folder.mkdir(parents=True, exist_ok=True)
  sizes = [int(size) for size in BATCHES.value]
  costs = measure(NETWORK.value, sizes, REPEATS.value, MOST.value * 1e9)
  (folder / 'scaling.json').write_text(
    json.dumps([cost._asdict() for cost in costs], indent=1)
  )
  text = report.markdown(columns(costs), f'{NETWORK.value}, ms and MB per step')
  (folder / 'scaling.md').write_text(text)
  draw(folder / 'scaling.png', costs)
  print(text)


def measure(
  network: str, sizes: Sequence[int], rounds: int, most: float
) -> list[Cost]:
  """Costs of every form at every size that fits in ``most`` bytes."""
  costs: list[Cost] = []
  for form in ('plain SGD', *FORMS, *([DIRECT] if network == 'mlp' else [])):
    for size in sizes:
      cost = _cost(form, network, size, rounds, most)
      if cost is None:
        break
      costs.append(cost)
  return costs


def _cost(
  form: str, network: str, size: int, rounds: int, most: float
) -> Cost | None:
  step, arguments = build(form, network, size)
  compiled = jax.jit(step).lower(*arguments).compile()
  analysis: Any = compiled.memory_analysis()
  memory = analysis.temp_size_in_bytes + analysis.argument_size_in_bytes
  if memory > most:
    return None
  seconds = []
  for _ in range(rounds + 1):
    start = time.perf_counter()
    jax.block_until_ready(compiled(*arguments))
    seconds.append(time.perf_counter() - start)
  return Cost(form, size, statistics.median(seconds[1:]), memory)


def build(
  form: str, network: str, size: int
) -> tuple[Callable[[Any, Any], Any], tuple[Any, Any]]:
  """A step ``(params, batch) -> new params`` and its arguments."""
  module: nn.Module = mlps.MLP((32, 32), 10, layers.Style('tanh'))
  shape: tuple[int, ...] = (64,)
  if network == 'resnet':
    module, shape = resnets.ResNet((16, 32), 10), (28, 28, 1)
  inputs = jax.random.normal(jax.random.key(0), (size, *shape))
  batch = inputs, jnp.arange(size) % 10
  params = module.init(jax.random.key(1), inputs)
  loss = gt.losses.softmax_cross_entropy
  if form == DIRECT:

    def direct(params: Any, batch: Any) -> Any:
      names = sorted(params['params'])  # hidden_1, hidden_2, linear
      layers = [params['params'][name] for name in names]
      updates = augmented.step(layers, jnp.tanh, loss, batch, RATE)
      pairs = {'params': dict(zip(names, updates, strict=True))}
      return optax.apply_updates(params, pairs)

    return direct, (params, batch)
  graph = gt.trace(module.apply, params, inputs)
  options = FORMS.get(form, {'feedback': False})
  tx = gt.gt_ddp(graph, loss, gt.sgd(RATE), **options)

  def step(params: Any, batch: Any) -> Any:
    updates, _ = tx.update(None, tx.init(params), params, batch=batch)
    return optax.apply_updates(params, updates)

  return step, (params, batch)


def exponent(costs: Sequence[Cost], of: str) -> float:
  """Slope between the last two batch sizes, in double logarithmic scale."""
  if len(costs) < 2:
    return math.nan
  before, last = costs[-2:]
  ratio = getattr(last, of) / getattr(before, of)
  return math.log(ratio) / math.log(last.batch / before.batch)


def columns(costs: Sequence[Cost]) -> list[report.Column]:
  """A row per form: cost at each size, then the exponents."""
  forms = list(dict.fromkeys(cost.form for cost in costs))
  sizes = sorted({cost.batch for cost in costs})
  found = {(cost.form, cost.batch): cost for cost in costs}

  def cell(form: str, size: int) -> str:
    cost = found.get((form, size))
    if cost is None:
      return 'out of memory'
    return f'{cost.seconds * 1e3:.3g} / {cost.memory / 1e6:.3g}'

  def growth(form: str) -> str:
    own = [cost for cost in costs if cost.form == form]
    return ' / '.join(
      f'{exponent(own, of):.2f}' for of in ('seconds', 'memory')
    )

  return [
    report.Column('form', '', forms),
    *(report.Column(str(b), '', [cell(f, b) for f in forms]) for b in sizes),
    report.Column('exponents', '', [growth(form) for form in forms]),
  ]


def draw(path: pathlib.Path, costs: Sequence[Cost]) -> None:
  """Two panels: milliseconds and megabytes against batch size."""
  with matplotlib.rc_context(report.STYLE):
    canvas = figure.Figure(figsize=(10, 5), layout='constrained')
    panels = canvas.subplots(1, 2)
    for panel, of, scale, unit in (
      (panels[0], 'seconds', 1e3, 'time per step (ms)'),
      (panels[1], 'memory', 1e-6, 'memory (MB)'),
    ):
      for form in dict.fromkeys(cost.form for cost in costs):
        own = [cost for cost in costs if cost.form == form]
        panel.loglog(
          [cost.batch for cost in own],
          [getattr(cost, of) * scale for cost in own],
          marker='o',
          markersize=4,
          label=f'{form} ({exponent(own, of):.1f})',
        )
      sizes = sorted({cost.batch for cost in costs})
      panel.set_xticks(sizes, [str(size) for size in sizes])
      panel.minorticks_off()
      panel.set_xlabel('batch size')
      panel.set_ylabel(unit)
      panel.legend(
        title='form (exponent)',
        fontsize=8,
        loc='upper center',
        bbox_to_anchor=(0.5, -0.15),
        ncols=2,
      )
    canvas.savefig(path, dpi=150)


if __name__ == '__main__':
  app.run(main)
