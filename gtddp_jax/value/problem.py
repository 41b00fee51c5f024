"""Value functions on a few numbers per sample, and what a sweep works on.

At every cut the value function of sample ``i`` stays in the span of the
back-propagated directions, ``V_x = P d`` and ``V_xx = P S P^T``, so that every
backward recursion runs on ``d`` and ``S`` alone. Of the
value recursions, ``frozen`` keeps both at their terminal values, ``bellman`` is
block-diagonal over the batch, ``coupled`` is exact over the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from gtddp_jax import gradients as gradients_lib

Array = jax.Array
Arrays = tuple[jax.Array, ...]


class ValueFunction(Protocol):
  """A value function in the span of the directions."""

  @property
  def slope(self) -> Array:
    """``d``, ``[B, R]``."""

  def feedback(self, e: Array) -> Array:
    """``S e``: how the weights change with the outcomes; ``[B, R]``."""


class Value(NamedTuple):
  """A value function without cross-sample blocks.

  Attributes:
    slope: ``d``, ``[B, R]``.
    curvature: ``S``, ``[B, R, R]``.
  """

  slope: Array
  curvature: Array

  def feedback(self, e: Array) -> Array:
    """``S e``, ``[B, R]``."""
    return on_rows(self.curvature, e)


class Sweep(NamedTuple):
  """What the backward sweep leaves for the rollout.

  Attributes:
    values: per decision, the value function whose ``d + S e`` weighs its
      samples.
    smallest_factor: least factor by which a stage contracts ``S``, before
      clamping.
    clipped: how many slopes the trust region shortened.
    checked: how many it could have shortened.
    outcome: change of the outcomes ``[B, R]`` that the linearised chain
      predicts for the whole step; None where a recursion does not know it.
  """

  values: Sequence[ValueFunction]
  smallest_factor: Array
  clipped: Array
  checked: int
  outcome: Array | None = None


class Curvature(Protocol):
  """What a recursion asks of a base optimizer, one control at a time."""

  def observe(
    self, control: tuple[int, ...], slope: Array, q_u: Arrays
  ) -> None:
    """Takes the curvature of a control from ``d`` and ``Q_u`` there."""

  def observe_rest(self, slope: Array) -> None:
    """Takes the curvature of all others from ``d``; ends the recursion."""

  def inverse(self, control: tuple[int, ...]) -> gradients_lib.Inverse:
    """``Q_uu^-1`` of a control that was observed."""

  def step(
    self, control: tuple[int, ...], gradients: Mapping[int, Array]
  ) -> Arrays:
    """The base's step of one control along its gradients, by flat index."""


class Problem(NamedTuple):
  """What a value recursion works on.

  Attributes:
    terminal: the value function at the outputs.
    operators: one operator per decision.
    spans: the stages of each decision.
    curvature: ``Q_uu`` and step of the base optimizer.
    given: open-loop gradients by flat index that replace ``combine(d_T)``, or
      None.
    radius: largest allowed ``|d - d_T|`` of a sample, or None.
    prior: ``k_0``, the step of each leaf, by flat index, that a cost of the
      controls alone asks for, ``k_0 = -Q_uu^-1 l_u``; None for no such cost.
  """

  terminal: Value
  operators: Sequence[gradients_lib.Sensitivity]
  spans: Sequence[range]
  curvature: Curvature
  given: Sequence[Array] | None
  radius: Array | None
  prior: Arrays | None = None


class ValueRecursion(Protocol):
  """How ``d`` and ``S`` are taken from the outputs back.

  Attributes:
    needs_curvature: whether it asks for ``Q_uu``.
    trust_region: the bound of feedback unless the user says another; None for a
      recursion whose step is bounded by what it expects of the batch.
  """

  @property
  def needs_curvature(self) -> bool:
    """See the attributes."""

  @property
  def trust_region(self) -> float | None:
    """See the attributes."""

  def wanted(self, n: int) -> gradients_lib.Wanted:
    """The product, and its memory, that is asked of the ``n``-th decision."""

  def __call__(self, problem: Problem) -> Sweep:
    """Sweeps backward."""


# With it, variants of SGD were stable up to the rates at which SGD is, whatever
# the scale of the loss; without, they diverged at a third of them.
BOUND = 0.3


def matmul(left: Array, right: Array) -> Array:
  """Product of matrices ``[..., R, R]``, one by one."""
  if left.shape[-1] == 1:  # products of numbers join their neighbours' kernel
    return left * right
  return left @ right


def on_rows(matrices: Array, rows: Array) -> Array:
  """Matrices ``[B, R, R]`` times rows ``[B, R]``, one by one."""
  return matmul(matrices, rows[..., None])[..., 0]


def control_gradient(
  problem: Problem, operator: gradients_lib.Sensitivity, weights: Array
) -> Arrays:
  """``Q_u`` for sample weights; on top of the given gradients, if any."""
  if problem.given is None:
    return operator.combine(weights)
  more = operator.combine(weights - problem.terminal.slope)
  pairs = zip(operator.control, more, strict=True)
  # Those given may be wider than the parameters, as accumulated ones are.
  return tuple((problem.given[i] + g).astype(g.dtype) for i, g in pairs)


def clip_rows(weights: Array, radius: Array | None) -> tuple[Array, Array]:
  """Scales the rows of ``[B, R]`` to length ``radius`` at most.

  Returns:
    The rows, and how many of them were longer.
  """
  if radius is None:
    return weights, jnp.zeros(())
  norms = jnp.linalg.norm(weights, axis=1, keepdims=True)
  tiny = jnp.finfo(norms.dtype).tiny  # a batch without slope has radius 0
  factors = jnp.where(norms > radius, radius / jnp.maximum(norms, tiny), 1)
  return weights * factors, jnp.sum(norms > radius).astype(jnp.float32)
