"""Training neural networks as optimal control: GT-DDP for JAX.

``trace`` turns a network into a chain of stages; ``gt_ddp`` is the optimizer,
an optax transformation over a base (``sgd``, ``rmsprop``, ``adam``, or any).
"""

from gtddp_jax import analysis, errors, losses
from gtddp_jax.curvature import (
  Base,
  Statistics,
  adam,
  ekfac,
  kfac,
  levenberg_marquardt,
  rmsprop,
  sgd,
  soap,
)
from gtddp_jax.gradients import trace
from gtddp_jax.graph import LayerGraph, Stage, module_of
from gtddp_jax.optimizer import (
  GtDdpState,
  collections,
  gt_ddp,
  metrics,
  verify_step,
)
from gtddp_jax.terminal import (
  Expansion,
  TerminalValue,
  sampled,
  subset,
  truncated,
)
from gtddp_jax.value import Bellman, Coupled

__version__ = '0.1.0'

__all__ = (
  'Base',
  'Bellman',
  'Coupled',
  'Expansion',
  'GtDdpState',
  'LayerGraph',
  'Stage',
  'Statistics',
  'TerminalValue',
  'adam',
  'analysis',
  'collections',
  'ekfac',
  'errors',
  'gt_ddp',
  'kfac',
  'levenberg_marquardt',
  'losses',
  'metrics',
  'module_of',
  'rmsprop',
  'sampled',
  'sgd',
  'soap',
  'subset',
  'trace',
  'truncated',
  'verify_step',
)
