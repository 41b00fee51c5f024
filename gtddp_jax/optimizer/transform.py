"""``gt_ddp``: game-theoretic DDP as an optax transformation.

Keeps the state, and guards it: a step that is not finite is not taken. What a
step is, is in ``step``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gtddp_jax import checks, errors
from gtddp_jax import graph as graph_lib
from gtddp_jax import terminal as terminal_lib
from gtddp_jax import value as value_lib
from gtddp_jax.optimizer import line_search
from gtddp_jax.optimizer import step as step_lib
from gtddp_jax.optimizer.options import StepOptions

Array = jax.Array

# What is measured by every update, and its value where nothing measures it.
_MEASURED = MappingProxyType(
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
    collections: of the network, as the last step left them; {} if it has none.
    measured: what ``metrics`` reads, float32 scalars.
    skipped_steps: number of non-finite steps so far, int32.
  """

  base: Any
  collections: Any
  measured: dict[str, Array]
  skipped_steps: Array


class GtDdp(optax.GradientTransformationExtraArgs):
  """What ``gt_ddp`` returns: the transformation, and what it was made of.

  Attributes:
    options: the arguments of ``gt_ddp``.
  """

  options: StepOptions

  def made_of(self, options: StepOptions) -> GtDdp:
    """The same with its options."""
    self.options = options
    return self

  def __reduce__(self) -> Any:
    """What copies are made of; a pair of functions is not all of it."""
    return _restored, (self.init, self.update, self.options)


def _restored(init: Any, update: Any, options: StepOptions) -> GtDdp:
  return GtDdp(init, update).made_of(options)


def gt_ddp(
  graph: graph_lib.LayerGraph,
  loss: terminal_lib.Loss,
  base: optax.GradientTransformation,
  terminal: str | terminal_lib.TerminalValue = 'gradient',
  value: str | value_lib.ValueRecursion = 'frozen',
  cooperation: str = 'none',
  feedback: bool = True,
  trust_region: float | str | None = 'auto',
) -> optax.GradientTransformationExtraArgs:
  r"""Game-theoretic differential dynamic programming over a base optimizer.

  Every layer takes its base's step along a gradient whose samples are weighed
  by what is left to do: ``e_i`` is what layers upstream have just changed,
  ``w_i = d_i + S_i e_i`` and ``du = -Q_uu^-1 (l_u + sum_i w_i g_i / B)``. The
  step is not linear in the learning rate, so the rate belongs in ``base``.

  Args:
    graph: the network, from ``trace``.
    loss: ``(outputs, targets) -> [B]``, see ``losses``.
    base: any optax transformation (keyword arguments that it needs are passed
      to ``update``); a ``value`` other than 'frozen' needs one that carries
      ``Q_uu``: ``sgd``, ``rmsprop``, ``adam``, ``soap``, ``kfac``, ``ekfac``
      of this library, or a ``Base`` of your own. ``levenberg_marquardt`` needs
      'coupled'.
    terminal: value function at the outputs: 'gradient' (rank one),
      'gauss_newton' (the loss' exact Hessian), ``sampled(m)``,
      ``truncated(r)``, ``subset(terminal, n)``, or a ``TerminalValue``.
    value: 'frozen' (only feedback), 'bellman' (the paper's recursion) or
      'coupled' (exact over the batch, with the Gauss-Newton term in ``Q_uu``);
      ``Bellman(memory)`` or ``Coupled(memory)`` bound their memory.
    cooperation: joint update of stages whose outputs meet in one add: 'none',
      'kronecker' (as one layer, Theorem 3) or 'schur' (the joint block
      system). Only elementwise work may stand between output and add: a
      normalization layer there disables the joint update. Needs ``kfac`` or
      ``ekfac``: the other bases have no curvature between players, so this
      changes nothing there, and a warning says so.
    feedback: whether layers react to the updates of those before them.
      Without it every ``Q_ux`` is zero, and the updates are the base's own at
      every ``value`` (Prop. 1, 4); those of ``levenberg_marquardt`` then are
      Gauss-Newton steps.
    trust_region: largest length of a sample's ``S e``, and of how far
      'bellman' moves its ``d``, in units of the batch's root mean square
      terminal ``d``, and so whatever the scale of the loss. 'auto' is 0.3, and
      no bound with 'coupled', which expects the change of the whole batch. None
      for the bare equations, which may diverge at rates that the base takes, to
      losses that are finite and so not skipped.

  Returns:
    A transformation whose ``update(grads_or_None, state, params, batch=(inputs,
    targets))`` takes None, or open-loop gradients to which it adds feedback.
    ``rngs={name: key}`` goes to the network and to the terminal.

  Raises:
    OptionError: for an option that has no meaning, or a base without ``Q_uu``.
  """
  options = StepOptions(
    graph, loss, base, terminal, value, cooperation, feedback, trust_region
  )
  return GtDdp(*_transformation(options)).made_of(options)


