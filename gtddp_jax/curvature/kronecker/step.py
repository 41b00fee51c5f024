"""A Kronecker base, one decision at a time.

The curvature of a decision is observed from ``d`` at its place in the sweep;
those that no sweep observes are observed together. A step is then

    v = M^-1 g        du = -eta (momentum of v)

and controls without a Kronecker rule take the step of the diagonal base.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax

from gtddp_jax import gradients as gradients_lib
from gtddp_jax.curvature import optax_base
from gtddp_jax.curvature.kronecker import base as base_lib
from gtddp_jax.curvature.kronecker import block as block_lib
from gtddp_jax.curvature.kronecker import factors as factors_lib
from gtddp_jax.curvature.kronecker import inverse as inverse_lib
from gtddp_jax.curvature.kronecker import joint as joint_lib

Array = jax.Array
Arrays = tuple[jax.Array, ...]
Control = tuple[int, ...]
Inverse = inverse_lib.Rotated | joint_lib.Joint
T = TypeVar('T')


class Preconditioned:
  """See the module's head; a ``value.Decider``."""

  def __init__(
    self,
    bound: base_lib.Bound,
    state: base_lib.KroneckerState,
    params: Any,
    operators: Sequence[gradients_lib.Sensitivity],
    root: Array,
    given: Sequence[Array] | None,
  ):
    """Makes the decider of one step.

    Args:
      bound: the base.
      state: its state.
      params: pytree of parameters.
      operators: of all decisions.
      root: ``L`` of the terminal's ``S = L L^T``, ``[B, R, R]``.
      given: open-loop gradients of all leaves, or None.
    """
    self._bound, self._state = bound, state
    self._root, self._given = root, given
    self._operators = {o.control: o for o in operators}
    self._blocks: dict[Control, block_lib.Block] = {}
    self._inverses: dict[Control, Inverse] = {}
    self._directions: dict[int, Array] = {}  # v by flat parameter index
    self._shorter: Array = jnp.ones(())
    leaves = jax.tree.leaves(params)
    flat = [i for control in bound.layouts for i in control]
    self._place = {i: n for n, i in enumerate(flat)}
    self._rest = {i: n for n, i in enumerate(bound.others)}
    self._chain = optax_base.Stagewise(
      bound.chain, state.chain, bound.kept(leaves), {}
    )
    if bound.others:
      self._diagonal = optax_base.Stagewise(
        bound.settings.diagonal,
        state.diagonal,
        [leaves[i] for i in bound.others],
        {},
      )

  def observe(self, control: Control, slope: Array, q_u: Arrays) -> None:
    """See ``value.Decider``."""
    if control in self._bound.layouts:
      self._observe([control], slope)
    else:
      self._diagonal.observe(self._others(control), slope, q_u)

  def observe_rest(self, slope: Array) -> None:
    """See ``value.Decider``."""
    rest = [c for c in self._bound.layouts if c not in self._blocks]
    if rest:
      self._observe(rest, slope)
    bound = self._bound.settings.norm_constraint
    if bound is not None:
      self._shorter = self._bounded(slope, bound)

  def is_isotropic(self, control: Control) -> bool:
    """See ``value.Decider``."""
    layout = self._bound.layouts.get(control)
    if layout is None:
      return self._diagonal.is_isotropic(self._others(control))
    return not layout.corrected and len(layout.out) == 1

  def inverse(self, control: Control) -> gradients_lib.Inverse:
    """See ``value.Decider``."""
    if control not in self._bound.layouts:
      return self._diagonal.inverse(self._others(control))
    return self._inverses[control].times(self._rate())

  def step(self, control: Control, g: gradients_lib.Known) -> Arrays:
    """See ``value.Decider``."""
    if control not in self._bound.layouts:
      found = self._diagonal.step(self._others(control), self._of_rest(g))
      return found
    gradient = tuple(map(g, control))
    v = self._preconditioned(control, gradient)
    self._directions.update(
      (i, (self._shorter * x).astype(x.dtype))
      for i, x in zip(control, v, strict=True)
    )
    places = tuple(self._place[i] for i in control)
    return self._chain.step(places, self._direction)

  def finish(self, g: gradients_lib.Known) -> base_lib.KroneckerState:
    """See ``value.Decider``."""
    state = self._state
    diagonal = state.diagonal
    if self._bound.others:
      diagonal = self._diagonal.finish(self._of_rest(g))
    return base_lib.KroneckerState(
      optax.safe_increment(state.steps),
      tuple(self._blocks[control] for control in self._bound.layouts),
      self._chain.finish(self._direction),
      diagonal,
    )

  def _observe(self, controls: Sequence[Control], slope: Array) -> None:
    """Averages, renews and corrects the curvature of some decisions."""
    settings, count = self._bound.settings, self._state.steps
    statistics = settings.statistics
    all_blocks = zip(self._bound.layouts, self._state.blocks, strict=True)
    old = [block for control, block in all_blocks if control in controls]
    layouts = [self._bound.layouts[c] for c in controls]
    operators = [self._operators[c] for c in controls]
    mix = slope[..., None] if statistics.source == 'slope' else self._root
    decay = statistics.decay

    def measured() -> list[block_lib.Block]:
      k = factors_lib.renewals_before(count, statistics.every)
      result = []
      for layout, operator, block in zip(layouts, operators, old, strict=True):
        a, b = block_lib.measured(layout, operator, mix, statistics)
        a = block_lib.averaged(block.a, a, decay, k)
        b = block_lib.averaged(block.b, b, decay, k)
        result.append(block._replace(a=a, b=b))
      return block_lib.finite(result, old)

    blocks = _now_and_then(count, statistics.every, measured, old)

    def renewed() -> list[block_lib.Block]:
      return block_lib.finite(block_lib.renewed(layouts, blocks), blocks)

    blocks = _now_and_then(count, statistics.basis_every, renewed, blocks)
    for control, layout, operator, block in zip(
      controls, layouts, operators, blocks, strict=True
    ):
      if layout.corrected:
        block = block_lib.with_moment(
          layout, block, operator, mix, (decay, count)
        )
      self._blocks[control] = block
      self._inverses[control] = block_lib.inverse(
        layout, block, settings.damping
      )

  def _preconditioned(self, control: Control, gradient: Arrays) -> Arrays:
    """``M^-1 g``."""
    packing = self._operators[control].packing
    row = self._inverses[control].apply(packing.pack(gradient))
    return packing.unpack(row)

  def _bounded(self, slope: Array, bound: float) -> Array:
    """The factor that keeps ``eta^2 sum <Q_u, M^-1 Q_u>`` below its bound."""
    total = jnp.zeros(())
    for control in self._bound.layouts:
      if self._given is None:
        q_u = self._operators[control].combine(slope)
      else:
        q_u = tuple(self._given[i] for i in control)
      v = self._preconditioned(control, q_u)
      total += sum(jnp.vdot(a, b) for a, b in zip(q_u, v, strict=True))
    size = jnp.square(self._rate()) * total
    tiny = jnp.finfo(size.dtype).tiny
    return jnp.minimum(1, jnp.sqrt(bound / jnp.maximum(size, tiny)))

  def _rate(self) -> Array:
    """``eta``."""
    chain = self._bound.settings.learning_rate
    rate = optax.with_extra_args_support(optax.scale_by_learning_rate(chain))
    step, _ = rate.update(jnp.ones(()), self._state.chain[1])
    return -step

  def _direction(self, place: int) -> Array:
    control = [i for c in self._bound.layouts for i in c]
    return self._directions[control[place]]

  def _others(self, control: Control) -> Control:
    return tuple(self._rest[i] for i in control)

  def _of_rest(self, g: gradients_lib.Known) -> gradients_lib.Known:
    return lambda n: g(self._bound.others[n])


def _now_and_then(
  count: Array, every: int, renew: Callable[[], T], old: T
) -> T:
  """``renew()`` when it is due, else what was."""
  if every == 1:
    return renew()
  result: T = jax.lax.cond(factors_lib.is_due(count, every), renew, lambda: old)
  return result
