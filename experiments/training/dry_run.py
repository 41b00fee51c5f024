"""What a run would be: its graph, its memory, and the cost of a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from configs.schema import Config
from experiments.data import splits
from experiments.optimizers import registry
from experiments.report import tables
from experiments.training import devices, programs

_PARTS = {
  'argument': 'parameters, state and batch',
  'output': 'new parameters and state',
  'temp': 'temporaries',
  'generated_code': 'program',
}


def describe(config: Config) -> str:
  """Compiles a step, and runs none; returns text for the terminal."""
  devices.check(config)
  dataset = splits.from_config(config.dataset)
  network = programs.build_network(config, dataset)
  program = programs.build(network, config, dataset)
  compiled: Any = program.step
  params = jax.tree.leaves(network.graph.params)
  title = registry.title(config.optimizer)
  return '\n'.join(
    [
      network.graph.summary(),
      '',
      f'{title}: {sum(leaf.size for leaf in params):,} parameters; '
      f'{program.steps:,} steps of {config.batch_size} samples',
      *_memory(compiled.memory_analysis()),
      *_cost(compiled.cost_analysis()),
      f'compiled in {program.compile_seconds:.1f} s',
    ]
  )


def _memory(found: Any) -> list[str]:
  """Lines about the memory of a step, where the backend tells."""
  if found is None:
    return ['memory of a step: not known of this backend']
  sizes = {
    text: getattr(found, f'{part}_size_in_bytes')
    for part, text in _PARTS.items()
  }
  total = sum(sizes.values())
  return [
    f'memory of a step: {_megabytes(total)}',
    *(f'  {text}: {_megabytes(size)}' for text, size in sizes.items()),
  ]


def _cost(found: Mapping[str, float] | None) -> list[str]:
  """Lines about the work of a step, where the backend tells."""
  flops = (found or {}).get('flops')
  moved = (found or {}).get('bytes accessed')
  giga = tables.number(flops and flops / 1e9, '.3f')
  traffic = _megabytes(moved) if moved else 'not known'
  return [f'cost of a step: {giga} Gflop; memory traffic: {traffic}']


def _megabytes(size: float) -> str:
  return f'{size / 1e6:,.2f} MB'
