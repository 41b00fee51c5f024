"""``kfac`` and ``ekfac``: ``Q_uu`` as a Kronecker product."""

from gtddp_jax.curvature.kronecker.base import (
  Bound,
  Kronecker,
  bind,
  ekfac,
  kfac,
)
from gtddp_jax.curvature.kronecker.factors import Statistics
from gtddp_jax.curvature.kronecker.step import Preconditioned

__all__ = (
  'Bound',
  'Kronecker',
  'Preconditioned',
  'Statistics',
  'bind',
  'ekfac',
  'kfac',
)
