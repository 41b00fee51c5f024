"""The figures of the studies."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import axes, axis, ticker

from experiments.report import tables

_LARGEST = 10.0  # nats; what is above has the same colour
_WIDE = 20  # ratio of bars from which the axis is logarithmic
BASE, OURS = '#8C8C8C', '#0072B2'  # a base alone, its GT-DDP variants
# Okabe and Ito's, which the colour-blind distinguish.
PALETTE = (
  '#000000',
  '#E69F00',
  '#56B4E9',
  '#009E73',
  '#D55E00',
  '#0072B2',
  '#CC79A7',
)
# First digits of the labels of a logarithmic axis: the first that give enough.
_TICKS = (1,), (1, 3), (1, 2, 5)
_LEAST_TICKS = 3
_STYLES = ('-', '--', '-.')
WHISKERS = 'line: median over seeds; whisker: from least to largest, at the end'
_APART = 0.02  # whiskers, of the width of the lines


class Bars(NamedTuple):
  """One bar per variant."""

  title: str  # of the panel
  label: str  # of its axis
  means: Sequence[float | None]  # None for no bar
  # ends of the whiskers; None for no whisker
  ranges: Sequence[tuple[float, float] | None]
  notes: Sequence[str]  # written at the ends of the bars
  # places of the variants without feedback, in another colour
  bases: Sequence[int] = (0,)


def losses_by_rate(
  path: pathlib.Path,
  variants: Sequence[str],
  rates: Sequence[str],
  losses: Sequence[Sequence[float | None]],
  bars: Sequence[Bars],
) -> None:
  """Draws losses by variant and rate as a coloured table, and bars beside it.

  Args:
    path: of the PNG.
    variants: names of the rows; the first is the base.
    rates: names of the columns.
    losses: nats, one row per variant; None, for diverged, stays white.
    bars: a panel each.
  """
  with tables.drawing(
    path, 7.6 + 3.2 * len(bars), 1.4 + 0.34 * len(variants)
  ) as drawing:
    panels = drawing.subplots(
      1, 1 + len(bars), sharey=True, width_ratios=[2.0, *[1.0] * len(bars)]
    )
    _heat(panels[0], rates, losses)
    for panel, series in zip(panels[1:], bars, strict=True):
      draw_bars(panel, series)
    tables.name_rows(panels[0], variants)


def _heat(
  panel: axes.Axes,
  rates: Sequence[str],
  losses: Sequence[Sequence[float | None]],
) -> None:
  values = np.array(losses, dtype=float)
  shades = np.log10(np.clip(values, 1e-6, _LARGEST))
  panel.imshow(shades, cmap='cividis_r', aspect='auto')
  middle = (np.nanmin(shades) + np.nanmax(shades)) / 2
  for (i, j), loss in np.ndenumerate(values):
    known = math.isfinite(loss)
    dark = known and shades[i, j] > middle
    panel.text(
      j,
      i,
      f'{loss:.2g}' if known else 'diverged',
      ha='center',
      va='center',
      fontsize=9 if known else 8,
      color='white' if dark else 'black',
    )
  panel.set(xlabel='learning rate', title='Train loss at the end (nats)')
  panel.set_xticks(range(len(rates)), rates)
  panel.tick_params(length=0)
  panel.grid(visible=False)


def draw_bars(panel: axes.Axes, series: Bars) -> None:
  """Draws one panel, of points on a logarithmic axis if bars differ much."""
  known = [mean for mean in series.means if mean]
  wide = bool(known) and max(known) > _WIDE * min(known)
  start = min(known) / 3 if wide else 0.0
  reach = 0.0
  for place, (mean, ends, note) in enumerate(
    zip(series.means, series.ranges, series.notes, strict=True)
  ):
    at = mean or start
    low, high = ends or (at, at)
    reach = max(reach, high)
    colour = BASE if place in series.bases else OURS
    # The whisker stays on the axis, also if that is logarithmic.
    error = [[at - max(low, start)], [high - at]] if ends else None
    if not wide:
      panel.barh(place, at, xerr=error, height=0.62, color=colour)
    elif mean:  # the length of a bar would say nothing
      panel.errorbar(at, place, xerr=error, fmt='o', color=colour, capsize=3)
    panel.annotate(
      note,
      (high, place),
      xytext=(4, 0),
      textcoords='offset points',
      va='center',
      fontsize=9,
    )
  panel.set(title=series.title, xlabel=series.label)
  if wide:
    panel.set_xscale('log')
    panel.set_xlim(start, reach * (reach / start) ** 0.5)
    plain_ticks(panel.xaxis)
  else:
    panel.set_xlim(0, 1.65 * reach or 1)
  panel.grid(visible=False, axis='y')
  panel.tick_params(axis='y', length=0)


def curves(
  path: pathlib.Path,
  panels: Sequence[str],
  names: Sequence[str],
  series: Sequence[Sequence[Sequence[Sequence[float]]]],
  every: int,
  label: str,
) -> None:
  """Draws one number of many variants against steps.

  Args:
    path: of the PNG.
    panels: their titles.
    names: of the lines.
    series: by panel, line, seed and point; the median over seeds is drawn, as
      far as every seed got, and no band: those of many lines hide each other.
      The range at the end stands beside it.
    every: steps between points.
    label: of the other axis.
  """
  with tables.drawing(path, 4.8 * len(panels), 4.6) as drawing:
    places = drawing.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for panel, title, lines in zip(places, panels, series, strict=True):
      draw_curves(panel, names, lines, every, band=False)
      panel.set(title=title)
    places[0].set(ylabel=label)
    tables.legend(drawing, places[0], 3, WHISKERS)


def draw_curves(
  panel: axes.Axes,
  names: Sequence[str],
  series: Sequence[Sequence[Sequence[float]]],
  every: int,
  band: bool = True,
) -> None:
  """Draws one panel of lines, each the median over seeds.

  Args:
    panel: where.
    names: of the lines.
    series: by line, seed and point.
    every: steps between points.
    band: whether to show the range from least to largest at every point, or
      as a whisker at the last one.
  """
  for number, (name, runs) in enumerate(zip(names, series, strict=True)):
    points = np.array([*zip(*runs, strict=False)], dtype=float)
    if not np.isfinite(points).any():
      continue
    steps = every * np.arange(1, len(points) + 1)
    colour, style = look(number)
    low, high = points.min(axis=1), points.max(axis=1)
    if band:
      panel.fill_between(
        steps, low, high, color=colour, alpha=0.12, linewidth=0
      )
    else:
      beside = steps[-1] * (1 + _APART * (number + 1))
      panel.plot([beside] * 2, [low[-1], high[-1]], color=colour)
    panel.plot(
      steps, np.median(points, axis=1), style, color=colour, label=name
    )
  # A log axis without data is an error.
  panel.set(xlabel='steps')
  if panel.lines:
    panel.set(yscale='log')
    plain_ticks(panel.yaxis)


def plain_ticks(line: axis.Axis) -> None:
  """Writes plain decimals at a logarithmic axis, and at least two of them.

  The axis has its data already.
  """
  low, high = sorted(line.get_view_interval())
  first, last = (math.floor(math.log10(end)) for end in (low, high))
  choices: list[Sequence[float]] = [
    [
      digit * 10.0**power
      for power in range(first, last + 1)
      for digit in digits
    ]
    for digits in _TICKS
  ]
  if high < 10 * low:
    steps = ticker.MaxNLocator(6, steps=[1, 2, 5, 10])
    choices = [steps.tick_values(low, high)]
  for choice in choices:
    ticks = [tick for tick in choice if low <= tick <= high]
    if len(ticks) >= _LEAST_TICKS:
      break
  line.set_ticks(
    ticks,
    [
      np.format_float_positional(t, 3, fractional=False, trim='-')
      for t in ticks
    ],
  )
  line.set_minor_locator(ticker.NullLocator())


def look(number: int) -> tuple[str, str]:
  """Returns the colour and the style of a line, by its place."""
  return PALETTE[number % len(PALETTE)], _STYLES[number % len(_STYLES)]


class Intervals(NamedTuple):
  """A panel of differences."""

  title: str  # of the panel
  label: str  # of its axis
  # mean and half width; None for no mark
  values: Sequence[tuple[float, float] | None]


def intervals(
  path: pathlib.Path, names: Sequence[str], panels: Sequence[Intervals]
) -> None:
  """Draws paired differences and their intervals beside zero, row by row.

  A mark is filled where its interval leaves out zero.
  """
  with tables.drawing(
    path, 2.0 + 3.2 * len(panels), 1.4 + 0.3 * len(names)
  ) as drawing:
    places = drawing.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for place, panel in zip(places, panels, strict=True):
      place.axvline(0, color=BASE, linewidth=1)
      for row, value in enumerate(panel.values):
        if value is None:
          place.text(
            0.5,
            row,
            'no pair of numbers',
            transform=place.get_yaxis_transform(),
            ha='center',
            va='center',
            fontsize=8,
            color=BASE,
          )
          continue
        mean, half = value
        certain = abs(mean) > half
        place.errorbar(
          mean, row, xerr=half, fmt='o', color=OURS, capsize=3, markersize=5,
          markerfacecolor=OURS if certain else 'white',
        )  # fmt: skip
      place.set(title=panel.title, xlabel=panel.label)
      place.locator_params(axis='x', nbins=5)
      place.grid(visible=False, axis='y')
    tables.name_rows(places[0], names)
    drawing.supxlabel('filled: the 95 % interval leaves out zero', fontsize=9)
