"""The tables of the study of blocks, and what they say in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from configs.schema import Config
from experiments.optimizers import registry
from experiments.report import tables

Row = dict[str, Any]
TERMINALS = ('gauss_newton', 'gradient')
MEASURES = ('mass', 'dropped', 'coupled')


def summaries(rows: Sequence[Row]) -> list[Row]:
  """Returns what was measured, by normalization, epoch and terminal, as shares.

  Of every measure the mean, the least and the largest over seeds and batches
  (of masses over layers, too), and the same of the mass by layer.
  """
  found = []
  for norm in dict.fromkeys(row['norm'] for row in rows):
    own = [row for row in rows if row['norm'] == norm]
    moments = [moment for row in own for moment in row['moments']]
    for epoch in sorted({moment['epoch'] for moment in moments}):
      for terminal in TERMINALS:
        asked = {'epoch': epoch, 'terminal': terminal}
        part = [m for m in moments if asked.items() <= m.items()]
        found.append(
          {
            'norm': norm,
            **asked,
            **{
              key: _reach([moment[key] for moment in part]) for key in MEASURES
            },
            'layers': own[0]['layers'],
            'by_layer': [
              _reach(column)
              for column in zip(*(m['mass'] for m in part), strict=True)
            ],
          }
        )
  return found


def _reach(values: Any) -> dict[str, float]:
  numbers = np.array(values)
  return {
    'mean': float(numbers.mean()),
    'least': float(numbers.min()),
    'largest': float(numbers.max()),
  }


def short(found: Sequence[Row]) -> list[str]:
  """Returns what came out at the end, in a sentence for each norm."""
  return [
    f'Norm {s["norm"]}, terminal {s["terminal"]}, after epoch {s["epoch"]}: '
    f'{_cell(s["mass"])} % of the value Hessian lies between samples; without '
    f'it the exact update changes by {_cell(s["dropped"])} %, and `coupled` '
    f'differs from it by {_cell(s["coupled"])} %.'
    for s in found
  ]


def _cell(reach: Row) -> str:
  mean, least, largest = (
    tables.number(100 * reach[key], '.2g')
    for key in ('mean', 'least', 'largest')
  )
  return f'{mean} ({least} … {largest})'


def by_layer(found: Sequence[Row]) -> list[tables.Column]:
  """Returns masses; layers may have other names in other networks."""
  layers = list(dict.fromkeys(name for s in found for name in s['layers']))
  columns = [tables.Column('layer', '', layers)]
  for part in found:
    cells = dict(zip(part['layers'], map(_cell, part['by_layer']), strict=True))
    head = f'{part["norm"]}, {part["terminal"]}'
    columns.append(
      tables.Column(head, '', [cells.get(layer, '-') for layer in layers])
    )
  return columns


def caption(config: Config) -> str:
  """Returns what a reader must know beside the tables."""
  section = config.blocks
  base = registry.BASES[registry.base_name(config.optimizer)].title
  return (
    f'{config.dataset.name}, {config.model.name}, trained by '
    f'{registry.title(config.optimizer)} at rate '
    f'{config.optimizer.base.learning_rate:g}, batch {config.batch_size}; '
    f'steps of {base} on {section.batches} batches of {section.samples} '
    f'training samples on each of {len(section.seeds)} seeds: mean (least … '
    f'largest). Off-diagonal mass: squared Frobenius norm of the blocks of the '
    f'true V_XX between different samples over that of all blocks, before each '
    f'convolution and dense layer but the first. Updates: norm of the '
    f'difference from the exact update over the norm of that one, with the '
    f'blocks of S between samples dropped at every stage, and of '
    f"value='coupled'."
  )


def standings(found: Sequence[Row]) -> list[tables.Column]:
  """Returns what was measured, by normalization, epoch and terminal."""
  return tables.columns(
    found,
    ('norm', '', lambda s: s['norm']),
    ('epoch', '', lambda s: str(s['epoch'])),
    ('terminal', '', lambda s: s['terminal']),
    ('off-diagonal mass', '%', lambda s: _cell(s['mass'])),
    ('update, blocks dropped', '%', lambda s: _cell(s['dropped'])),
    ('update, coupled', '%', lambda s: _cell(s['coupled'])),
  )
