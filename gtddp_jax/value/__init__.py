"""The backward recursion on ``d`` and ``S``, and what it asks of a base."""

from gtddp_jax.value.bellman import Bellman
from gtddp_jax.value.coupled import Coupled
from gtddp_jax.value.problem import (
  Curvature,
  Problem,
  Sweep,
  Value,
  ValueRecursion,
  clip_rows,
  control_gradient,
)
from gtddp_jax.value.recursions import Frozen, recursion

__all__ = (
  'Bellman',
  'Coupled',
  'Curvature',
  'Frozen',
  'Problem',
  'Sweep',
  'Value',
  'ValueRecursion',
  'clip_rows',
  'control_gradient',
  'recursion',
)
