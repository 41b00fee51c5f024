"""The picture of docs/method.md is drawn from the library's own steps."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from scripts import method_figure

pytestmark = pytest.mark.once

RATE = 0.1
# u_0 x = 1, u_1 = 2; gradients 4 and 1, times what each form makes of them.
BY_HAND = {
  'SGD': (0.4, 0.1),
  'frozen': (0.4, -0.06),
  'bellman': (0.36, -0.044),
  'coupled': (0.4 / 2.7, 0.1 / 2.7),
}


@pytest.mark.parametrize('form', method_figure.VARIANTS)
def test_the_losses_are_those_by_hand(form: str) -> None:
  first, last = BY_HAND[form]
  output = (0.5 - first) * 2 * (2 - last)
  (loss,) = method_figure.losses(form, [RATE])
  np.testing.assert_allclose(loss, (output - 1) ** 2 / 2, rtol=1e-5)


def test_it_draws(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(
    method_figure, 'losses', lambda form, rates: np.asarray(rates)
  )
  method_figure.draw(tmp_path / 'method.png')
  assert (tmp_path / 'method.png').read_bytes().startswith(b'\x89PNG')
