"""The Bellman backward sweep, on a few numbers per sample.

At every cut the value function of sample ``i`` stays in the span of the
back-propagated directions, ``V_x = P d`` and ``V_xx = P S P^T``, so that the
recursion runs on ``d`` in R^R and ``S`` in R^(R x R) alone. ``frozen`` keeps
both at their terminal values. ``bellman`` is block-diagonal dynamic programming
with ``Q_uu`` taken from the base optimizer, backward over the stages::

    Q_u = l_u + combine(d)            k = -Q_uu^-1 Q_u
    d  <- d + S (g . k)               N = g . Q_uu^-1 g
    S  <- S - S N S / B  =  L (I - L^T N L / B)_+ L^T,    S = L L^T

``(.)_+`` keeps the factor positive semi-definite: nothing else would, since
``Q_uu`` need not dominate the Gauss-Newton term.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax import sensitivity
from gtddp_jax import stagewise as stagewise_lib

Array = jax.Array
Arrays = tuple[jax.Array, ...]


class Value(NamedTuple):
  """The value function after a stage, in the span of the directions.

  Attributes:
    slope: ``d``, ``[B, R]``.
    curvature: ``S``, ``[B, R, R]``.
  """

  slope: Array
  curvature: Array


class Sweep(NamedTuple):
  """What the backward sweep leaves for the rollout.

  Attributes:
    values: the value function after each stage.
    observed: ``Q_u`` of each leaf, by flat parameter index; the curvature of
      the base is taken from it. Empty if the level needs no curvature.
    smallest_factor: least eigenvalue of ``I - L^T N L / B`` before clamping.
    clipped: how many slopes the trust region shortened.
    checked: how many it could have shortened.
  """

  values: Sequence[Value]
  observed: dict[int, Array]
  smallest_factor: Array
  clipped: Array
  checked: int


class Problem(NamedTuple):
  """What a level of the recursion works on.

  Attributes:
    terminal: the value function at the outputs.
    sensitivities: one operator per stage.
    controls: flat parameter indices of each stage's control.
    base: the base optimizer, one stage at a time.
    given: open-loop gradients by flat index that replace ``combine(d_T)``, or
      None.
    radius: largest allowed ``|d - d_T|`` of a sample, or None.
  """

  terminal: Value
  sensitivities: Sequence[sensitivity.Sensitivity]
  controls: Sequence[tuple[int, ...]]
  base: stagewise_lib.Stagewise
  given: Sequence[Array] | None
  radius: Array | None


Level = Callable[[Problem], Sweep]


def frozen(problem: Problem) -> Sweep:
  """Keeps the terminal value function: only the feedback acts."""
  return Sweep(
    [problem.terminal] * len(problem.controls),
    {},
    jnp.ones(()),
    jnp.zeros(()),
    checked=0,
  )


def bellman(problem: Problem) -> Sweep:
  """The paper's recursion, block-diagonal over the batch."""
  slope, curvature = problem.terminal
  root = _square_root(curvature)
  values = [problem.terminal]
  observed: dict[int, Array] = {}
  smallest, clipped = jnp.ones(()), jnp.zeros(())
  # The first stage ends the sweep: nobody upstream reads its value function.
  for t in range(len(problem.controls) - 1, 0, -1):
    operator, control = problem.sensitivities[t], problem.controls[t]
    operator.keep()
    q_u = open_gain(problem, operator, control, slope)
    observed.update(zip(control, q_u, strict=True))
    k = problem.base.step(control, observed.__getitem__, observed.__getitem__)
    gram = operator.gram(
      functools.partial(problem.base.solve, control, q=observed.__getitem__)
    )
    move = jnp.einsum('brs,bs->br', curvature, operator.directional(k))
    moved, shortened = shorten(
      slope + move - problem.terminal.slope, problem.radius
    )
    slope = problem.terminal.slope + moved
    clipped += shortened
    root, least = _contract(root, gram / gram.shape[0])
    curvature = jnp.einsum('bri,bsi->brs', root, root)
    smallest = jnp.minimum(smallest, least)
    values.append(Value(slope, curvature))
  checked = slope.shape[0] * (len(values) - 1)
  return Sweep(values[::-1], observed, smallest, clipped, checked)


def open_gain(
  problem: Problem,
  operator: sensitivity.Sensitivity,
  control: tuple[int, ...],
  weights: Array,
) -> Arrays:
  """``Q_u`` for sample weights; on top of the given gradients, if any."""
  if problem.given is None:
    return operator.combine(weights)
  more = operator.combine(weights - problem.terminal.slope)
  return tuple(problem.given[i] + g for i, g in zip(control, more, strict=True))


def shorten(weights: Array, radius: Array | None) -> tuple[Array, Array]:
  """Scales the rows of ``[B, R]`` to length ``radius`` at most.

  Returns:
    The rows, and how many of them were longer.
  """
  if radius is None:
    return weights, jnp.zeros(())
  norms = jnp.linalg.norm(weights, axis=1, keepdims=True)
  factors = jnp.minimum(1, radius / jnp.maximum(norms, radius))
  return weights * factors, jnp.sum(norms > radius).astype(jnp.float32)


def _square_root(matrices: Array) -> Array:
  """``L`` with ``S = L L^T`` for positive semi-definite ``[B, R, R]``."""
  if matrices.shape[-1] == 1:
    return jnp.sqrt(jnp.maximum(matrices, 0))
  values, vectors = jnp.linalg.eigh(matrices)
  return vectors * jnp.sqrt(jnp.maximum(values, 0))[:, None, :]


def _contract(root: Array, gram: Array) -> tuple[Array, Array]:
  """``L (I - L^T N L / B)_+^(1/2)`` and the least eigenvalue of the factor."""
  inner = jnp.einsum('bri,brs,bsj->bij', root, gram, root)
  if root.shape[-1] == 1:
    factor = 1 - inner
    return root * jnp.sqrt(jnp.maximum(factor, 0)), jnp.min(factor)
  values, vectors = jnp.linalg.eigh(inner)
  factor = 1 - values
  scaled = (root @ vectors) * jnp.sqrt(jnp.maximum(factor, 0))[:, None, :]
  return scaled, jnp.min(factor)
