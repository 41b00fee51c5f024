"""The figures of `experiments.studies.anatomy`."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import axes, figure
from matplotlib import image as image_lib

import gtddp_jax as gt
from experiments.report import charts, tables
from experiments.studies.anatomy.class_pairs import Pair

Found = Sequence[gt.analysis.Decision]

_BASE, _OURS = charts.PALETTE[4], charts.PALETTE[5]
_MANY = 'cividis'  # stages that are more than the palette has colours
_SIGNED = 'PuOr'  # the colour-blind distinguish both
_COLUMNS = 8
_LONGEST = 26  # letters of a name


def share(decision: gt.analysis.Decision) -> float:
  """Returns the norm of what feedback changes over that of the base's step."""
  below = float(decision.open_update)
  return float(decision.feedback) / below if below else 0.0


def updates(path: pathlib.Path, found: Found) -> None:
  """Draws the norms of updates, and the share of feedback, by stage."""
  with matplotlib.rc_context(tables.STYLE):
    drawing, (left, right) = _panels(found, 2)
    places = np.arange(len(found))
    for offset, colour, label, numbers in (
      (-0.2, _BASE, 'without feedback', [d.open_update for d in found]),
      (0.2, _OURS, 'with feedback', [d.update for d in found]),
    ):
      left.bar(places + offset, numbers, 0.38, color=colour, label=label)
    left.set(title='Updates', ylabel='norm of the update')
    left.legend()
    shares = [100 * share(decision) for decision in found]
    right.bar(places, shares, 0.6, color=_OURS)
    right.set(title='Feedback', ylabel='change (% of the update)')
    drawing.savefig(path, dpi=150)


def spectra(path: pathlib.Path, found: Found) -> None:
  """Draws the eigenvalues of the value Hessian, a line per stage.

  The first stage, which has no state before it, is left out.
  """
  with tables.drawing(path, 7.4, 4.4) as drawing:
    panel = drawing.subplots()
    shown = found[1:]
    for n, decision in enumerate(shown):
      values = np.asarray(decision.spectrum, np.float64)
      values = values[values > 1e-7 * max(values[0], 0)]
      if len(shown) <= len(charts.PALETTE):
        colour: Any = charts.PALETTE[n]
      else:
        colour = matplotlib.colormaps[_MANY](n / (len(shown) - 1))
      panel.plot(
        np.arange(1, len(values) + 1),
        values,
        '-' if len(values) > 1 else 'o',
        color=colour,
        label=f'{n + 1} {_short(decision.name)}',
      )
    panel.set(
      title='Value Hessian before each stage',
      xlabel='number of the eigenvalue',
      ylabel='eigenvalue (nats per squared unit of the state)',
      yscale='log',
    )
    if shown:
      drawing.legend(loc='outside right upper', fontsize=8)


def gains(path: pathlib.Path, found: Found) -> None:
  """Draws the norms of the samples' feedback gains, by stage.

  The first stage, which has no feedback, is left out.
  """
  with matplotlib.rc_context(tables.STYLE):
    drawing, (panel,) = _panels(found, 1)
    columns = np.array([np.asarray(d.gains) for d in found[1:]])
    places = np.arange(1, len(found))
    if columns.size:
      panel.vlines(
        places,
        columns.min(axis=1),
        columns.max(axis=1),
        color=_OURS,
        alpha=0.35,
        linewidth=6,
        label='from least to largest',
      )
      panel.plot(
        places,
        np.median(columns, axis=1),
        'o',
        color=_OURS,
        label='median over samples',
      )
      panel.set_yscale('log')
      drawing.legend(loc='outside upper right', ncols=2)
    panel.set(title='Feedback gains', ylabel='norm of the gain of a sample')
    drawing.savefig(path, dpi=150)


def feedback(path: pathlib.Path, found: Found) -> None:
  """Draws what the feedback of ``convolutions`` looks at."""
  numbered = convolutions(found)
  with tables.drawing(path, _width(numbered), 5.4) as drawing:
    if not numbered:
      drawing.text(
        0.5, 0.5, 'no convolution has a stage before it', ha='center'
      )
      return
    grid = drawing.subplots(2, len(numbered), squeeze=False)
    for (n, decision), top, bottom in zip(numbered, *grid, strict=True):
      vector = np.asarray(decision.eigenvectors[0], np.float64)
      strength = np.sqrt(np.square(vector).mean(axis=(0, -1)))
      strong = top.imshow(
        strength / (strength.max() or 1.0), cmap=_MANY, vmin=0, vmax=1
      )
      signed = _show(bottom, np.asarray(decision.images[0], np.float64))
      top.set_title(_titled(n, decision), fontsize=9)
    for panel in grid.flat:
      panel.set(xticks=[], yticks=[])
      panel.grid(visible=False)
      panel.spines[:].set_visible(False)
    grid[0, 0].set_ylabel('at its input')
    grid[1, 0].set_ylabel('in the image')
    drawing.colorbar(strong, ax=grid[0], label='size / largest one')
    _bar(drawing, signed, grid[1])
    drawing.suptitle(
      f'Leading eigenvector of the feedback of convolutions{_scale(signed)}'
    )


