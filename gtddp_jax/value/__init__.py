"""The backward recursion on ``d`` and ``S``, and what it asks of a base."""

from gtddp_jax.value.bellman import Bellman
from gtddp_jax.value.coupled import Coupled
from gtddp_jax.value.levels import Frozen, level
from gtddp_jax.value.problem import (
  Curvature,
  Level,
  Problem,
  Sweep,
  Value,
  open_gain,
  shorten,
)

__all__ = (
  'Bellman',
  'Coupled',
  'Curvature',
  'Frozen',
  'Level',
  'Problem',
  'Sweep',
  'Value',
  'level',
  'open_gain',
  'shorten',
)
