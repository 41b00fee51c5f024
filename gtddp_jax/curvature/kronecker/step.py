"""A Kronecker base, one decision at a time.

The curvature of a decision is observed from ``d`` at its place in the sweep;
those that no sweep observes are observed together. A step is then

    v = M^-1 g        du = -eta (momentum of v)

and controls without a Kronecker rule take the step of the diagonal base.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

from gtddp_jax import gradients as gradients_lib
from gtddp_jax.curvature import diagonal, optax_base, protocol
from gtddp_jax.curvature.kronecker import block as block_lib
from gtddp_jax.curvature.kronecker import factors as factors_lib
from gtddp_jax.curvature.kronecker import groups as groups_lib
from gtddp_jax.curvature.kronecker import inverse as inverse_lib
from gtddp_jax.curvature.kronecker import joint as joint_lib

Array = jax.Array
Arrays = tuple[jax.Array, ...]
Control = tuple[int, ...]
Inverse = inverse_lib.EigenbasisInverse | joint_lib.Joint | groups_lib.Grouped
T = TypeVar('T')


class Settings(NamedTuple):
  """Arguments of ``kfac`` and ``ekfac``; ``ekfac`` says which of them."""

  learning_rate: diagonal.ScalarOrSchedule
  damping: float | Array
  momentum: float | None
  norm_constraint: float | None
  diagonal: diagonal.Base | None
  statistics: factors_lib.Statistics
  ekfac: bool


class KroneckerState(NamedTuple):
  """State of a bound base.

  Attributes:
    steps: so far, int32.
    blocks: of each decision with a Kronecker rule.
    chain: of momentum and learning rate, over the leaves of these decisions.
    diagonal: of the diagonal base, over all other leaves.
  """

  steps: Array
  blocks: tuple[block_lib.Block, ...]
  chain: Any
  diagonal: Any


class Parts(NamedTuple):
  """What a Kronecker base is made of on a network.

  Attributes:
    settings: of the base.
    layouts: by the control of a decision, for those with a Kronecker rule.
    others: flat indices of all other leaves.
    chain: momentum, then learning rate.
  """

  settings: Settings
  layouts: dict[Control, block_lib.Layout]
  others: Control
  chain: optax.GradientTransformationExtraArgs

  def kept(self, leaves: Sequence[Any]) -> list[Any]:
    """The leaves of the decisions with a Kronecker rule, in their order."""
    return [leaves[i] for control in self.layouts for i in control]

  def rest(self, leaves: Sequence[Any]) -> list[Any]:
    """All other leaves, in the order of ``others``."""
    return [leaves[i] for i in self.others]


class KroneckerCurvature:
  """``Q_uu`` and step of a Kronecker base during one step; a ``Curvature``."""

  def __init__(
    self,
    parts: Parts,
    state: KroneckerState,
    params: Any,
    context: protocol.StepContext,
  ):
    """Opens a step of the base made of ``parts``."""
    self._parts, self._state = parts, state
    self._root, self._given = context.root, context.given
    self._operators = {o.control: o for o in context.operators}
    self._blocks: dict[Control, block_lib.Block] = {}
    self._inverses: dict[Control, Inverse] = {}
    # By place among the leaves of decisions with a Kronecker rule: M^-1 g.
    self._preconditioned: dict[int, Array] = {}
    self._shorter: Array = jnp.ones(())
    leaves = jax.tree.leaves(params)
    kept = parts.kept(range(len(leaves)))
    self._place = {i: n for n, i in enumerate(kept)}
    self._other_place = {i: n for n, i in enumerate(parts.others)}
    self._chain = optax_base.OptaxCurvature(
      lambda g, _: parts.chain.update(g, state.chain, parts.kept(leaves)),
      parts.kept(leaves),
    )
    if parts.others:
      assert parts.settings.diagonal is not None
      self._diagonal = diagonal.DiagonalCurvature(
        parts.settings.diagonal, state.diagonal, parts.rest(leaves), {}
      )

  def observe(self, control: Control, slope: Array, q_u: Arrays) -> None:
    """See ``Curvature``."""
    if control in self._parts.layouts:
      self._observe([control], slope)
    else:
      self._diagonal.observe(self._others(control), slope, q_u)

  def observe_rest(self, slope: Array) -> None:
    """See ``Curvature``."""
    rest = [c for c in self._parts.layouts if c not in self._blocks]
    if rest:
      self._observe(rest, slope)
    bound = self._parts.settings.norm_constraint
    if bound is not None:
      self._shorter = self._bounded(slope, bound)

  def inverse(self, control: Control) -> gradients_lib.Inverse:
    """See ``Curvature``."""
    if control not in self._parts.layouts:
      return self._diagonal.inverse(self._others(control))
    return self._inverses[control].scaled(self._rate())

  def needed(self, control: Control) -> Sequence[int]:
    """See ``Curvature``."""
    if control in self._parts.layouts:
      return control
    places = self._diagonal.needed(self._others(control))
    return [self._parts.others[n] for n in places]

  def step(self, control: Control, gradients: Mapping[int, Array]) -> Arrays:
    """See ``Curvature``."""
    if control not in self._parts.layouts:
      return self._diagonal.step(
        self._others(control), self._of_others(gradients)
      )
    gradient = tuple(gradients[i] for i in control)
    places = tuple(self._place[i] for i in control)
    v = self._times_inverse(control, gradient)
    self._preconditioned.update(
      (n, (self._shorter * x).astype(x.dtype))
      for n, x in zip(places, v, strict=True)
    )
    return self._chain.step(places, self._preconditioned)

  def finish(self, gradients: Mapping[int, Array]) -> KroneckerState:
    """See ``Curvature``."""
    state = self._state
    of_diagonal = state.diagonal
    if self._parts.others:
      of_diagonal = self._diagonal.finish(self._of_others(gradients))
    return KroneckerState(
      optax.safe_increment(state.steps),
      tuple(self._blocks[control] for control in self._parts.layouts),
      self._chain.finish(self._preconditioned),
      of_diagonal,
    )

  def _observe(self, controls: Sequence[Control], slope: Array) -> None:
    """Averages, renews and corrects the curvature of some decisions."""
    settings, count = self._parts.settings, self._state.steps
    statistics = settings.statistics
    all_blocks = zip(self._parts.layouts, self._state.blocks, strict=True)
    old = [block for control, block in all_blocks if control in controls]
    layouts = [self._parts.layouts[c] for c in controls]
    operators = [self._operators[c] for c in controls]
    columns = slope[..., None]
    if statistics.source == 'curvature':
      assert self._root is not None
      columns = self._root
    decay = statistics.decay

    def measured() -> list[block_lib.Block]:
      k = factors_lib.renewals_before(count, statistics.every)
      result = []
      for layout, operator, block in zip(layouts, operators, old, strict=True):
        a, b = block_lib.measured(layout, operator, columns, statistics)
        a = block_lib.averaged(block.a, a, decay, k)
        b = block_lib.averaged(block.b, b, decay, k)
        result.append(block._replace(a=a, b=b))
      return block_lib.finite(layouts, result, old)

    blocks = _now_and_then(count, statistics.every, measured, old)

    def renewed() -> list[block_lib.Block]:
      new = block_lib.renewed(layouts, blocks)
      return block_lib.finite(layouts, new, blocks)

    blocks = _now_and_then(count, statistics.basis_every, renewed, blocks)
    for control, layout, operator, block in zip(
      controls, layouts, operators, blocks, strict=True
    ):
      if layout.ekfac:
        block = block_lib.with_moment(
          layout, block, operator, columns, (decay, count)
        )
      self._blocks[control] = block
      self._inverses[control] = block_lib.inverse(
        layout, block, settings.damping
      )

  def _times_inverse(self, control: Control, gradient: Arrays) -> Arrays:
    """``M^-1 g``."""
    packing = self._operators[control].packing
    row = self._inverses[control].apply(packing.pack(gradient))
    return packing.unpack(row)

  def _bounded(self, slope: Array, bound: float) -> Array:
    """The factor that keeps ``eta^2 sum <Q_u, M^-1 Q_u>`` below its bound."""
    total = jnp.zeros(())
    for control in self._parts.layouts:
      if self._given is None:
        q_u = self._operators[control].combine(slope)
      else:
        q_u = tuple(self._given[i] for i in control)
      v = self._times_inverse(control, q_u)
      total += sum(jnp.vdot(a, b) for a, b in zip(q_u, v, strict=True))
    size = jnp.square(self._rate()) * total
    tiny = jnp.finfo(size.dtype).tiny
    return jnp.minimum(1, jnp.sqrt(bound / jnp.maximum(size, tiny)))

  def _rate(self) -> Array:
    """``eta``."""
    chain = self._parts.settings.learning_rate
    rate = optax.with_extra_args_support(optax.scale_by_learning_rate(chain))
    step, _ = rate.update(jnp.ones(()), self._state.chain[1])
    return -step

  def _others(self, control: Control) -> Control:
    return tuple(self._other_place[i] for i in control)

  def _of_others(self, gradients: Mapping[int, Array]) -> dict[int, Array]:
    """Gradients by their place among the other leaves."""
    pairs = enumerate(self._parts.others)
    return {n: gradients[i] for n, i in pairs if i in gradients}


def _now_and_then(
  count: Array, every: int, renew: Callable[[], T], old: T
) -> T:
  """``renew()`` when it is due, else what was."""
  if every == 1:
    return renew()
  result: T = jax.lax.cond(factors_lib.is_due(count, every), renew, lambda: old)
  return result
