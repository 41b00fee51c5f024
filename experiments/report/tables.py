"""Tables and figures, in one style.

A base and its GT-DDP variants share a colour: dashed for the base, solid for
the first variant. The colours are Okabe and Ito's, which the colour-blind
distinguish.
"""

from __future__ import annotations

import contextlib
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import rich.box
import rich.console
import rich.measure
import rich.table
from matplotlib import axes, figure, ticker

Row = Mapping[str, Any]

STYLE: Any = {
  'axes.axisbelow': True,
  'axes.grid': True,
  'axes.labelsize': 11,
  'axes.spines.right': False,
  'axes.spines.top': False,
  'axes.titlesize': 12,
  'font.size': 10,
  'grid.alpha': 0.3,
  'legend.frameon': False,
  'lines.linewidth': 1.8,
}
_COLOURS = {
  'SGD': '#0072B2',
  'RMSprop': '#D55E00',
  'Adam': '#009E73',
  'AdamW': '#CC79A7',
  'KFAC': '#E69F00',
  'EKFAC': '#56B4E9',
  'Lion': '#000000',
  'Muon': '#999999',
}
_OURS = 'GT-DDP '
_STYLES = '-', '-.', ':'  # of the variants of one base, in turn
BAND = 'line: median over seeds; band: from least to largest'
_ABSENT = '-'


class Curve(NamedTuple):
  """The rows that the seeds of one optimizer logged."""

  title: str
  runs: Sequence[Sequence[Row]]

  @property
  def base(self) -> str:
    """The title of its base, such as 'SGD' of 'GT-DDP SGD, frozen'."""
    name = self.title.removeprefix(_OURS).removeprefix('GT-')
    return name.partition(',')[0]


Spec = tuple[str, str, Callable[[Any], str]]  # head, unit, cell of a row


class Column(NamedTuple):
  """A column of a table of results: its head, its unit and its cells."""

  head: str
  unit: str
  cells: Sequence[str]

  def title(self, between: str) -> str:
    """Returns head and unit; ``between`` separates them."""
    return f'{self.head}{between}({self.unit})' if self.unit else self.head


def columns(rows: Sequence[Any], *specs: Spec) -> list[Column]:
  """Returns a column for each head and unit, with the cell of each row."""
  return [
    Column(head, unit, [cell(row) for row in rows])
    for head, unit, cell in specs
  ]


def line(row: Row) -> str:
  """Returns an evaluated row as one line of text."""
  return (
    f'epoch {row["epoch"]:5.1f}  train loss {row["train_loss"]:.4f}  '
    f'test accuracy {100 * row["test_accuracy"]:.2f} %'
  )


def number(value: float | None, form: str) -> str:
  """Returns a number in a form such as '.2f', or a dash if there is none."""
  if value is None or not math.isfinite(value):
    return _ABSENT
  return format(value, form)


def spread(values: Sequence[float], form: str) -> str:
  """Returns ``mean ± standard deviation`` over seeds."""
  if not values:
    return _ABSENT
  mean = number(float(np.mean(values)), form)
  if len(values) == 1:
    return mean
  return f'{mean} ± {number(float(np.std(values, ddof=1)), form)}'


def losses(values: Sequence[float | None]) -> str:
  """Returns the spread of losses (nats); None where a run diverged."""
  known = [value for value in values if value is not None]
  if len(known) < len(values):
    return f'diverged {len(values) - len(known)}/{len(values)}'
  return spread(known, '.3g')


def accuracies(values: Sequence[float | None]) -> str:
  """Returns the spread of accuracies (%), each 0 to 1; none if one is None."""
  known = [100 * value for value in values if value is not None]
  return spread(known, '.2f') if len(known) == len(values) else _ABSENT


def table(columns: Sequence[Column], caption: str) -> rich.table.Table:
  """Returns a table for the terminal; the first column is text."""
  made = rich.table.Table(
    box=rich.box.SIMPLE_HEAD,
    caption=caption,
    caption_justify='left',
    pad_edge=False,
  )
  for place, column in enumerate(columns):
    made.add_column(
      column.title('\n'),
      justify='right' if place else 'left',
      no_wrap=True,
    )
  for cells in zip(*(column.cells for column in columns), strict=True):
    made.add_row(*cells)
  return made