def _gradients(graph: graph_lib.LayerGraph, grads: Any) -> Any:
  """The gradients in the containers of the parameters.

  Raises:
    ParameterTreeError: unless there is one for every parameter.
  """
  if grads is None:
    return None
  found = checks.misfit(graph.params, grads, False)
  if found is not None:
    raise errors.ParameterTreeError(
      f'The gradients are not like the parameters: {found}. Give one for every '
      f'parameter (zeros where there is none), or None in place of all; to '
      f'freeze parameters, trace the others alone.'
    )
  return checks.like(graph.params, grads)


def _state(expected: GtDdpState, state: Any) -> GtDdpState:
  """The state in the containers that the optimizer made it of.

  Raises:
    OptionError: for the state of another optimizer.
  """
  found: str | None = f'got a {type(state).__name__}'
  if isinstance(state, GtDdpState):
    found = checks.misfit(
      {'base': expected.base, 'collections': expected.collections},
      {'base': state.base, 'collections': state.collections},
      dtypes=False,
    )
  if found is not None:
    raise errors.OptionError(
      f'The state is not one of this optimizer: {found}. Make one with '
      f'init(params); give a checkpoint the structure of that state when it is '
      f'restored.'
    )
  found_state: GtDdpState = checks.like(expected, state)
  return found_state


def _check_call(
  params: Any, batch: Any, rngs: Any, extra_args: Mapping[str, Any]
) -> None:
  """Raises an error for arguments of ``update`` that are not as expected."""
  if params is None:
    raise errors.ParameterTreeError(
      'gt_ddp needs the parameters: call update(grads, state, params, '
      'batch=(inputs, targets)).'
    )
  if batch is None:
    raise errors.OptionError(
      'gt_ddp needs the batch: call update(grads, state, params, '
      'batch=(inputs, targets)). A wrapper that calls update(grads, state, '
      'params), such as TrainState.apply_gradients, cannot hand it on.'
      + _meant('batch', extra_args)
    )
  pair: Any = batch
  if not isinstance(pair, (tuple, list)) or len(pair) != 2:
    raise errors.OptionError(
      f'Invalid batch: got a {type(pair).__name__}, expected the pair '
      f'(inputs, targets).'
    )
  if not isinstance(rngs, Mapping):
    raise errors.OptionError(
      f'Invalid rngs: got a {type(rngs).__name__}, expected a dict of keys '
      f"by name, as in rngs={{'dropout': key}}."
    )


def _meant(name: str, keywords: Mapping[str, Any]) -> str:
  """The keyword that is nearly this one, as the end of a message."""
  found = [k for k in keywords if checks.nearest(k, [name])]
  return f' Did you mean {name}= by {found[0]}=?' if found else ''


def _transformation(
  options: StepOptions,
) -> optax.GradientTransformationExtraArgs:
  """The optax transformation that takes the proposed steps."""
  propose = step_lib.closed_loop if options.feedback else step_lib.open_loop
  if options.sizes_step:
    propose = line_search.sized_step
  unmeasured = {**_MEASURED, **options.measured}

  def init_fn(params: Any) -> GtDdpState:
    if jax.tree.leaves(params):  # none: a placeholder of optax's map_params
      options.graph.flatten(params)
      params = checks.like(options.graph.params, params)
    return GtDdpState(
      options.bound.init(params),
      # Copies: a state may be donated to a step.
      jax.tree.map(jnp.array, options.graph.extras.collections),
      {name: jnp.float32(start) for name, start in unmeasured.items()},
      jnp.zeros((), jnp.int32),
    )

  def update_fn(
    updates: Any,
    state: GtDdpState,
    params: Any = None,
    *,
    batch: tuple[Any, Any] | None = None,
    rngs: Mapping[str, Array] = MappingProxyType({}),
    **extra_args: Any,
  ) -> tuple[Any, GtDdpState]:
    _check_call(params, batch, rngs, extra_args)
    assert batch is not None
    # Others may have put parameters and state in containers of their own, as
    # Flax nnx does; they get them back in these.
    given = params, state
    updates = _gradients(options.graph, updates)
    # Its own function each time: JAX keeps what it traced while that lives,
    # and with it the arrays of a whole state.
    state = _state(jax.eval_shape(lambda p: init_fn(p), params), state)
    params = checks.like(options.graph.params, params)
    if _is_empty(batch):
      done = _nothing_done(state, params, unmeasured)
    else:
      arguments = (state, params, updates, batch, dict(rngs))
      axes = graph_lib.axes_of(arguments)
      state, params, updates, batch, rngs = graph_lib.cast(arguments, axes)
      call = step_lib.UpdateCall(
        updates, state.base, params, batch, state.collections, rngs, extra_args
      )
      done = _guarded(propose(options, call), state, unmeasured)
    return checks.like(given[0], done[0]), checks.like(given[1], done[1])

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _is_empty(batch: tuple[Any, Any]) -> bool:
  """Whether a batch has no samples."""
  return any(jnp.shape(leaf)[:1] == (0,) for leaf in jax.tree.leaves(batch[0]))


