"""What axes and lines of the figures show."""

from __future__ import annotations

import pytest
from matplotlib import figure

from experiments.report import charts

pytestmark = pytest.mark.once


def test_logarithmic_axes_have_plain_decimals_and_more_than_one() -> None:
  for low, high, labels in (
    (0.0038, 0.014, ['0.004', '0.006', '0.008', '0.01', '0.012', '0.014']),
    (0.02, 2.5, ['0.03', '0.1', '0.3', '1']),
    (0.95, 1.02, ['0.96', '0.98', '1', '1.02']),
    (0.0005, 20, ['0.001', '0.01', '0.1', '1', '10']),
  ):
    panel = figure.Figure().subplots()
    panel.set(yscale='log', ylim=(low, high))
    charts.plain_ticks(panel.yaxis)
    texts = [label.get_text() for label in panel.get_yticklabels()]
    assert texts == labels


def test_whiskers_end_at_the_least_and_the_largest_of_the_last_point() -> None:
  panel = figure.Figure().subplots()
  series = [[[3.0, 2.0], [1.0, 4.0], [2.0, 3.0]], [[5.0, 6.0], [5.0, 9.0]]]
  charts.draw_curves(panel, ['a', 'b'], series, 10, band=False)
  whiskers = [line for line in panel.lines if len(set(line.get_xdata())) == 1]
  assert [list(w.get_ydata()) for w in whiskers] == [[2.0, 4.0], [6.0, 9.0]]
  places = [w.get_xdata()[0] for w in whiskers]
  assert 20 < places[0] < places[1]
