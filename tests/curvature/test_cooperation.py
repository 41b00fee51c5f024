"""Joint updates of players, against dense matrices."""

from __future__ import annotations

from typing import Any

import kronecker_games as games
import pytest
from kronecker_cases import (
  compare,
)

pytestmark = pytest.mark.once

CURVATURE = {'terminal': 'gauss_newton', 'source': 'curvature'}


@pytest.mark.parametrize(
  ('cooperation', 'value'),
  [
    ('kronecker', 'bellman'),
    ('kronecker', 'coupled'),
    ('schur', 'frozen'),
    ('schur', 'coupled'),
  ],
)
def test_ekfac_with_feedback_is_the_dense_recursion(
  cooperation: str, value: str
) -> None:
  """A joint decision is one control at one cut."""
  options: dict[str, Any] = {'value': value, 'tolerance': 1e-8}
  if value == 'coupled':
    options |= CURVATURE
  compare(games.dense, 'ekfac', cooperation, **options)


@pytest.mark.parametrize(
  ('build', 'cooperation', 'value'),
  [
    (games.early, 'schur', 'bellman'),
    (games.three, 'kronecker', 'coupled'),
    (games.coincident, 'schur', 'bellman'),
  ],
)
def test_kfac_with_feedback_is_the_dense_recursion(
  build: Any, cooperation: str, value: str
) -> None:
  compare(
    build, 'kfac', cooperation, value=value, momentum=0.5, damping=1.0,
    tolerance=1e-8,
  )  # fmt: skip


@pytest.mark.parametrize(
  ('build', 'kind', 'cooperation'),
  [
    (games.three, 'ekfac', 'kronecker'),
    (games.three, 'kfac', 'schur'),
    (games.convolutions, 'ekfac', 'kronecker'),
    (games.coincident, 'ekfac', 'schur'),
  ],
)
def test_without_feedback_it_is_the_dense_solve(
  build: Any, kind: str, cooperation: str
) -> None:
  compare(
    build, kind, cooperation, feedback=False, momentum=0.5, damping=1e-2,
    tolerance=1e-8,
  )  # fmt: skip


def test_aligned_convolutions_with_feedback_are_the_dense_recursion() -> None:
  compare(
    games.convolutions, 'ekfac', 'schur', value='bellman', positions='reduce',
    tolerance=1e-8,
  )  # fmt: skip
