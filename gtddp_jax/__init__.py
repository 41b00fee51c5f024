"""Training neural networks as optimal control: GT-DDP for JAX.

``trace`` turns a network into a chain of stages; ``gt_ddp`` is the optimizer,
an optax transformation over a base (``sgd``, ``rmsprop``, ``adam``, or any).
"""

from gtddp_jax import errors
from gtddp_jax import losses
from gtddp_jax.curvature import Base
from gtddp_jax.curvature import adam
from gtddp_jax.curvature import rmsprop
from gtddp_jax.curvature import sgd
from gtddp_jax.graph import LayerGraph
from gtddp_jax.graph import Stage
from gtddp_jax.terminal import Expansion
from gtddp_jax.terminal import TerminalValue
from gtddp_jax.tracing import module_of
from gtddp_jax.tracing import trace
from gtddp_jax.transform import GtDdpState
from gtddp_jax.transform import gt_ddp
from gtddp_jax.transform import metrics

__version__ = '0.1.0'

__all__ = (
  'Base',
  'Expansion',
  'GtDdpState',
  'LayerGraph',
  'Stage',
  'TerminalValue',
  'adam',
  'errors',
  'gt_ddp',
  'losses',
  'metrics',
  'module_of',
  'rmsprop',
  'sgd',
  'trace',
)
