r"""What a step costs against the batch size, in time and in memory.

  python -m experiments.studies.costs.scaling --config.scaling.network=mlp \
    --workdir=runs/s

Measures every variant of GT-DDP over SGD, plain SGD, and batch-augmented DDP
computed directly (``dense_ddp``; for 'mlp' alone) at the batch sizes of
``config.scaling``, on random samples (results.md, result.json, scaling.png). A
variant whose compiled memory is above ``most_memory`` is not run, nor at larger
batches. The exponents are slopes of cost over batch size between the last two
sizes, in double logarithmic scale. No other section of the config is read.
"""

from __future__ import annotations

import functools
import math
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

import gtddp_jax as gt
from configs import schema
from configs.schema import Config, Key, Section
from experiments.networks import layers, mlps
from experiments.report import charts, tables
from experiments.runs import cli, progress, run_folder
from experiments.studies.costs import dense_ddp, timing

SECTION: Section = {
  'network': Key(
    'mlp',
    'mlp: 64-32-32-10; resnet: 28x28x1, 16 and 32 channels',
    schema.one_of('mlp', 'resnet'),
  ),
  'batches': Key(
    (32, 64, 128, 256, 512, 1024),
    'samples per step',
    schema.positives('batches'),
  ),
  'rounds': Key(5, 'of timed steps; the median counts', schema.whole(1)),
  'most_memory': Key(
    8.0, 'of a compiled step (GB); above, it is not run', schema.POSITIVE
  ),
}
FILES = ('scaling.png',)

