"""The chain linearised: trajectory, directions, per-sample gradients."""

from gtddp_jax.gradients.control import Player
from gtddp_jax.gradients.operator import (
  MEMORY,
  Inverse,
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
  'Directions',
  'EndToEnd',
  'Inverse',
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
  'trace',
  'verify',
)
