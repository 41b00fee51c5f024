"""The Bellman recursion of the paper, block-diagonal over the batch.

``Q_uu`` is taken from the base optimizer. Backward over the stages::

    Q_u = l_u + combine(d)            k = -Q_uu^-1 Q_u
    d  <- d + S (g . k)               N = g . Q_uu^-1 g
    S  <- S - S N S / B  =  L (I - L^T N L / B)_+ L^T,    S = L L^T

``(.)_+`` keeps the factor positive semi-definite: nothing else would, since
``Q_uu`` need not dominate the Gauss-Newton term.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from gtddp_jax import checks
from gtddp_jax import gradients as gradients_lib
from gtddp_jax import terminal as terminal_lib
from gtddp_jax.value import problem as problem_lib

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Bellman:
  """``value='bellman'`` with its options.

  Attributes:
    memory: bytes that per-sample gradients of one layer may take at once; what
      does not fit is formed in blocks of samples, again for each use.
  """

  memory: int = gradients_lib.MEMORY

  def __post_init__(self) -> None:
    """Raises ``OptionError`` unless the memory is a positive integer."""
    checks.check_positive('memory (bytes)', self.memory)

  @property
  def needs_curvature(self) -> bool:
    """See ``ValueRecursion``."""
    return True

  @property
  def trust_region(self) -> float | None:
    """See ``ValueRecursion``."""
    return problem_lib.BOUND

  def wanted(self, n: int) -> gradients_lib.Wanted:
    """See ``ValueRecursion``; no stage reads the first value function."""
    product = 'gram' if n > 0 else None
    return gradients_lib.Wanted(product, memory=self.memory)

  def __call__(self, problem: problem_lib.Problem) -> problem_lib.Sweep:
    """Sweeps backward; the weights of stage ``t`` use the value after it."""
    slope, curvature = problem.terminal
    root = terminal_lib.square_root(curvature)
    values = [problem.terminal]
    factors, clipped = [jnp.ones(slope.shape)], jnp.zeros(())
    # The first stage ends the sweep: no stage is before it to read its value.
    for operator in reversed(problem.operators[1:]):
      control = operator.control
      q_u = problem_lib.control_gradient(problem, operator, slope)
      problem.curvature.observe(control, slope, q_u)
      k = problem.curvature.step(control, dict(zip(control, q_u, strict=True)))
      gram = operator.gram(problem.curvature.inverse(control))
      move = values[-1].feedback(operator.directional(k))
      moved, shortened = problem_lib.clip_rows(
        slope + move - problem.terminal.slope, problem.radius
      )
      slope = problem.terminal.slope + moved
      clipped += shortened
      root, factor = _contract(root, gram / gram.shape[0])
      curvature = problem_lib.matmul(root, root.swapaxes(1, 2))
      factors.append(factor)
      values.append(problem_lib.Value(slope, curvature))
    problem.curvature.observe_rest(slope)
    checked = slope.shape[0] * (len(values) - 1)
    smallest = jnp.min(jnp.stack(factors))
    return problem_lib.Sweep(values[::-1], smallest, clipped, checked)


def _contract(root: Array, gram: Array) -> tuple[Array, Array]:
  """``L (I - L^T N L / B)_+^(1/2)``, and that factor's eigenvalues."""
  matmul = problem_lib.matmul
  inner = matmul(matmul(root.swapaxes(1, 2), gram), root)
  if root.shape[-1] == 1:
    factor = 1 - inner
    return root * jnp.sqrt(jnp.maximum(factor, 0)), factor[..., 0]
  values, vectors = jnp.linalg.eigh(inner)
  factor = 1 - values
  scaled = (root @ vectors) * jnp.sqrt(jnp.maximum(factor, 0))[:, None, :]
  return scaled, factor
