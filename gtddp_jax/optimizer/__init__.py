"""One step: options, plan, forward pass, and the optax transformation."""

from gtddp_jax.optimizer.rollout import Plan, Rollout, closed_loop
from gtddp_jax.optimizer.step import Given, Recipe, open_loop, planned
from gtddp_jax.optimizer.transform import (
  GtDdpState,
  collections,
  gt_ddp,
  metrics,
  recipe,
  state_in,
)

__all__ = (
  'Given',
  'GtDdpState',
  'Plan',
  'Recipe',
  'Rollout',
  'closed_loop',
  'collections',
  'gt_ddp',
  'metrics',
  'open_loop',
  'planned',
  'recipe',
  'state_in',
)