def show(columns: Sequence[Column], caption: str) -> None:
  """Prints a table: as wide as the terminal, or whole where there is none."""
  console, made = rich.console.Console(), table(columns, caption)
  if not console.is_terminal:
    options = console.options.update(max_width=10_000)
    needed = rich.measure.Measurement.get(console, options, made).maximum
    console = rich.console.Console(width=max(80, needed))
  console.print(made)


def markdown(columns: Sequence[Column], caption: str) -> str:
  """Returns the same table as Markdown."""
  rules = [':--', *['--:'] * (len(columns) - 1)]
  body = zip(*(column.cells for column in columns), strict=True)
  rows = [[column.title(' ') for column in columns], rules, *body]
  lines = [f'| {" | ".join(cells)} |' for cells in rows]
  return '\n'.join([*lines, '', caption, ''])


@contextlib.contextmanager
def drawing(
  path: pathlib.Path, width: float, height: float
) -> Iterator[figure.Figure]:
  """Yields a figure in the one style, and writes it as a PNG at the end."""
  with matplotlib.rc_context(STYLE):
    made = figure.Figure(figsize=(width, height), layout='constrained')
    yield made
    made.savefig(path, dpi=150)


def legend(
  made: figure.Figure, panel: axes.Axes, wide: int = 6, title: str | None = None
) -> None:
  """Puts what a panel shows below all panels, each name once."""
  handles, labels = panel.get_legend_handles_labels()
  known = dict(zip(labels, handles, strict=True))
  made.legend(
    [*known.values()],
    [*known],
    loc='outside lower center',
    ncols=min(wide, len(known) or 1),
    title=title,
  )


def name_rows(panel: axes.Axes, names: Sequence[str]) -> None:
  """Writes names at the vertical axis, the first at its top."""
  panel.set_yticks(range(len(names)), names)
  panel.set_ylim(len(names) - 0.5, -0.5)


def curves(path: pathlib.Path, all_curves: Sequence[Curve]) -> None:
  """Draws train loss and test error against epochs, of each optimizer.

  With several seeds, the median is drawn and a band from least to largest.
  """
  with drawing(path, 10, 4.4) as made:
    left, right = made.subplots(1, 2)
    for place, curve in enumerate(all_curves):
      style: Any = (0, (4, 2))
      if curve.title.startswith(_OURS):
        same = [c for c in all_curves[:place] if c.title.startswith(_OURS)]
        number = [c.base for c in same].count(curve.base)
        style = _STYLES[number % len(_STYLES)]
      _draw(left, curve, style, lambda row: row['train_loss'])
      _draw(right, curve, style, lambda row: 100 * (1 - row['test_accuracy']))
    left.set(title='Training split', ylabel='mean loss (nats)')
    right.set(title='Test split', ylabel='error (%)')
    for panel in (left, right):
      panel.set(xlabel='epochs', yscale='log')
      panel.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    right.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    right.yaxis.set_major_formatter(ticker.FormatStrFormatter('%g'))
    right.yaxis.set_minor_formatter(ticker.NullFormatter())
    several = max(len(curve.runs) for curve in all_curves) > 1
    legend(made, left, title=BAND if several else None)


def _draw(
  panel: axes.Axes, curve: Curve, style: Any, value: Callable[[Row], float]
) -> None:
  colour = _COLOURS[curve.base]
  evaluated = [
    [row for row in rows if 'test_loss' in row] for rows in curve.runs
  ]
  # As far as every seed got.
  shared = list(zip(*evaluated, strict=False))
  if not shared:
    return
  epochs = [rows[0]['epoch'] for rows in shared]
  values = np.array([[value(row) for row in rows] for rows in shared])
  panel.fill_between(
    epochs,
    values.min(axis=1),
    values.max(axis=1),
    color=colour,
    alpha=0.12,
    linewidth=0,
  )
  panel.plot(
    epochs,
    np.median(values, axis=1),
    color=colour,
    linestyle=style,
    label=curve.title,
  )
