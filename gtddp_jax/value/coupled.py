"""The exact recursion over the batch, with the Gauss-Newton term in ``Q_uu``.

With ``G`` the ``(B R) x |u|`` matrix of per-sample gradients, ``d`` one vector
and ``S`` one matrix over all samples and directions, and ``Q_uu = M / eta +
G^T S G / B`` (Levenberg-Marquardt with damping ``M / eta``)::

    N = G (M / eta)^-1 G^T            A = I + S N / B
    d <- A^-1 (d + S G k_0)           S <- A^-1 S
    du = -(M / eta)^-1 (l_u + G^T (d + S e) / B)          with the new d and S

where ``k_0 = -(M / eta)^-1 l_u``. It equals batch-augmented dynamic programming
without its ``(B n)^2`` matrices. ``S^-1`` grows by ``N / B`` at each stage, so
the recursion needs no product of large matrices: with ``C`` the sum of
``N / B`` and ``f`` that of ``G k_0`` over the stages so far, ``S_T = L L^T``::

    d = (I + S_T C)^-1 (d_T + S_T f)  =  y - L (I + L^T C L)^-1 L^T C y
    S = L (I + L^T C L)^-1 L^T                                y = d_T + S_T f

What is factorised has no eigenvalue below one. Its diagonal is raised by the
size of the rounding errors in ``C``, so that its Cholesky factor exists; should
it still not, the step is not finite and not taken.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy import linalg

from gtddp_jax import checks
from gtddp_jax import gradients as gradients_lib
from gtddp_jax import terminal as terminal_lib
from gtddp_jax.value import problem as problem_lib

Array = jax.Array
Arrays = tuple[jax.Array, ...]


class CoupledValue(NamedTuple):
  """A value function over the whole batch, ``S = L (F F^T)^-1 L^T``.

  Attributes:
    slope: ``d``, ``[B, R]``.
    root: ``L``, ``[B, R, R]``, one block per sample.
    factor: ``F``, ``[B R, B R]``, lower triangular.
  """

  slope: Array
  root: Array
  factor: Array

  def feedback(self, e: Array) -> Array:
    """``S e``, ``[B, R]``."""
    inner = jnp.einsum('bri,br->bi', self.root, e)
    solved = linalg.cho_solve((self.factor, True), inner.ravel())
    return jnp.einsum('bri,bi->br', self.root, solved.reshape(e.shape))


@dataclasses.dataclass(frozen=True)
class Coupled:
  """``value='coupled'`` with its options.

  Attributes:
    memory: bytes that per-sample gradients of one layer may take at once; what
      does not fit is formed in blocks of samples, again for each pair of
      blocks. The ``(B R)^2`` matrices are not counted.
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
    return None

  def wanted(self, n: int) -> gradients_lib.Wanted:
    """See ``ValueRecursion``."""
    del n
    return gradients_lib.Wanted('kernel', memory=self.memory)

  def __call__(self, problem: problem_lib.Problem) -> problem_lib.Sweep:
    """Sweeps backward; the weights of stage ``t`` use the value before it."""
    # What is factorised needs every digit of a float32.
    with jax.default_matmul_precision('float32'):
      return _sweep(problem)


def _sweep(problem: problem_lib.Problem) -> problem_lib.Sweep:
  root = terminal_lib.square_root(problem.terminal.curvature)
  first, slope = problem.terminal.slope, problem.terminal.slope
  total = jnp.zeros((*slope.shape, *slope.shape), slope.dtype)  # C
  values: list[CoupledValue] = []
  for operator in reversed(problem.operators):
    q_u = problem_lib.control_gradient(problem, operator, slope)
    problem.curvature.observe(operator.control, slope, q_u)
    inverse = problem.curvature.inverse(operator.control)
    if problem.given is not None:
      first += problem.terminal.feedback(
        _of_rest(operator, slope, q_u, inverse)
      )
    total += operator.kernel(inverse) / slope.shape[0]
    value, smallest = _value(root, total, first)
    slope = value.slope
    values.append(value)
  return problem_lib.Sweep(values[::-1], smallest, jnp.zeros(()), checked=0)


def _of_rest(
  operator: gradients_lib.Sensitivity,
  slope: Array,
  q_u: Arrays,
  inverse: gradients_lib.Inverse,
) -> Array:
  """``G k_0``: given gradients hold ``l_u`` beyond the batch's own."""
  own = operator.combine(slope)
  packing = operator.packing
  row = packing.pack(tuple(a - b for a, b in zip(own, q_u, strict=True)))
  k_0 = packing.unpack(inverse.apply(row, packing))
  return operator.directional(k_0)


def _value(
  root: Array, total: Array, first: Array
) -> tuple[CoupledValue, Array]:
  """The value function for ``L``, ``C`` and ``y``.

  Returns:
    It, and a lower bound of the factors by which ``S`` was contracted so far.
  """
  size = first.size
  inner = jnp.einsum('bri,brcs,csj->bicj', root, total, root)
  inner = inner.reshape(size, size)
  rounding = 2 * math.sqrt(size) * jnp.finfo(inner.dtype).eps
  ridge = 1 + rounding * jnp.max(jnp.diagonal(inner))
  inner += ridge * jnp.eye(size, dtype=inner.dtype)
  pending = CoupledValue(first, root, jnp.linalg.cholesky(inner))
  contracted = pending.feedback(jnp.einsum('brcs,cs->br', total, first))
  largest = jnp.max(jnp.sum(jnp.abs(inner), axis=1))
  return pending._replace(slope=first - contracted), 1 / largest
