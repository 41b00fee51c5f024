"""``gt_ddp``: backward sweep and closed loop as an optax transformation.

One update is: linearise the network at the batch, expand the loss at the
outputs, propagate the directions, sweep backward (``bellman``), roll out
forward (``rollout``). Everything that lasts is in the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gtddp_jax import (
  bellman,
  coupled,
  curvature,
  errors,
  rollout,
  sensitivity,
  stagewise,
  trajectory,
  values,
)
from gtddp_jax import graph as graph_lib
from gtddp_jax import terminal as terminal_lib

Array = jax.Array

_LEVELS: Mapping[str, values.Level] = MappingProxyType(
  {
    'frozen': values.frozen,
    'bellman': bellman.bellman,
    'coupled': coupled.coupled,
  }
)
_TERMINALS: Mapping[str, terminal_lib.TerminalValue] = MappingProxyType(
  {
    'gradient': terminal_lib.gradient,
    'gauss_newton': terminal_lib.gauss_newton,
  }
)
_METRICS = MappingProxyType(
  {
    'loss': float('nan'),
    'gradient_norm': 0.0,
    'feedback_ratio': 0.0,
    'clipped_share': 0.0,
    'smallest_factor': 1.0,
  }
)


class GtDdpState(NamedTuple):
  """State of ``gt_ddp``.

  Attributes:
    base: the base optimizer's own state, as if it were used alone.
    measured: what ``metrics`` reads, float32 scalars.
    skipped_steps: number of non-finite steps so far, int32.
  """

  base: Any
  measured: dict[str, Array]
  skipped_steps: Array


class _Step(NamedTuple):
  """A candidate step: taken if it is finite."""

  updates: Any
  base_state: Any
  gradients: Any
  measured: dict[str, Array]


def gt_ddp(
  graph: graph_lib.LayerGraph,
  loss: terminal_lib.Loss,
  base: optax.GradientTransformation,
  terminal: str | terminal_lib.TerminalValue = 'gradient',
  value: str = 'frozen',
  cooperation: str = 'none',
  feedback: bool = True,
  trust_region: float | None = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Game-theoretic differential dynamic programming over a base optimizer.

  Every layer moves by its base optimizer's step along a re-weighted gradient,

  .. math:: \delta u_t = -Q_{uu}^{-1} \Big[\ell_u + \frac1B \sum_i \sum_r
            (d_i + S_i e_i)^r g_t^{i,r}\Big],

  where ``e_i`` is what the layers upstream have just changed for sample ``i``.
  The step is not linear in the learning rate, so the rate belongs in ``base``.

  Args:
    graph: the network, from ``trace``.
    loss: ``(outputs, targets) -> [B]``, see ``losses``.
    base: any optax transformation; a ``value`` other than 'frozen' needs one of
      ``sgd``, ``rmsprop``, ``adam`` of this library, which carry ``Q_uu``.
    terminal: value function at the outputs: 'gradient' (rank one),
      'gauss_newton' (the loss' exact Hessian), or a ``TerminalValue``.
    value: 'frozen' (only feedback), 'bellman' (the paper's recursion) or
      'coupled' (exact over the batch, with the Gauss-Newton term in ``Q_uu``).
    cooperation: 'none'; joint decisions need a Kronecker curvature.
    feedback: whether layers answer each other. Without it every ``Q_ux`` is
      zero, and the updates are the base's own at every ``value`` (Prop. 1, 4).
    trust_region: largest length of a sample's feedback ``S e`` (and of how far
      ``d`` may move), relative to the root mean square of ``d_T`` over the
      batch. None for no bound.

  Returns:
    A transformation whose ``update(grads_or_None, state, params, batch=(inputs,
    targets))`` takes None, or open-loop gradients to which it adds feedback.

  Raises:
    OptionError: for an option that has no meaning, or a base without ``Q_uu``.

  Examples:
    >>> import gtddp_jax as gt, jax.numpy as jnp, optax
    >>> params = {'a': {'w': jnp.eye(2)}, 'b': {'w': jnp.ones((2, 1))}}
    >>> net = lambda p, x: jnp.tanh(x @ p['a']['w']) @ p['b']['w']
    >>> x, y = jnp.ones((4, 2)), jnp.zeros((4, 1))
    >>> tx = gt.gt_ddp(gt.trace(net, params, x), gt.losses.squared_error,
    ...                gt.sgd(0.1))
    >>> state = tx.init(params)
    >>> updates, state = tx.update(None, state, params, batch=(x, y))
    >>> params = optax.apply_updates(params, updates)
  """
  _check(graph, base, value, cooperation, trust_region)
  if isinstance(terminal, str):
    errors.check_option('terminal', terminal, tuple(_TERMINALS))
    terminal = _TERMINALS[terminal]
  expand: terminal_lib.TerminalValue = terminal
  base = optax.with_extra_args_support(base)

  def init_fn(params: Any) -> GtDdpState:
    return GtDdpState(
      base.init(params),
      {name: jnp.float32(start) for name, start in _METRICS.items()},
      jnp.zeros((), jnp.int32),
    )

  def open_loop(
    grads: Any, state: GtDdpState, params: Any, batch: Any, extra: Any
  ) -> _Step:
    """The base alone."""
    inputs, targets = batch
    measured: dict[str, Array] = {}
    if grads is None:
      at_shape = graph.for_inputs(inputs)

      def mean_loss(p: Any) -> Array:
        outputs = at_shape(p, inputs)
        return jnp.mean(terminal_lib.per_sample(loss, outputs, targets))

      measured['loss'], grads = jax.value_and_grad(mean_loss)(params)
    updates, base_state = base.update(grads, state.base, params, **extra)
    return _Step(updates, base_state, grads, measured)

  def closed_loop(
    grads: Any, state: GtDdpState, params: Any, batch: Any, extra: Any
  ) -> _Step:
    """Backward sweep, then rollout."""
    inputs, targets = batch
    at_shape = graph.for_inputs(inputs)
    nominal = trajectory.linearize(at_shape, at_shape.flatten(params), inputs)
    losses = terminal_lib.per_sample(loss, nominal.outputs, targets)
    expansion = expand(loss, nominal.outputs, targets)
    directions = trajectory.propagate(nominal, expansion.directions)
    problem = values.Problem(
      terminal=values.Value(expansion.slope, expansion.curvature),
      sensitivities=[
        sensitivity.Sensitivity(at_shape, nominal, directions, t)
        for t in range(len(at_shape.stages))
      ],
      controls=[stage.control for stage in at_shape.stages],
      base=stagewise.Stagewise(base, state.base, params, extra),
      given=None if grads is None else jax.tree.leaves(grads),
      radius=_radius(trust_region, expansion.slope),
    )
    sweep = _LEVELS[value](problem)
    result = rollout.closed_loop(problem, sweep, nominal, directions)
    measured = {
      'loss': jnp.mean(losses),
      'feedback_ratio': result.feedback_ratio,
      'clipped_share': result.clipped_share,
      'smallest_factor': sweep.smallest_factor,
    }
    tree = jax.tree.structure(params)
    return _Step(
      jax.tree.unflatten(tree, result.updates),
      result.base_state,
      jax.tree.unflatten(tree, result.gradients),
      measured,
    )

  step = closed_loop if feedback else open_loop

  def update_fn(
    updates: Any,
    state: GtDdpState,
    params: Any = None,
    *,
    batch: tuple[Any, Any],
    **extra_args: Any,
  ) -> tuple[Any, GtDdpState]:
    if params is None:
      raise errors.ParameterTreeError(
        'gt_ddp needs the parameters: call update(grads, state, params, '
        'batch=(inputs, targets)).'
      )
    taken = step(updates, state, params, batch, extra_args)
    return _guarded(taken, state)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def metrics(state: Any) -> dict[str, Array]:
  """What the last update measured.

  Args:
    state: of ``gt_ddp``, or of anything that holds one such state.

  Returns:
    Scalars: ``loss`` (mean over the batch, at the old parameters; NaN where
    nothing computed it), ``gradient_norm`` (of the re-weighted gradient),
    ``feedback_ratio`` (RMS of the feedback weights ``S e`` over that of the
    open-loop weights ``d``, over samples and stages), ``clipped_share`` (of
    weights that the trust region shortened), ``smallest_factor`` (least
    factor by which a stage contracted ``S`` before clamping, for 'coupled' a
    lower bound of it; 1 where unused),
    ``skipped_steps`` (non-finite steps so far).

  Raises:
    OptionError: if there is not exactly one such state.
  """

  def is_ours(part: Any) -> bool:
    return isinstance(part, GtDdpState)

  found = [s for s in jax.tree.leaves(state, is_leaf=is_ours) if is_ours(s)]
  if len(found) != 1:
    raise errors.OptionError(
      f'metrics: expected a state that holds one gt_ddp state, got '
      f'{len(found)} of them in a {type(state).__name__}.'
    )
  return {**found[0].measured, 'skipped_steps': found[0].skipped_steps}


