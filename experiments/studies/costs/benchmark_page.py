"""The table and the figure of ``benchmark``.

Rows are those of ``benchmark.summaries``; ``base`` is the title of the variant
that ratios are to.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import axes, ticker

from configs.schema import Config
from experiments.optimizers import registry
from experiments.report import charts, tables

Row = Mapping[str, Any]

_GOAL = charts.PALETTE[4]
_TICKS = (0.5, 0.7, 1, 1.4, 2, 3, 5, 7, 10, 15, 20, 30, 50)


def columns(found: Sequence[Row]) -> list[tables.Column]:
  """Returns a table of what each variant costs."""
  return tables.columns(
    found,
    ('variant', '', lambda s: s['form']),
    ('step', 'ms', lambda s: f'{1e3 * s["seconds"]:.3g}'),
    ('step', '× base', _ratio),
    ('goal', '× base', lambda s: _cell(s['goal'], '≤ {:g}')),
    ('goal met', '', _goal),
    ('compilation', 's', lambda s: _cell(s['compile_seconds'], '{:.1f}')),
    (
      'memory',
      'MB',
      lambda s: _cell(s['memory'] and s['memory'] / 1e6, '{:.0f}'),
    ),
  )


def short(found: Sequence[Row], base: str) -> list[str]:
  """Returns how each goal was met."""
  goals = [
    f'{part["form"]} {part["ratio"]:.3g} (goal ≤ {part["goal"]:g}: '
    f'{_met(part)})'
    for part in found
    if part['goal'] is not None
  ]
  return [f'Time over that of a step of {base}: {", ".join(goals)}.']


def _cell(value: float | None, form: str) -> str:
  return '-' if value is None else form.format(value)


def _ratio(part: Row) -> str:
  low, high = part['quartiles']
  return f'{part["ratio"]:.3g} [{low:.3g}, {high:.3g}]'


def _goal(part: Row) -> str:
  if part['goal'] is None:
    return '-'
  return f'{_met(part)} ({part["met_in"]}/{part["rounds"]} rounds)'


def _met(part: Row) -> str:
  return 'met' if part['ratio'] <= part['goal'] else 'missed'


def caption(config: Config, base: str) -> str:
  """Returns what stands below the table."""
  own = config.benchmark
  renewals = ''
  if base != 'plain optax':
    renewals = (
      f' Steps that renew factors, every {own.every} and at first more, are '
      f'left out.'
    )
  return (
    f'{own.base}, residual CNN (28x28x1, 16 and 32 channels), batch '
    f'{own.batch}, float32, random samples, trust region '
    f'{registry.BOUND} where there is feedback. {own.rounds} rounds in which '
    f'the variants take turns. Step: median. × base: the ratio to {base} '
    f'within a round, median and quartiles over the rounds; a goal is met '
    f'where the median is.{renewals} Memory: of the compiled step, arguments '
    f'and temporaries. Reading a batch: the input pipeline, random samples of '
    f'60,000 images of that size, until they are on the device.'
  )


def draw(path: pathlib.Path, found: Sequence[Row], base: str) -> None:
  """Draws the ratios as bars from 1, on a logarithmic axis, and their goals.

  What has no step, as reading a batch, is left out.
  """
  shown = [part for part in found if part['memory'] is not None]
  ends = [end for part in shown for end in part['quartiles']]
  ends += [part['goal'] for part in shown if part['goal']]
  with tables.drawing(path, 8.4, 1.5 + 0.36 * len(shown)) as drawing:
    panel = drawing.subplots()
    panel.axvline(1, color='black', linewidth=1)
    for place, part in enumerate(shown):
      _bar(panel, place, part)
    tables.name_rows(panel, [part['form'] for part in shown])
    panel.set_xscale('log')
    panel.set_xlim(0.85 * min(ends), 1.3 * max(ends))
    panel.xaxis.set_major_locator(ticker.FixedLocator(_TICKS))
    panel.xaxis.set_major_formatter(ticker.FormatStrFormatter('%g'))
    panel.xaxis.set_minor_locator(ticker.NullLocator())
    panel.grid(visible=False, axis='y')
    panel.tick_params(axis='y', length=0)
    panel.set_xlabel(
      f'time of a step, in units of {base} (median; whiskers: quartiles)'
    )
    tables.legend(drawing, panel, 3)


def _bar(panel: axes.Axes, place: int, part: Row) -> None:
  """One variant: its ratio, quartiles and goal."""
  ratio, (low, high), goal = part['ratio'], part['quartiles'], part['goal']
  panel.barh(
    place,
    ratio - 1,
    left=1,
    height=0.62,
    color=charts.OURS if part['feedback'] else charts.BASE,
    label='GT-DDP' if part['feedback'] else 'without feedback',
    xerr=[[ratio - low], [high - ratio]],
    error_kw={'capsize': 3, 'linewidth': 1.2},
  )
  if goal is not None:
    ends = [place - 0.4, place + 0.4]
    panel.plot([goal, goal], ends, color=_GOAL, linewidth=2.5, label='goal')
  panel.annotate(
    f'{ratio:.2f}' if goal is None else f'{ratio:.2f} (goal {goal:g})',
    (max(high, goal or 0, 1), place),
    xytext=(6, 0),
    textcoords='offset points',
    va='center',
    fontsize=9,
  )
