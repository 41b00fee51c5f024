"""Any optax transformation as a base, one control at a time.

The closed loop needs the step of stage ``t`` before the gradients of later
stages are final. The base's ``update`` is captured once over all parameters;
the step of one stage is the slice of it that leads to that stage's updates. If
the slice reads gradients of other stages (a global norm, say), it gets the best
known ones: final upstream, open-loop downstream.

Curvature is taken from what a backward sweep has *observed* of a control, its
``Q_u``; of what was not observed, from the final gradient.

A complex parameter is two real ones to whoever asks. To the base its gradient
is ``dL/dx + i dL/dy``, the conjugate of what ``jax.grad`` returns, as optax
expects it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gtddp_jax import checks, errors
from gtddp_jax import gradients as gradients_lib
from gtddp_jax import graph as graph_lib
from gtddp_jax.curvature import protocol

Array = jax.Array
Arrays = tuple[jax.Array, ...]
Control = tuple[int, ...]
# Gradients, and those that curvature is taken from, to updates and new state.
Update = Callable[[Any, Any], tuple[Any, Any]]


class OptaxBase(optax.GradientTransformationExtraArgs):
  """An optax transformation as a base: it has no ``Q_uu``."""

  has_curvature = False
  couples_players = False
  needs_operators = False

  def check_recursion(self) -> None:
    """See ``BaseOptimizer``."""
    raise errors.OptionError(
      'This value function needs a base with an explicit Q_uu: expected '
      'sgd, rmsprop, adam, kfac, ekfac or soap of this library, or a Base, got '
      "another optax transformation. Use one of them, or value='frozen', which "
      'lifts any optax transformation. One of them inside optax.chain or '
      'optax.inject_hyperparams is not seen: put the rest of the chain around '
      'gt_ddp, and inject around it: optax.inject_hyperparams(lambda lr: '
      "gt_ddp(graph, loss, adam(lr), value='bellman'))(lr=1e-3).",
      'value',
    )

  def bind(
    self,
    graph: graph_lib.LayerGraph,
    decisions: Sequence[range],
    cooperation: str,
  ) -> BoundOptax:
    """See ``BaseOptimizer``; any network will do."""
    del graph, decisions, cooperation
    return BoundOptax(self)


def lift(base: Any) -> Any:
  """A ``BaseOptimizer`` as it is; any other optax transformation as one."""
  if hasattr(base, 'bind'):
    return base
  init, update = optax.with_extra_args_support(base)

  def checked(
    updates: Any, state: Any, params: Any = None, **extra_args: Any
  ) -> tuple[Any, Any]:
    try:
      steps, new = update(updates, state, params, **extra_args)
    except (TypeError, ValueError) as error:
      if 'keyword-only' in str(error):
        raise errors.OptionError(
          f'The base optimizer needs more keyword arguments ({error}): '
          f'expected them in update(..., batch=(inputs, targets), value=..., '
          f'...), got {sorted(extra_args)}. Without its line search, '
          f'optax.lbfgs(linesearch=None), it needs none.'
        ) from error
      if 'batch dimension' in str(error):
        raise errors.OptionError(
          f'The base optimizer expects a gradient for each sample ({error}), '
          f'as optax.contrib.differentially_private_aggregate does: got the '
          f'mean gradient, which gt_ddp gives its base. Use another base.'
        ) from error
      raise
    _check_steps(jax.tree.map(graph_lib.shape_of, params), steps)
    return steps, new

  return OptaxBase(init, checked)


def _check_steps(shapes: Any, steps: Any) -> None:
  """Raises ``OptionError`` unless a base made one update per parameter."""
  got: Any = jax.tree.structure(steps)
  expected: Any = jax.tree.structure(shapes)
  found = checks.misfit(shapes, steps, dtypes=False)
  if found is None and got != expected:
    found = f'expected {expected}, got {got}'
  if found is not None:
    raise errors.OptionError(
      f'The base optimizer returned updates that are not like the parameters: '
      f'{found}. One that takes per-sample gradients, as optax.contrib.'
      f'differentially_private_aggregate does, is no base: gt_ddp gives it the '
      f'mean gradient.'
    )


class BoundOptax:
  """An optax transformation on a network, of which it sees nothing."""

  def __init__(self, base: optax.GradientTransformationExtraArgs):
    self._base = base

  def init(self, params: Any) -> Any:
    """See ``BoundBase``.

    Raises:
      OptionError: where the transformation holds one that has to be bound.
    """
    try:
      return self._base.init(params)
    except errors.OptionError as error:
      raise errors.OptionError(
        'Invalid base: expected kfac or ekfac itself, got one inside another '
        'transformation (optax.chain, masked, multi_transform), which does not '
        'hand it the layers. Put the others around gt_ddp, as in '
        'optax.chain(gt_ddp(graph, loss, ekfac(lr)), optax.clip(1.0)).'
      ) from error

  def factor_form(self, control: Control) -> protocol.FactorForm:
    """See ``BoundBase``; there is no ``Q_uu``."""
    del control
    return None

  def reads_rows(self, players: Sequence[gradients_lib.Player]) -> bool:
    """See ``BoundBase``."""
    del players
    return False

  def begin(
    self, state: Any, params: Any, context: protocol.StepContext
  ) -> OptaxCurvature:
    """See ``BoundBase``."""

    def update(gradients: Any, observed: Any) -> tuple[Any, Any]:
      del observed
      return self._base.update(gradients, state, params, **context.extra_args)

    return OptaxCurvature(update, params)


class OptaxCurvature:
  """Steps and new state of a transformation, by slices of its ``update``.

  The slices read gradients ``g`` to step along and gradients ``q`` to take
  curvature from: the observed ``Q_u`` where there is one, else ``g``.
  """

  def __init__(self, update: Update, params: Any):
    """Captures ``update(g, q) -> (updates, new state)`` at its state.

    Raises:
      OptionError: if the updates are not a tree like the parameters.
    """
    self._shapes = jax.tree.map(
      lambda p: graph_lib.real_shape(graph_lib.shape_of(p)), params
    )
    self._size = len(jax.tree.leaves(params))

    def on_pairs(g: Any, q: Any) -> tuple[Any, Any]:
      updates, new = update(like(g, params), like(q, params))
      return jax.tree.map(graph_lib.as_real, updates), new

    self._observed: dict[int, Array] = {}
    self._update = graph_lib.capture(on_pairs, self._shapes, self._shapes)
    self._slices: dict[Control, ReadSlice] = {}
    updates, self._new_state = self._update.out_shape
    _check_steps(self._shapes, updates)

  def observe(self, control: Control, slope: Array, q_u: Arrays) -> None:
    """See ``Curvature``."""
    del slope
    self._observed.update(zip(control, q_u, strict=True))

  def observe_rest(self, slope: Array) -> None:
    """See ``Curvature``; the final gradients will do."""

  def inverse(self, control: Control) -> gradients_lib.Inverse:
    """Is never asked for: there is no ``Q_uu``."""
    raise NotImplementedError

  def needed(self, control: Control) -> tuple[int, ...]:
    """See ``Curvature``."""
    read = map(self._gradient_at, self._slice(control).read)
    return tuple(dict.fromkeys(i for i in read if i is not None))

  def step(self, control: Control, gradients: Mapping[int, Array]) -> Arrays:
    """See ``Curvature``."""
    missing = [i for i in self.needed(control) if i not in gradients]
    if missing:
      raise errors.OptionError(
        f'The base reads the gradients of parameters {missing} (their places '
        f'among the leaves) to step {list(control)}, as one with a global norm '
        f'does: expected only those of the layer itself, since the backward '
        f"pass does not know the others yet. Use value='frozen', or put what "
        f'mixes layers behind gt_ddp.',
        'value',
      )
    return self._run(self._slice(control), gradients)

  def finish(self, gradients: Mapping[int, Array]) -> Any:
    """See ``Curvature``."""
    targets = self._update.outputs[self._size :]
    leaves = self._run(ReadSlice.of(self._update, targets), gradients)
    return jax.tree.unflatten(jax.tree.structure(self._new_state), leaves)

  def _slice(self, control: Control) -> ReadSlice:
    """What leads to the updates of a control, cut out once."""
    if control not in self._slices:
      targets = [self._update.outputs[i] for i in control]
      self._slices[control] = ReadSlice.of(self._update, targets)
    return self._slices[control]

  def _gradient_at(self, place: int) -> int | None:
    """The gradient that an input of the program is; None if observed."""
    if place < self._size:
      return place
    return None if place - self._size in self._observed else place - self._size

  def _run(self, part: ReadSlice, gradients: Mapping[int, Array]) -> Arrays:
    values = []
    for place in part.read:
      i = self._gradient_at(place)
      known = self._observed[place - self._size] if i is None else gradients[i]
      values.append(known)
    return part.run(*values)


def like(pairs: Any, params: Any) -> Any:
  """Gradients as the base has them: complex where the parameters are."""
  return jax.tree.map(
    lambda x, p: graph_lib.as_dtype(x, jnp.result_type(p)), pairs, params
  )


class ReadSlice(NamedTuple):
  """A slice of a program, and the places of the inputs that it reads."""

  run: Callable[..., Arrays]
  read: tuple[int, ...]

  @classmethod
  def of(cls, program: graph_lib.Program, targets: Sequence[Any]) -> ReadSlice:
    """Cuts out what leads to ``targets``."""
    part = program.slice(program.inputs, targets)
    read = [i for i, v in enumerate(program.inputs) if v in part.needed]
    sources = tuple(program.inputs[i] for i in read)
    return cls(dataclasses.replace(part, sources=sources), tuple(read))
