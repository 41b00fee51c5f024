"""The figures of the study of methods."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import axes, figure, ticker

from experiments.report import charts, intervals, tables
from experiments.studies import outcomes

Row = dict[str, Any]

_COLUMNS = 3


def curves(
  path: pathlib.Path, found: Sequence[Row], rows: Sequence[Row], every: int
) -> None:
  """Draws each base and its variants, then all bases (Fig. 6a)."""

  def points(title: str, rate: float) -> list[list[float]]:
    own = outcomes.at(rows, form=title, rate=rate)
    return [row['smoothed_losses'] for row in own]

  groups = _groups(found)
  alone = [s for s in found if s['method'] == s['base']]
  with matplotlib.rc_context(tables.STYLE):
    drawing, panels = _panels(len(groups) + 1, 3.6)
    for panel, group in zip(panels, groups, strict=False):
      charts.draw_curves(
        panel,
        [_short(s) for s in group],
        [points(s['method'], s['base_rate']) for s in group],
        every,
      )
      base = group[0]
      panel.set(title=f'{base["method"]}, rate {base["best_rate"]:g}')
    last = panels[len(groups)]
    charts.draw_curves(
      last,
      [s['method'] for s in alone],
      [points(s['method'], s['best_rate']) for s in alone],
      every,
    )
    last.set(title='without feedback, each at its best rate')
    last.legend(fontsize=8, ncols=2, title='in this panel', title_fontsize=8)
    if any(panel.lines for panel in panels):
      charts.plain_ticks(panels[0].yaxis)
    drawing.supylabel('train loss, smoothed (nats)')
    tables.legend(drawing, panels[0], 5, tables.BAND)
    drawing.savefig(path, dpi=150)


def deviations(path: pathlib.Path, found: Sequence[Row]) -> None:
  """Draws standard deviations over seeds (Figs. 6b and 8).

  The bases have one axis of ratios, and one of deviations. Without any ratio,
  as from few seeds, deviations stand alone.
  """
  groups = _groups(found)
  with matplotlib.rc_context(tables.STYLE):
    ours = [s for group in groups for s in group[1:]]
    compared = any(_at_base(s)['ratio'] is not None for s in ours)
    drawing = figure.Figure(
      figsize=(1.4 + 3.4 * len(groups), 6.4 if compared else 3.8),
      layout='constrained',
    )
    panels = drawing.subplots(
      1 + compared,
      len(groups),
      squeeze=False,
      height_ratios=[1, 1.3] if compared else None,
    )
    first = panels[-1, 0]
    for panel, group in zip(panels[-1], groups, strict=True):
      panel.sharey(first)
      _by_rate(panel, group)
      panel.set(title=f'{group[0]["method"]}, every rate')
    for panel, group in zip(
      panels[0] if compared else (), groups, strict=False
    ):
      panel.sharex(panels[0, 0])
      _ratios(panel, group[1:])
      base = group[0]
      panel.set(title=f'{base["method"]}, rate {base["best_rate"]:g}')
    if compared:
      charts.plain_ticks(panels[0, 0].xaxis)
    for panel in panels[:, 1:].flat:
      panel.tick_params(labelleft=False)
    drawn = [line.get_ydata() for p in panels[-1] for line in p.lines]
    if np.isfinite(drawn).any():
      # A log axis without data is an error.
      first.set(yscale='log')
      charts.plain_ticks(first.yaxis)
    first.set(ylabel='standard deviation of\nthe final loss (nats)')
    whiskers = '; whiskers: 95 % intervals' if compared else ''
    tables.legend(drawing, first, 5, f'over seeds{whiskers}')
    drawing.savefig(path, dpi=150)


def targets(path: pathlib.Path, found: Sequence[Row], target: float) -> None:
  """Draws steps and seconds to the target, a train loss (nats)."""
  names = [s['method'] for s in found]
  bases = [i for i, s in enumerate(found) if s['method'] == s['base']]
  parts = [s['targets'] for s in found]
  with tables.drawing(path, 11, 1.4 + 0.3 * len(names)) as drawing:
    panels = drawing.subplots(1, 2, sharey=True)
    for panel, unit, form in zip(
      panels, ('steps', 'seconds'), ('.0f', '.2g'), strict=True
    ):
      medians = [part[f'median_{unit}'] for part in parts]
      ranges = [
        None if None in part[unit] else (min(part[unit]), max(part[unit]))
        for part in parts
      ]
      notes = [_note(part, unit, form) for part in parts]
      charts.draw_bars(
        panel,
        charts.Bars(
          f'To {target:g} nats: median, least to largest (× base)',
          unit,
          medians,
          ranges,
          notes,
          bases,
        ),
      )
    tables.name_rows(panels[0], names)


def _groups(found: Sequence[Row]) -> list[list[Row]]:
  """Each base that has variants with feedback, and these."""
  bases = [s['method'] for s in found if s['method'] == s['base']]
  groups = [[s for s in found if s['base'] == base] for base in bases]
  return [group for group in groups if len(group) > 1]


def _short(summary: Row) -> str:
  """The name of a variant beside those of the same base."""
  if summary['method'] == summary['base']:
    return 'base alone'
  return str(summary['method']).rsplit(', ', maxsplit=1)[-1]


def _panels(count: int, height: float) -> tuple[figure.Figure, list[axes.Axes]]:
  lines = -(-count // _COLUMNS)
  columns = -(-count // lines)
  drawing = figure.Figure(
    figsize=(4.6 * columns, 0.8 + height * lines), layout='constrained'
  )
  panels = [*drawing.subplots(lines, columns, squeeze=False, sharey=True).flat]
  for panel in panels[count:]:
    panel.remove()
  return drawing, panels[:count]


def _at_base(summary: Row) -> Row:
  """The deviations at the best rate of the base."""
  found: Row = next(
    p for p in summary['deviations'] if p['rate'] == summary['base_rate']
  )
  return found


def _ratios(panel: axes.Axes, group: Sequence[Row]) -> None:
  """Ratios to the base at its best rate."""
  for place, summary in enumerate(group):
    part = _at_base(summary)
    if part['ratio'] is None:
      panel.text(
        1,
        place,
        'no interval'
        if part['learned'] and part['base_learned']
        else 'not trained',
        ha='center',
        va='center',
        fontsize=9,
        backgroundcolor='white',
      )
      continue
    colour, _ = charts.look(place + 1)
    ratio = part['ratio']
    panel.errorbar(
      [ratio],
      [place],
      xerr=[[ratio - part['low']], [part['high'] - ratio]],
      fmt='o',
      color=colour,
      capsize=3,
    )
  panel.axvline(1, color=charts.PALETTE[0], linewidth=1)
  panel.set_xscale('log')
  tables.name_rows(panel, [_short(s) for s in group])
  panel.set(xlabel='deviation, × base')
  panel.grid(visible=False, axis='y')


def _by_rate(panel: axes.Axes, group: Sequence[Row]) -> None:
  """Deviations of a base and its variants at every rate."""
  for place, summary in enumerate(group):
    colour, style = charts.look(place)
    parts = summary['deviations']
    values = [
      np.nan
      if part['deviation'] is None or not part['learned']
      else part['deviation']
      for part in parts
    ]
    panel.plot(
      [part['rate'] for part in parts],
      values,
      style,
      marker='o',
      markersize=4,
      color=colour,
      label=_short(summary),
    )
  rates = [part['rate'] for part in group[0]['deviations']]
  panel.set(xscale='log', xlabel='learning rate')
  panel.set_xticks(rates, [f'{rate:g}' for rate in rates])
  panel.xaxis.set_minor_locator(ticker.NullLocator())


def _note(part: Row, unit: str, form: str) -> str:
  median = part[f'median_{unit}']
  if median is None:
    return f'not reached ({part["reached"]}/{part["runs"]})'
  text = tables.number(median, form)
  if ratio := part[f'{unit}_ratio']:
    text += f' (× {intervals.text(ratio, "×")})'
  if part['reached'] < part['runs']:
    text += f' ({part["reached"]}/{part["runs"]})'
  return text
