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
from gtddp_jax.optimizer.verify import StepCheck, StepReport, verify_step

__all__ = (
  'Given',
  'GtDdpState',
  'Plan',
  'Recipe',
  'Rollout',
  'StepCheck',
  'StepReport',
  'closed_loop',
  'collections',
  'gt_ddp',
  'metrics',
  'open_loop',
  'planned',
  'recipe',
  'state_in',
  'verify_step',
)
