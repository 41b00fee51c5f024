"""One step: options, plan, forward pass, and the optax transformation."""

from gtddp_jax.optimizer.options import StepOptions
from gtddp_jax.optimizer.rollout import Plan, closed_loop
from gtddp_jax.optimizer.step import (
  UpdateCall,
  finished,
  linearized,
  open_loop,
)
from gtddp_jax.optimizer.transform import (
  GtDdpState,
  collections,
  gt_ddp,
  metrics,
  state_in,
)
from gtddp_jax.optimizer.verify import StepCheck, StepReport, verify_step

__all__ = (
  'GtDdpState',
  'Plan',
  'StepCheck',
  'StepOptions',
  'StepReport',
  'UpdateCall',
  'closed_loop',
  'collections',
  'finished',
  'gt_ddp',
  'linearized',
  'metrics',
  'open_loop',
  'state_in',
  'verify_step',
)
