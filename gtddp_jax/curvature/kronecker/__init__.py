"""``kfac`` and ``ekfac``: ``Q_uu`` as a Kronecker product."""

from gtddp_jax.curvature.kronecker.base import ekfac, kfac
from gtddp_jax.curvature.kronecker.factors import Statistics

__all__ = ('Statistics', 'ekfac', 'kfac')