RATE = 0.01
DIRECT = 'batch-augmented DDP'
_LEAST = 0.05  # seconds of steps in a round; one alone may be too short
_MARKERS = 'os^vDPX'  # lines may lie on each other
VARIANTS: dict[str, dict[str, Any]] = {
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
  """Of one variant at one batch size."""

  form: str  # the title of the variant, as in rows on disk
  batch: int
  seconds: float | None  # None if it needs too much memory to be run
  memory: int  # bytes


def work(config: Config, folder: run_folder.RunFolder) -> None:
  """Measures what is left and prints the table."""
  own = config.scaling
  costs = measure(
    own.network,
    sorted(own.batches),
    own.rounds,
    own.most_memory * 1e9,
    [Cost(**row) for row in folder.rows()],
    lambda cost: folder.log(cost._asdict()),
  )
  folder.write_json('result.json', [cost._asdict() for cost in costs])
  caption = (
    f'{own.network}: ms and MB per step, by batch size; median of {own.rounds} '
    f'rounds (a step, or steps for {1e3 * _LEAST:g} ms), and the memory of the '
    f'compiled step (arguments and temporaries). '
    f'Exponents: growth of time and memory over the last doubling. Above '
    f'{own.most_memory:g} GB a step is not run.'
  )
  folder.write_tables([(columns(costs), caption)], short=_short(costs))
  draw(folder.file('scaling.png'), costs)
  tables.show(columns(costs), caption)


def measure(
  network: str,
  sizes: Sequence[int],
  rounds: int,
  most: float,
  known: Sequence[Cost] = (),
  log: Callable[[Cost], None] = lambda cost: None,
) -> list[Cost]:
  """Measures every variant at every size; returns the steps that were run.

  Args:
    network: 'mlp' or 'resnet'.
    sizes: of the batch, the smallest first.
    rounds: timed steps; the median counts.
    most: bytes; a step that needs more is not run.
    known: what has been measured.
    log: told of each new measurement.
  """
  found = {(cost.form, cost.batch): cost for cost in known}
  variants = ['plain SGD', *VARIANTS, *([DIRECT] if network == 'mlp' else [])]
  live = list(variants)  # those that fitted so far
  with progress.bar(len(variants) * len(sizes)) as bar:
    for place, size in enumerate(sizes, 1):
      left = [variant for variant in live if (variant, size) not in found]
      for cost in _costs(left, network, size, rounds, most):
        found[cost.form, size] = cost
        log(cost)
        progress.say(_line(cost))
      live = [
        variant for variant in live if found[variant, size].seconds is not None
      ]
      bar.update(place * len(variants) - bar.n)
  costs = (found.get((variant, size)) for variant in variants for size in sizes)
  return [cost for cost in costs if cost and cost.seconds is not None]


def _line(cost: Cost) -> str:
  time = 'not run'
  if cost.seconds is not None:
    time = f'{cost.seconds * 1e3:.3g} ms'
  return f'{cost.form}, batch {cost.batch}: {time}, {cost.memory / 1e6:.3g} MB'


def _costs(
  variants: Sequence[str], network: str, size: int, rounds: int, most: float
) -> list[Cost]:
  """Of all variants at one size; they take turns, so that noise slows all."""
  calls: dict[str, Callable[[], Any]] = {}
  memories: dict[str, int] = {}
  seconds: dict[str, list[float]] = {variant: [] for variant in variants}
  for variant in variants:
    step, arguments = build(variant, network, size)
    made = timing.compiled(step, arguments)
    memories[variant] = made.memory
    if made.memory <= most:
      calls[variant] = functools.partial(made.call, *arguments)
  for _ in range(rounds):
    for variant, call in calls.items():
      seconds[variant].append(timing.second(call, _LEAST))
  return [
    Cost(
      variant,
      size,
      statistics.median(seconds[variant]) if variant in calls else None,
      memories[variant],
    )
    for variant in variants
  ]


def build(
  variant: str, network: str, size: int
) -> tuple[Callable[[Any, Any], Any], tuple[Any, Any]]:
  """A step ``(params, batch) -> new params`` and its arguments."""
  problem = (
    timing.residual(size)
    if network == 'resnet'
    else timing.problem(
      mlps.MLP((32, 32), 10, layers.Style('tanh')), (64,), size
    )
  )
  module, params, batch = problem
  loss = gt.losses.softmax_cross_entropy
  if variant == DIRECT:

    def direct(params: Any, batch: Any) -> Any:
      names = sorted(params['params'])  # hidden_1, hidden_2, linear
      layers = [params['params'][name] for name in names]
      updates = dense_ddp.step(layers, jnp.tanh, loss, batch, RATE)
      pairs = {'params': dict(zip(names, updates, strict=True))}
      return optax.apply_updates(params, pairs)

    return direct, (params, batch)
  graph = gt.trace(module.apply, params, batch[0])
  options = VARIANTS.get(variant, {'feedback': False})
  tx = gt.gt_ddp(graph, loss, gt.sgd(RATE), **options)
  step = timing.gt_ddp_step(tx)
  return lambda p, batch: step(p, tx.init(p), batch)[0], (params, batch)


def exponent(costs: Sequence[Cost], of: str) -> float:
  """Slope between the last two batch sizes, in double logarithmic scale."""
  if len(costs) < 2:
    return math.nan
  before, last = costs[-2:]
  ratio = getattr(last, of) / getattr(before, of)
  return math.log(ratio) / math.log(last.batch / before.batch)


def columns(costs: Sequence[Cost]) -> list[tables.Column]:
  """A row per variant: cost at each size, then the exponents."""
  variants = list(dict.fromkeys(cost.form for cost in costs))
  sizes = sorted({cost.batch for cost in costs})
  found = {(cost.form, cost.batch): cost for cost in costs}

  def cell(variant: str, size: int) -> str:
    cost = found.get((variant, size))
    if cost is None or cost.seconds is None:
      return 'out of memory'
    return f'{cost.seconds * 1e3:.3g} / {cost.memory / 1e6:.3g}'

  def growth(variant: str) -> str:
    own = [cost for cost in costs if cost.form == variant]
    return ' / '.join(
      f'{exponent(own, of):.2f}' for of in ('seconds', 'memory')
    )

  return [
    tables.Column('variant', '', variants),
    *(tables.Column(str(b), '', [cell(f, b) for f in variants]) for b in sizes),
    tables.Column('exponents', '', [growth(variant) for variant in variants]),
  ]


def _short(costs: Sequence[Cost]) -> list[str]:
  """What came out, in a sentence for each variant."""
  sentences = []
  for variant in dict.fromkeys(cost.form for cost in costs):
    own = [cost for cost in costs if cost.form == variant]
    last = own[-1]
    seconds = last.seconds or 0.0
    times, bytes_ = (exponent(own, of) for of in ('seconds', 'memory'))
    sentences.append(
      f'{variant}: {1e3 * seconds:.3g} ms and {last.memory / 1e6:.3g} MB at '
      f'batch {last.batch}, the largest that was run; over the last doubling '
      f'time grew as the batch size to the power {times:.1f}, memory to the '
      f'power {bytes_:.1f}.'
    )
  return sentences


def draw(path: pathlib.Path, costs: Sequence[Cost]) -> None:
  """Two panels: milliseconds and megabytes against batch size."""
  with tables.drawing(path, 10, 5) as canvas:
    panels = canvas.subplots(1, 2)
    for panel, of, scale, unit in (
      (panels[0], 'seconds', 1e3, 'time per step (ms)'),
      (panels[1], 'memory', 1e-6, 'memory (MB)'),
    ):
      variants = dict.fromkeys(cost.form for cost in costs)
      looks = zip(charts.PALETTE, _MARKERS, variants, strict=False)
      for colour, marker, variant in looks:
        own = [cost for cost in costs if cost.form == variant]
        growth = round(exponent(own, of), 1) + 0.0  # no -0.0
        panel.loglog(
          [cost.batch for cost in own],
          [getattr(cost, of) * scale for cost in own],
          color=colour,
          marker=marker,
          markersize=5,
          label=f'{variant} ({growth:.1f})',
        )
      sizes = sorted({cost.batch for cost in costs})
      panel.set_xticks(sizes, [str(size) for size in sizes])
      panel.minorticks_off()
      charts.plain_ticks(panel.yaxis)
      panel.set_xlabel('batch size')
      panel.set_ylabel(unit)
      panel.legend(
        title='variant (exponent)',
        fontsize=8,
        loc='upper center',
        bbox_to_anchor=(0.5, -0.15),
        ncols=2,
      )


COMMAND = cli.Command(
  'studies.costs.scaling',
  work,
  SECTION,
  files=FILES,
  only=True,
  resumes=True,
)


if __name__ == '__main__':
  cli.launch(COMMAND)
