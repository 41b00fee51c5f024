"""The figures of `experiments.studies.blocks`."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colors

from experiments.report import charts, tables

Row = Mapping[str, Any]

_LEAST = 1e-4  # of the largest block; what is below has the same colour
_FLOOR = 1e-6  # %, about what float32 can tell


def maps(path: pathlib.Path, rows: Sequence[Row], title: str) -> None:
  """Draws the norms of all blocks, a row of heat maps per normalization."""
  columns = max(len(row['maps']) for row in rows)
  with tables.drawing(
    path, 1.75 * columns + 1.6, 2.05 * len(rows) + 0.9
  ) as drawing:
    grid = drawing.subplots(len(rows), columns, squeeze=False)
    shade = colors.LogNorm(_LEAST, 1)
    for row, panels in zip(rows, grid, strict=True):
      panels[0].set_ylabel(f'norm: {row["norm"]}\nsample i')
      for panel, blocks, layer in zip(
        panels, row['maps'], row['layers'], strict=False
      ):
        values = np.array(blocks)
        shown = values / (values.max() or 1)
        drawn = panel.imshow(
          np.maximum(shown, _LEAST), cmap='cividis', norm=shade
        )
        panel.set_title(layer, fontsize=9)
      for panel in panels[len(row['maps']) :]:
        panel.set_axis_off()
    for panel in grid.flat:
      panel.set(xticks=[], yticks=[])
      panel.grid(visible=False)
      panel.spines[:].set_visible(False)
    for panel in grid[-1]:
      panel.set_xlabel('sample j')
    bar = drawing.colorbar(drawn, ax=grid, shrink=0.8, aspect=30, extend='min')
    bar.set_label('‖block‖ / largest')
    drawing.suptitle(title)


def masses(path: pathlib.Path, found: Sequence[Row]) -> None:
  """Draws the off-diagonal mass by layer, a panel per terminal and epoch."""
  epochs = sorted({part['epoch'] for part in found})
  terminals = list(dict.fromkeys(part['terminal'] for part in found))
  norms = list(dict.fromkeys(part['norm'] for part in found))
  layers = list(
    dict.fromkeys(name for part in found for name in part['layers'])
  )
  with tables.drawing(
    path, 3.9 * len(epochs) + 0.6, 2.7 * len(terminals) + 1.6
  ) as drawing:
    grid = drawing.subplots(
      len(terminals), len(epochs), sharex=True, sharey=True, squeeze=False
    )
    for part in found:
      panel = grid[
        terminals.index(part['terminal']), epochs.index(part['epoch'])
      ]
      _line(panel, part, layers, norms.index(part['norm']))
    for terminal, panels in zip(terminals, grid, strict=True):
      panels[0].set_ylabel(f'{terminal}\noff-diagonal mass (%)')
    for epoch, panel in zip(epochs, grid[0], strict=True):
      panel.set_title(f'epoch {epoch}')
    for panel in grid[-1]:
      panel.set_xticks(
        range(len(layers)), layers, rotation=45, ha='right', fontsize=8
      )
    grid[0, 0].set_yscale('log')
    tables.legend(
      drawing,
      grid[0, 0],
      len(norms),
      'mean over seeds and batches; band: from least to largest; what is '
      f'below {_FLOOR:g} % is drawn there',
    )


def _line(panel: Any, part: Row, layers: Sequence[str], number: int) -> None:
  """One normalization; zero is drawn at the floor of the axis."""
  places = [layers.index(layer) for layer in part['layers']]
  colour = charts.PALETTE[(0, 4, 5, 3)[number % 4]]
  mean, least, largest = (
    np.maximum([100 * reach[key] for reach in part['by_layer']], _FLOOR)
    for key in ('mean', 'least', 'largest')
  )
  panel.fill_between(
    places, least, largest, color=colour, alpha=0.15, linewidth=0
  )
  panel.plot(
    places,
    mean,
    'osD^'[number % 4] + '-',
    color=colour,
    markersize=4,
    label=f'norm {part["norm"]}',
  )
