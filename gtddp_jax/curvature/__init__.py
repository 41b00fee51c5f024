"""``Q_uu`` and step of a base: diagonal, any optax one, or ``kronecker``."""

from gtddp_jax.curvature.diagonal import Base, adam, rmsprop, sgd
from gtddp_jax.curvature.kronecker import (
  Bound,
  Kronecker,
  Preconditioned,
  Statistics,
  bind,
  ekfac,
  kfac,
)
from gtddp_jax.curvature.optax_base import Stagewise

__all__ = (
  'Base',
  'Bound',
  'Kronecker',
  'Preconditioned',
  'Stagewise',
  'Statistics',
  'adam',
  'bind',
  'ekfac',
  'kfac',
  'rmsprop',
  'sgd',
)
