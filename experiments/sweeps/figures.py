"""The figure of a sweep: a metric over an axis, in lines and panels."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import axes

from configs import sweeps
from configs.schema import Config
from experiments import refusals
from experiments.report import tables
from experiments.sweeps import outcomes as outcomes_lib
from experiments.sweeps import plan

_WIDE = 20  # ratio from which a positive axis is logarithmic
# Okabe and Ito's.
_COLOURS = (
  '#0072B2',
  '#D55E00',
  '#009E73',
  '#CC79A7',
  '#E69F00',
  '#56B4E9',
  '#8C8C8C',
)
_MARKERS = 'osD^vPX'


class Layout(NamedTuple):
  """Which axis of a sweep is what in the figure; '' for none."""

  metric: str  # drawn upward
  x: str  # drawn to the right
  lines: str  # one line for each value
  panels: str  # one panel for each value


def layout(section: Config, runs: Sequence[plan.Run]) -> Layout:
  """Returns the layout that the ``plot`` section of a sweep asks for.

  It names axes, or '' for the next that is free. Raises ConfigError if there is
  no such axis, or one is asked for twice.
  """
  names = [*runs[0].values, 'seed']
  asked = {key: section[key] for key in ('x', 'lines', 'panels')}
  for key, name in asked.items():
    others = [other for k, other in asked.items() if k != key]
    if name and (name not in names or name in others):
      raise refusals.ConfigError(
        f'sweep.plot.{key}',
        f'one of {", ".join(names)}, each once',
        repr(name),
        'change it',
      )
  free = [name for name in names[:-1] if name not in asked.values()]
  found = {
    k: name or (free.pop(0) if free else '') for k, name in asked.items()
  }
  if not found['x']:
    found['x'] = 'seed'
  return Layout(section.metric, **found)


def draw(
  path: pathlib.Path,
  outcomes: Sequence[outcomes_lib.Outcome],
  chosen: Layout,
) -> None:
  """Draws the runs that finished."""
  points = [
    ({**one.run.values, 'seed': one.run.seed}, one.metrics[chosen.metric])
    for one in outcomes
    if chosen.metric in one.metrics
  ]
  panels = _values(outcomes, chosen.panels)
  with tables.drawing(path, 1.5 + 4.5 * len(panels), 4.4) as drawing:
    grid = drawing.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for panel, value in zip(grid, panels, strict=True):
      own = [p for p in points if p[0].get(chosen.panels) == value]
      _panel(panel, own, chosen, outcomes)
      if chosen.panels:
        panel.set_title(f'{chosen.panels} {value}')
    unit = sweeps.METRICS[chosen.metric]
    grid[0].set_ylabel(chosen.metric + (f' ({unit})' if unit else ''))
    ys = [y for _, y in points]
    if ys and min(ys) > 0 and max(ys) >= _WIDE * min(ys):
      grid[0].set_yscale('log')
    tables.legend(drawing, grid[0], title=_explanation(outcomes, chosen))


def _panel(
  panel: axes.Axes,
  points: Sequence[tuple[Mapping[str, Any], float]],
  chosen: Layout,
  outcomes: Sequence[outcomes_lib.Outcome],
) -> None:
  xs = _values(outcomes, chosen.x)
  numeric = all(isinstance(x, int | float) for x in xs) and len(xs) > 1
  places = xs if numeric else list(range(len(xs)))
  for number, line in enumerate(_values(outcomes, chosen.lines)):
    found = [
      [
        y
        for values, y in points
        if values[chosen.x] == x and values.get(chosen.lines) == line
      ]
      for x in xs
    ]
    known = [(p, ys) for p, ys in zip(places, found, strict=True) if ys]
    colour = _COLOURS[number % len(_COLOURS)]
    panel.plot(
      [p for p, _ in known],
      [float(np.median(ys)) for _, ys in known],
      color=colour,
      marker=_MARKERS[(number + number // 7) % len(_MARKERS)],
      linestyle='-' if numeric else '',
      label=f'{chosen.lines} {line}' if chosen.lines else None,
    )
    panel.vlines(
      [p for p, _ in known],
      [min(ys) for _, ys in known],
      [max(ys) for _, ys in known],
      color=colour,
      alpha=0.4,
    )
  panel.set_xlabel(chosen.x)
  if not numeric:
    panel.set_xticks(places, [str(x) for x in xs])
  elif min(xs) > 0 and max(xs) >= _WIDE * min(xs):
    panel.set_xscale('log')


def _values(outcomes: Sequence[outcomes_lib.Outcome], name: str) -> list[Any]:
  """Of an axis, numbers in order; [None] for none."""
  if not name:
    return [None]
  found: list[Any] = []
  for one in outcomes:
    value = {**one.run.values, 'seed': one.run.seed}[name]
    if value not in found:
      found.append(value)
  if all(isinstance(value, int | float) for value in found):
    found.sort()
  return found


def _explanation(
  outcomes: Sequence[outcomes_lib.Outcome], chosen: Layout
) -> str:
  """What is behind a marker."""
  left = [
    name
    for name in [*outcomes[0].run.values, 'seed']
    if name not in chosen and len(_values(outcomes, name)) > 1
  ]
  done = sum(chosen.metric in one.metrics for one in outcomes)
  words = [f'{done} of {len(outcomes)} runs finished']
  if left:
    words.append(f'marker: median over {", ".join(left)}')
    words.append('bar: from least to largest')
  return '; '.join(words)