def pairs(
  path: pathlib.Path, found: Found, separated: Mapping[int, Sequence[Pair]]
) -> None:
  """Draws leading eigenvectors in image space, and what classes they separate.

  ``separated`` has a pair per eigenvector, for ``convolutions``.
  """
  shown = [(n, d) for n, d in convolutions(found) if n in separated]
  rows = max((len(separated[n]) for n, _ in shown), default=1)
  with tables.drawing(path, _width(shown), 2.5 * rows + 0.9) as drawing:
    if not shown:
      drawing.text(
        0.5, 0.5, 'no convolution has a stage before it', ha='center'
      )
      return
    grid = drawing.subplots(rows, len(shown), squeeze=False)
    for (n, decision), panels in zip(shown, grid.T, strict=True):
      for panel, image, pair in zip(
        panels, decision.images, separated[n], strict=False
      ):
        signed = _show(panel, np.asarray(image, np.float64))
        panel.set_xlabel(
          f'{pair.text()}\nd′ {pair.distance:.1f} (chance {pair.chance:.1f})',
          fontsize=9,
        )
      panels[0].set_title(_titled(n, decision), fontsize=9)
    for panel in grid.flat:
      panel.set(xticks=[], yticks=[])
      panel.grid(visible=False)
      panel.spines[:].set_visible(False)
    for number, panel in enumerate(grid[:, 0], start=1):
      panel.set_ylabel(f'eigenvector {number}')
    _bar(drawing, signed, grid)
    drawing.suptitle(
      'Feedback of convolutions in the image; classes separated'
      + _scale(signed)
    )


def convolutions(found: Found) -> list[tuple[int, gt.analysis.Decision]]:
  """Returns the convolutions with a stage before them, and their numbers.

  They are spread evenly if they are many.
  """
  numbered = [
    (n, d) for n, d in enumerate(found) if n and d.eigenvectors is not None
  ]
  if len(numbered) > _COLUMNS:
    chosen = np.linspace(0, len(numbered) - 1, _COLUMNS).round().astype(int)
    numbered = [numbered[n] for n in chosen]
  return numbered


def _show(panel: axes.Axes, image: np.ndarray) -> image_lib.AxesImage | None:
  """Signed: purple below zero and orange above, or colours around grey.

  Returns what a colour bar belongs to; None for colours, which have none.
  """
  largest = np.abs(image).max() or 1.0
  if image.shape[-1] == 3:
    panel.imshow(0.5 + 0.5 * image / largest)
    return None
  grey = image.mean(axis=-1)
  largest = np.abs(grey).max() or 1.0
  return panel.imshow(grey / largest, cmap=f'{_SIGNED}_r', vmin=-1, vmax=1)


def _width(numbered: Sequence[Any]) -> float:
  """Of a figure with a column for each, in inches; the title has room."""
  return max(1.9 * len(numbered) + 1.6, 5.6)


def _scale(shown: image_lib.AxesImage | None) -> str:
  """What a title says where there is no colour bar."""
  return '' if shown is not None else '; grey is zero'


def _bar(
  drawing: figure.Figure, shown: image_lib.AxesImage | None, panels: Any
) -> None:
  """One colour bar for panels, each in units of its own largest value."""
  if shown is not None:
    drawing.colorbar(
      shown,
      ax=panels,
      label='value / largest size in the panel',
      ticks=(-1, -0.5, 0, 0.5, 1),
      aspect=20 * np.shape(np.atleast_2d(panels))[0],
    )


def _panels(found: Found, count: int) -> tuple[figure.Figure, Any]:
  """Panels whose horizontal axis has the stages."""
  width = max(5.2, 0.42 * len(found) + 1.6)
  drawing = figure.Figure(figsize=(width * count, 5.4), layout='constrained')
  panels = drawing.subplots(1, count, squeeze=False)[0]
  for panel in panels:
    panel.set_xticks(
      range(len(found)),
      [f'{n} {_short(d.name)}' for n, d in enumerate(found)],
      rotation=45 if len(found) < 12 else 90,
      ha='right' if len(found) < 12 else 'center',
      fontsize=9,
    )
    panel.grid(visible=False, axis='x')
  return drawing, panels


def _titled(n: int, decision: gt.analysis.Decision) -> str:
  """Number and name above a panel, in two lines."""
  return f'{n}\n{_short(decision.name)}'


def _short(name: str) -> str:
  """A path without what is in every path, and not too long."""
  name = name.removeprefix('params/')
  while len(name) > _LONGEST and '/' in name.removeprefix('…/'):
    name = f'…/{name.removeprefix("…/").partition("/")[2]}'
  return name if len(name) <= _LONGEST else f'…{name[1 - _LONGEST :]}'
