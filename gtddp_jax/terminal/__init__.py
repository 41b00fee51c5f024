"""The loss at the outputs as ``(Z, d, S)``: exact, or in fewer directions."""

from gtddp_jax.terminal.exact import gauss_newton, gradient, is_uniform, named
from gtddp_jax.terminal.expansion import (
  Expansion,
  Loss,
  TerminalValue,
  check,
  on_rows,
  sample_losses,
  square_root,
  with_gradient,
)
from gtddp_jax.terminal.low_rank import (
  refuse_factory,
  sampled,
  subset,
  truncated,
)

__all__ = (
  'Expansion',
  'Loss',
  'TerminalValue',
  'check',
  'gauss_newton',
  'gradient',
  'is_uniform',
  'named',
  'on_rows',
  'refuse_factory',
  'sample_losses',
  'sampled',
  'square_root',
  'subset',
  'truncated',
  'with_gradient',
)
