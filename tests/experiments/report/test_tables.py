"""Tables hold what they are given, and a figure shows something."""

from __future__ import annotations

import io
import pathlib

import numpy as np
import pytest
import rich.console
from matplotlib import figure, image

from experiments.optimizers import registry
from experiments.report import tables

pytestmark = pytest.mark.once

COLUMNS = [
  tables.Column('optimizer', '', ['SGD', 'GT-DDP SGD']),
  tables.Column('step', 'ms', ['1.00', '1.50']),
]


def rows(scale: float, upto: int = 5) -> list[tables.Row]:
  return [
    {
      'epoch': float(epoch),
      'train_loss': scale / (1 + epoch),
      'test_loss': 1.0,
      'test_accuracy': 1 - scale / (10 + epoch),
    }
    for epoch in range(upto)
  ]


def test_a_table_fits_a_narrow_terminal() -> None:
  stream = io.StringIO()
  console = rich.console.Console(file=stream, width=40)
  console.print(tables.table(COLUMNS, 'a caption'))
  text = stream.getvalue()
  for word in ('optimizer', '(ms)', 'GT-DDP SGD', '1.50', 'a caption'):
    assert word in text


def test_a_table_is_whole_where_there_is_no_terminal(
  monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
  monkeypatch.setenv('COLUMNS', '80')
  cells = [f'{number}' * 30 for number in range(8)]
  wide = [tables.Column(cell, 's', [cell]) for cell in cells]
  tables.show(wide, 'a caption')
  lines = capsys.readouterr().out.splitlines()
  assert sum(all(cell in line for cell in cells) for line in lines) == 2
  assert any(line.strip() == 'a caption' for line in lines)


def test_markdown() -> None:
  assert tables.markdown(COLUMNS, 'a caption').splitlines() == [
    '| optimizer | step (ms) |',
    '| :-- | --: |',
    '| SGD | 1.00 |',
    '| GT-DDP SGD | 1.50 |',
    '',
    'a caption',
  ]


def test_numbers() -> None:
  assert tables.number(1.234, '.2f') == '1.23'
  assert tables.number(None, '.2f') == '-'
  assert tables.number(float('nan'), '.1e') == '-'
  assert tables.spread([], '.2f') == '-'
  assert tables.spread([1.0], '.1f') == '1.0'
  assert tables.spread([1.0, 3.0], '.2f') == '2.00 ± 1.41'


@pytest.mark.parametrize(
  'curves',
  [
    [tables.Curve('Adam', [rows(1.0)])],
    [
      tables.Curve('SGD', [rows(1.0), rows(2.0, upto=3)]),
      tables.Curve('GT-DDP SGD', [rows(0.5), rows(0.0)]),
      tables.Curve('Adam', [[], rows(1.0)]),
    ],
  ],
  ids=['one', 'several'],
)
def test_a_figure_is_not_blank(
  curves: list[tables.Curve], tmp_path: pathlib.Path
) -> None:
  path = tmp_path / 'curves.png'
  tables.curves(path, curves)
  pixels = image.imread(path)[..., :3]
  assert min(pixels.shape[:2]) > 500
  assert np.mean(pixels < 0.5) > 0.01
  coloured = pixels.max(axis=-1) - pixels.min(axis=-1) > 0.3
  assert coloured.sum() > 500


def test_every_base_has_a_colour(tmp_path: pathlib.Path) -> None:
  titles = [kind.title for kind in registry.BASES.values()]
  tables.curves(
    tmp_path / 'curves.png',
    [
      tables.Curve(prefix + title + suffix, [rows(1.0)])
      for title in titles
      for prefix in ('', 'GT-DDP ')
      for suffix in ('', ', frozen')  # as titles of the study of methods
    ],
  )


def test_variants_of_one_base_have_lines_of_their_own(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  drawn: list[figure.Figure] = []
  monkeypatch.setattr(
    figure.Figure, 'savefig', lambda self, *unused, **words: drawn.append(self)
  )
  titles = ['SGD', 'GT-DDP SGD, frozen', 'GT-DDP SGD, bellman', 'GT-DDP Adam']
  tables.curves(
    tmp_path / 'curves.png', [tables.Curve(t, [rows(1.0)]) for t in titles]
  )
  looks = [
    (line.get_color(), line.get_linestyle()) for line in drawn[0].axes[0].lines
  ]
  assert len({*looks}) == len(titles)
  assert len({colour for colour, _ in looks[:3]}) == 1
