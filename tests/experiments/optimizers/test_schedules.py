"""Rates are optax's, and span the updates of a run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from configs import default
from experiments.optimizers import schedules


def rates(name: str, updates: int = 100, **keys: Any) -> list[float]:
  section = default.get_config().optimizer.schedule
  section.update(name=name, **keys)
  found = schedules.build(section, 0.8, updates)
  return [
    float(found(at) if callable(found) else found) for at in range(updates + 1)
  ]


def test_constant() -> None:
  assert set(rates('constant')) == {0.8}


def test_cosine() -> None:
  found = rates('cosine', final=0.25)
  np.testing.assert_allclose([found[0], found[50], found[100]], [0.8, 0.5, 0.2])
  assert found == sorted(found, reverse=True)


def test_warmup_cosine() -> None:
  found = rates('warmup_cosine', warmup=0.1, final=0.5)
  np.testing.assert_allclose(found[:11], 0.08 * np.arange(11), rtol=1e-6)
  np.testing.assert_allclose(found[-1], 0.4)
  assert max(found) == pytest.approx(0.8)


def test_piecewise() -> None:
  found = rates('piecewise', boundaries=(0.2, 0.6), factor=0.5)
  steps = [found[at] for at in (0, 19, 20, 59, 60, 100)]
  np.testing.assert_allclose(steps, [0.8, 0.8, 0.4, 0.4, 0.2, 0.2])


def test_few_updates() -> None:
  """Places that coincide each count; a warm-up leaves one update to decay."""
  found = rates('piecewise', 3, boundaries=(0.5, 0.75), factor=0.1)
  np.testing.assert_allclose(found, [0.8, 0.8, 0.008, 0.008], rtol=1e-6)
  for updates in (1, 2, 50):
    found = rates('warmup_cosine', updates, warmup=0.99, final=0.0)
    assert found[-1] == pytest.approx(0, abs=1e-6)
    assert max(found) == pytest.approx(0.8)


def test_all_have_a_test() -> None:
  assert {f'test_{name}' for name in schedules.SCHEDULES} <= set(globals())
