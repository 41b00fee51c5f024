"""Tables hold what they are given, and a figure shows something."""

from __future__ import annotations

import io
import pathlib

import numpy as np
import pytest
import rich.console
from matplotlib import image

from experiments import optimizers, report

COLUMNS = [
  report.Column('optimizer', '', ['SGD', 'GT-DDP SGD']),
  report.Column('step', 'ms', ['1.00', '1.50']),
]


def rows(scale: float, upto: int = 5) -> list[report.Row]:
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
  console.print(report.table(COLUMNS, 'a caption'))
  text = stream.getvalue()
  for word in ('optimizer', '(ms)', 'GT-DDP SGD', '1.50', 'a caption'):
    assert word in text


def test_a_table_is_whole_where_there_is_no_terminal(
  monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
  monkeypatch.setenv('COLUMNS', '80')
  cells = [f'{number}' * 30 for number in range(8)]
  wide = [report.Column(cell, 's', [cell]) for cell in cells]
  report.show(wide, 'a caption')
  lines = capsys.readouterr().out.splitlines()
  assert sum(all(cell in line for cell in cells) for line in lines) == 2
  assert any(line.strip() == 'a caption' for line in lines)


def test_markdown() -> None:
  assert report.markdown(COLUMNS, 'a caption').splitlines() == [
    '| optimizer | step (ms) |',
    '| :-- | --: |',
    '| SGD | 1.00 |',
    '| GT-DDP SGD | 1.50 |',
    '',
    'a caption',
  ]


def test_numbers() -> None:
  assert report.number(1.234, '.2f') == '1.23'
  assert report.number(None, '.2f') == '-'
  assert report.number(float('nan'), '.1e') == '-'
  assert report.spread([], '.2f') == '-'
  assert report.spread([1.0], '.1f') == '1.0'
  assert report.spread([1.0, 3.0], '.2f') == '2.00 ± 1.41'


@pytest.mark.parametrize(
  'curves',
  [
    [report.Curve('Adam', [rows(1.0)])],
    [
      report.Curve('SGD', [rows(1.0), rows(2.0, upto=3)]),
      report.Curve('GT-DDP SGD', [rows(0.5), rows(0.0)]),
      report.Curve('Adam', [[], rows(1.0)]),
    ],
  ],
  ids=['one', 'several'],
)
def test_a_figure_is_not_blank(
  curves: list[report.Curve], tmp_path: pathlib.Path
) -> None:
  path = tmp_path / 'curves.png'
  report.curves(path, curves)
  pixels = image.imread(path)[..., :3]
  assert min(pixels.shape[:2]) > 500
  assert np.mean(pixels < 0.5) > 0.01
  coloured = pixels.max(axis=-1) - pixels.min(axis=-1) > 0.3
  assert coloured.sum() > 500


def test_every_base_has_a_colour(tmp_path: pathlib.Path) -> None:
  titles = [kind.title for kind in optimizers.BASES.values()]
  report.curves(
    tmp_path / 'curves.png',
    [
      report.Curve(prefix + title, [rows(1.0)])
      for title in titles
      for prefix in ('', 'GT-DDP ')
    ],
  )
