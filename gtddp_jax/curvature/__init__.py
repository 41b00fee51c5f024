"""``Q_uu`` and step of a base: diagonal, any optax one, or ``kronecker``."""

from gtddp_jax.curvature.diagonal import Base, adam, rmsprop, sgd
from gtddp_jax.curvature.kronecker import Statistics, ekfac, kfac
from gtddp_jax.curvature.levenberg_marquardt import levenberg_marquardt
from gtddp_jax.curvature.optax_base import lift
from gtddp_jax.curvature.protocol import (
  BaseOptimizer,
  BoundBase,
  Curvature,
  SizedCurvature,
  StepContext,
  Trial,
)
from gtddp_jax.curvature.soap import soap

__all__ = (
  'Base',
  'BaseOptimizer',
  'BoundBase',
  'Curvature',
  'SizedCurvature',
  'Statistics',
  'StepContext',
  'Trial',
  'adam',
  'ekfac',
  'kfac',
  'levenberg_marquardt',
  'lift',
  'rmsprop',
  'sgd',
  'soap',
)