def _nothing_done(
  state: GtDdpState, params: Any, unmeasured: Mapping[str, float]
) -> tuple[Any, GtDdpState]:
  """A skipped step: the mean loss of no samples is no number."""
  return jax.tree.map(jnp.zeros_like, params), state._replace(
    measured={name: jnp.float32(v) for name, v in unmeasured.items()},
    skipped_steps=state.skipped_steps + 1,
  )


def metrics(state: Any) -> dict[str, Array]:
  """What the last update measured.

  Args:
    state: of ``gt_ddp``, or of anything that holds one such state.

  Returns:
    Scalars: ``loss`` (mean over the batch, at the old parameters; over the
    samples of ``subset`` where it was given the gradients; NaN where nothing
    computed it), ``gradient_norm`` (of the re-weighted gradient),
    ``feedback_ratio`` (norm of the feedback weights ``S e`` over that of the
    open-loop weights ``d``, over samples and stages), ``clipped_share`` (of
    weights that the trust region shortened), ``smallest_factor`` (least factor
    by which a stage contracted ``S`` before clamping, for 'coupled' a lower
    bound of it; 1 where unused), ``skipped_steps`` (non-finite, so far). Those
    of ``levenberg_marquardt`` are listed there.

  Raises:
    OptionError: if there is not exactly one such state.
  """
  found = state_in(state, 'metrics')
  return {**found.measured, 'skipped_steps': found.skipped_steps}


def collections(state: Any) -> Any:
  """The network's collections (batch statistics) after the last update.

  Args:
    state: of ``gt_ddp``, or of anything that holds one such state.

  Returns:
    A dict by name, {} if the network was traced without.

  Raises:
    OptionError: if there is not exactly one such state.
  """
  return state_in(state, 'collections').collections


def state_in(state: Any, function: str) -> GtDdpState:
  """The one state of ``gt_ddp`` in a state, for a function of that name.

  Raises:
    OptionError: if there is not exactly one such state.
  """

  def is_ours(part: Any) -> bool:
    return isinstance(part, GtDdpState)

  found = [s for s in jax.tree.leaves(state, is_leaf=is_ours) if is_ours(s)]
  if len(found) != 1:
    raise errors.OptionError(
      f'{function}: expected a state that holds one gt_ddp state, got '
      f'{len(found)} of them in a {type(state).__name__}.'
    )
  return found[0]


def _guarded(
  step: step_lib.Step, state: GtDdpState, unmeasured: Mapping[str, float]
) -> tuple[Any, GtDdpState]:
  """Takes a step if it is finite; else changes nothing and counts it."""
  square = _poisoned_square(step.gradients, step.updates)
  finite = jnp.isfinite(square)
  if 'loss' in step.measured:
    finite &= jnp.isfinite(step.measured['loss'])
  axes = graph_lib.axes_of((step, state))
  nothing = jax.tree.map(jnp.zeros_like, step.updates)
  # One branch for all, which compiles faster than a choice for every leaf.
  updates, base, kept = jax.lax.cond(
    finite,
    lambda: graph_lib.cast(
      (step.updates, step.base_state, step.collections), axes
    ),
    lambda: graph_lib.cast((nothing, state.base, state.collections), axes),
  )
  measured = {**unmeasured, **step.measured, 'gradient_norm': jnp.sqrt(square)}
  skipped = state.skipped_steps + jnp.where(finite, 0, 1).astype(jnp.int32)
  return updates, GtDdpState(
    base,
    kept,
    {name: jnp.asarray(measured[name], jnp.float32) for name in unmeasured},
    skipped,
  )


def _poisoned_square(gradients: Any, updates: Any) -> Array:
  """``|gradients|^2`` if the updates are finite, else NaN; one pass over both.

  The base's state is not looked at: some start from infinities on purpose.
  """

  def square(g: Array, u: Array) -> Array:
    g, u = graph_lib.as_real(g), graph_lib.as_real(u)
    wide = jnp.promote_types(g.dtype, jnp.float32)
    return jnp.sum(jnp.square(g.astype(wide)) + 0 * u.astype(wide))

  squares = jax.tree.leaves(jax.tree.map(square, gradients, updates))
  return jnp.sum(jnp.stack(squares))