def _guarded(step: _Step, state: GtDdpState) -> tuple[Any, GtDdpState]:
  """Takes a step if it is finite; else changes nothing and counts it."""
  square = _poisoned_square(step.gradients, step.updates)
  finite = jnp.isfinite(square)
  if 'loss' in step.measured:
    finite &= jnp.isfinite(step.measured['loss'])
  updates, base = jax.lax.cond(
    finite,
    lambda: (step.updates, step.base_state),
    lambda: (jax.tree.map(jnp.zeros_like, step.updates), state.base),
  )
  measured = {**_METRICS, **step.measured, 'gradient_norm': jnp.sqrt(square)}
  skipped = state.skipped_steps + jnp.where(finite, 0, 1).astype(jnp.int32)
  return updates, GtDdpState(
    base,
    {name: jnp.asarray(measured[name], jnp.float32) for name in _METRICS},
    skipped,
  )


def _poisoned_square(gradients: Any, updates: Any) -> Array:
  """``|gradients|^2`` if the updates are finite, else NaN; one pass over both.

  The base's state is not looked at: some start from infinities on purpose.
  """

  def square(g: Array, u: Array) -> Array:
    wide = jnp.promote_types(g.dtype, jnp.float32)
    return jnp.square(g.astype(wide)) + 0 * u.astype(wide)

  leaves = jax.tree.leaves(jax.tree.map(square, gradients, updates))
  return jnp.sum(jnp.concatenate([leaf.ravel() for leaf in leaves]))


def _radius(trust_region: float | None, slope: Array) -> Array | None:
  if trust_region is None:
    return None
  mean_square = jnp.mean(jnp.sum(slope**2, axis=1))
  return trust_region * jnp.sqrt(mean_square)


def _check(
  graph: Any, base: Any, value: str, cooperation: str, trust_region: Any
) -> None:
  if not isinstance(graph, graph_lib.LayerGraph):
    raise errors.OptionError(
      f'graph: expected a LayerGraph, got {type(graph).__name__}. Make one '
      f'with trace(apply_fn, params, inputs).'
    )
  errors.check_option('value', value, tuple(_LEVELS))
  errors.check_option('cooperation', cooperation, ('none',))
  if value != 'frozen' and not isinstance(base, curvature.Base):
    raise errors.OptionError(
      f'value={value!r} needs a base with an explicit Q_uu: expected one of '
      f'sgd, rmsprop, adam of this library, got {type(base).__name__}. Use one '
      f"of them, or value='frozen', which lifts any optax transformation."
    )
  if trust_region is not None and not trust_region > 0:
    raise errors.OptionError(
      f'Invalid trust_region: got {trust_region!r}, expected a positive number '
      f'or None.'
    )
