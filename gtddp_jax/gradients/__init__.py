"""The chain linearised: trajectory, directions, per-sample gradients."""

from gtddp_jax.gradients.affine import Contraction, Factors
from gtddp_jax.gradients.control import Player
from gtddp_jax.gradients.loops import total_over_samples
from gtddp_jax.gradients.operator import (
  MEMORY,
  Inverse,
  OnFactors,
  Sensitivity,
  Wanted,
)
from gtddp_jax.gradients.packing import EndToEnd, Packing
from gtddp_jax.gradients.tracing import trace
from gtddp_jax.gradients.trajectory import (
  Directions,
  Trajectory,
  dot,
  kept,
  linearize,
  over_directions,
  propagate,
)
from gtddp_jax.gradients.verify import verify

__all__ = (
  'MEMORY',
  'Contraction',
  'Directions',
  'EndToEnd',
  'Factors',
  'Inverse',
  'OnFactors',
  'Packing',
  'Player',
  'Sensitivity',
  'Trajectory',
  'Wanted',
  'dot',
  'kept',
  'linearize',
  'over_directions',
  'propagate',
  'total_over_samples',
  'trace',
  'verify',
)
