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

    d = (I + S_T C)^-1 (d_T + S_T f)        S = L (I + L^T C L)^-1 L^T

What is factorised has no eigenvalue below one. Its diagonal is raised by the
size of the rounding errors in ``C``, and by more until its Cholesky factor
exists. ``rho I`` in the place of ``I`` is a damping that is ``rho`` times as
large. With ``y = d_T + S_T f = L z + y_0``, where no column of ``L`` reaches
``y_0``, and ``u`` in the place of ``z`` behind the stages::

    u = (rho I + L^T C L)^-1 (z - L^T C y_0 / rho)        d = L u + y_0 / rho

``u`` and so ``d`` are as exact as a solution by Cholesky, however small ``M``
is. A difference ``y - L (...)^-1 L^T C y`` would have the rounding errors of
``y``, which the step multiplies by ``eta``. What the linearised chain predicts
of the outcomes is ``e = f - C d``, and ``L^T e = rho u - z`` up to the part of
``z`` that is of ``f``.
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
from gtddp_jax import graph as graph_lib
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

  def without_feedback(self, problem: problem_lib.Problem) -> problem_lib.Sweep:
    """The sweep of an open loop: all stages use the value before the first.

    One factorisation instead of one for each stage; ``S`` is not read. What a
    base observes are open-loop control gradients.
    """
    with jax.default_matmul_precision('float32'):
      return _jointly(problem)


def _sweep(problem: problem_lib.Problem) -> problem_lib.Sweep:
  expansion = _Expansion.of(problem.terminal)
  slope = problem.terminal.slope
  moved = jnp.zeros_like(slope)  # f
  total = jnp.zeros((*slope.shape, *slope.shape), slope.dtype)  # C
  values: list[CoupledValue] = []
  smallest, outcome = jnp.ones(()), moved
  for operator in reversed(problem.operators):
    kernel, prior = _observed(problem, operator, slope)
    total += kernel
    moved += prior
    value, smallest, outcome = expansion.value(total, moved)
    slope = value.slope
    values.append(value)
  return problem_lib.Sweep(
    values[::-1], smallest, jnp.zeros(()), checked=0, outcome=outcome
  )


def _jointly(problem: problem_lib.Problem) -> problem_lib.Sweep:
  slope = problem.terminal.slope
  moved = jnp.zeros_like(slope)
  total = jnp.zeros((*slope.shape, *slope.shape), slope.dtype)
  for operator in problem.operators:
    kernel, prior = _observed(problem, operator, slope)
    total += kernel
    moved += prior
  value, smallest, outcome = _Expansion.of(problem.terminal).value(total, moved)
  return problem_lib.Sweep(
    [value] * len(problem.spans), smallest, jnp.zeros(()), 0, outcome
  )


def _observed(
  problem: problem_lib.Problem,
  operator: gradients_lib.Sensitivity,
  slope: Array,
) -> tuple[Array, Array | float]:
  """``N / B`` of a decision that sees ``d`` behind it, and its ``G k_0``."""
  q_u = problem_lib.control_gradient(problem, operator, slope)
  problem.curvature.observe(operator.control, slope, q_u)
  inverse = problem.curvature.inverse(operator.control)
  moved: Array | float = 0.0
  if problem.given is not None:
    moved = _of_rest(operator, slope, q_u, inverse)
  if problem.prior is not None:
    prior = graph_lib.pick(problem.prior, operator.control)
    moved += operator.directional(prior)
  return operator.kernel(inverse) / slope.shape[0], moved


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


class _Expansion(NamedTuple):
  """The terminal value function, split by what the columns of ``L`` reach.

  Attributes:
    terminal: ``d_T`` and ``S_T``.
    root: ``L``, ``[B, R, R]``; the columns of a sample are orthogonal.
    back: ``L^+``, ``[B, R, R]``; without columns that are too short, whose part
      of ``y`` counts as not reached.
  """

  terminal: problem_lib.Value
  root: Array
  back: Array

  @classmethod
  def of(cls, terminal: problem_lib.Value) -> _Expansion:
    """Factorises ``S_T``."""
    root = terminal_lib.square_root(terminal.curvature)
    square = jnp.sum(jnp.square(root), axis=1)  # of each column
    shortest = math.sqrt(jnp.finfo(root.dtype).eps) * jnp.max(square)
    reached = square > shortest
    inverse = jnp.where(reached, 1 / jnp.where(reached, square, 1), 0)
    return cls(terminal, root, inverse[:, :, None] * root.swapaxes(1, 2))

  def value(
    self, total: Array, moved: Array
  ) -> tuple[CoupledValue, Array, Array]:
    """The value function for ``C`` and ``f``.

    Returns:
      It, a lower bound of the factors by which ``S`` was contracted so far, and
      the predicted change of outcomes.
    """
    shape, times = moved.shape, problem_lib.on_rows
    y = self.terminal.slope + self.terminal.feedback(moved)
    z = times(self.back, y)
    rest = y - times(self.root, z)  # y_0
    inner = _weighed(self.root, total)
    factor, ridge = _factorised(inner)
    across = times(self.root.swapaxes(1, 2), _apply(total, rest))
    u = linalg.cho_solve((factor, True), (z - across / ridge).ravel())
    u = u.reshape(shape)
    slope = times(self.root, u) + rest / ridge
    # The part of e that the columns reach, and the rest of it.
    within = ridge * u - times(self.back, self.terminal.slope)
    change = moved - _apply(total, slope)
    reached = times(
      self.back.swapaxes(1, 2), times(self.root.swapaxes(1, 2), change)
    )
    found = times(self.back.swapaxes(1, 2), within)
    largest = ridge + jnp.max(jnp.sum(jnp.abs(inner), axis=1))
    value = CoupledValue(slope, self.root, factor)
    return value, 1 / largest, change - reached + found


def _apply(total: Array, rows: Array) -> Array:
  """``C`` times outcomes ``[B, R]``."""
  size = rows.size
  return (total.reshape(size, size) @ rows.ravel()).reshape(rows.shape)


def _weighed(root: Array, total: Array) -> Array:
  """``L^T C L``, ``[B R, B R]``."""
  batch, rank = root.shape[:2]
  size = batch * rank
  if rank == 1:  # two scalings, which no product of matrices is needed for
    column = root.reshape(size, 1)
    return column * total.reshape(size, size) * column.T
  inner = jnp.einsum('bri,brcs,csj->bicj', root, total, root)
  return inner.reshape(size, size)


_TRIES = 8


def _factorised(inner: Array) -> tuple[Array, Array]:
  """``F`` and ``rho`` with ``F F^T = rho I + inner``.

  ``rho`` is one, and as much more as rounding errors need.
  """
  size = len(inner)
  rounding = 2 * math.sqrt(size) * jnp.finfo(inner.dtype).eps
  least = rounding * jnp.max(jnp.diagonal(inner))
  identity = jnp.eye(size, dtype=inner.dtype)

  def failed(tried: tuple[Array, Array, Array]) -> Array:
    factor, _, count = tried
    return (count == 0) | (~jnp.isfinite(factor[-1, -1]) & (count < _TRIES))

  def larger(tried: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    _, _, count = tried
    ridge = 1 + least * 10.0**count
    factor = jax.lax.linalg.cholesky(
      inner + ridge * identity, symmetrize_input=False
    )
    return factor, ridge, count + 1

  start = (inner, 1 + least, jnp.zeros((), inner.dtype))
  start = graph_lib.cast(start, graph_lib.axes_of(inner))
  factor, ridge, _ = jax.lax.while_loop(failed, larger, start)
  return factor, ridge
