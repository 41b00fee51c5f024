"""Base optimizers with an explicit curvature ``Q_uu = M / eta``.

A base is an optax transformation with a third function. Given gradients
``q`` that the curvature is observed from (the backward pass' ``Q_u``)::

    init(params) -> state
    update(g, state, params, observed=q) -> (step along g, state')
    inverse(state, params, observed=q) -> diagonal of Q_uu^-1

``M`` is ``I`` (sgd), ``diag(sqrt(E[q^2] + eps))`` (rmsprop) or
``diag(sqrt(E[q^2]) + eps)`` with bias correction (adam). Momentum filters the
step, not the curvature. Without ``observed`` a base is optax's own optimizer.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from gtddp_jax import gradients as gradients_lib
from gtddp_jax import graph as graph_lib
from gtddp_jax.curvature import optax_base, protocol

Array = jax.Array
Arrays = tuple[jax.Array, ...]
ScalarOrSchedule = float | jax.Array | Callable[[Any], Any]


class InverseDiagonal(Protocol):
  """The diagonal of ``Q_uu^-1``."""

  def __call__(self, state: Any, params: Any, *, observed: Any) -> Any:
    """Returns a pytree like the parameters.

    A leaf is a scalar where the curvature is a multiple of the identity, else
    it has the shape of the parameter.
    """


class Base(optax.GradientTransformationExtraArgs):
  """An optax transformation with an explicit ``Q_uu``.

  Attributes:
    inverse: ``(state, params, observed=q)`` to the diagonal of ``Q_uu^-1``, a
      pytree like the parameters; ``q`` are gradients to take it from. With
      the same keyword ``update`` takes its curvature from them.
  """

  inverse: InverseDiagonal

  has_curvature = True
  couples_players = False
  needs_operators = False

  def __new__(
    cls,
    init: optax.TransformInitFn,
    update: optax.TransformUpdateExtraArgsFn,
    inverse: InverseDiagonal,
  ) -> Base:
    """Makes a base from its three functions."""
    self = super().__new__(cls, init, update)
    self.inverse = inverse
    return self

  def __reduce__(self) -> Any:
    """What copies are made of; a pair of functions is not all of it."""
    return type(self), (self.init, self.update, self.inverse)

  def check_recursion(self) -> None:
    """See ``BaseOptimizer``; every recursion can use it."""

  def bind(
    self,
    graph: graph_lib.LayerGraph,
    decisions: Sequence[range],
    cooperation: str,
  ) -> BoundDiagonal:
    """See ``BaseOptimizer``; any network will do."""
    del decisions, cooperation
    return BoundDiagonal(self, graph.params)


def sgd(
  learning_rate: ScalarOrSchedule,
  momentum: float | None = None,
  nesterov: bool = False,
) -> Base:
  """``optax.sgd`` with ``Q_uu = I / eta``.

  Args:
    learning_rate: eta, a number or a schedule over steps.
    momentum: decay of the trace of past gradients; None for none.
    nesterov: whether to look ahead along the trace.

  Returns:
    The base.
  """
  trace = _trace(momentum, nesterov)
  return _explicit([trace, optax.scale_by_learning_rate(learning_rate)], 1)


def rmsprop(
  learning_rate: ScalarOrSchedule,
  decay: float = 0.9,
  eps: float = 1e-8,
  *,
  initial_scale: float = 0.0,
  eps_in_sqrt: bool = True,
  momentum: float | None = None,
  nesterov: bool = False,
) -> Base:
  """``optax.rmsprop`` with ``Q_uu = diag(sqrt(E[Q_u^2] + eps)) / eta``.

  Args:
    learning_rate: eta, a number or a schedule over steps.
    decay: of the running second moment.
    eps: added to the second moment, or to its root.
    initial_scale: of the second moment.
    eps_in_sqrt: which of the two ``eps`` is added to.
    momentum: decay of the trace of past steps; None for none.
    nesterov: whether to look ahead along the trace.

  Returns:
    The base.
  """

  def inverse(seen: Any) -> Any:
    if eps_in_sqrt:
      return jax.tree.map(lambda n: jax.lax.rsqrt(n + eps), seen.nu)
    return jax.tree.map(lambda n: 1 / (jnp.sqrt(n) + eps), seen.nu)

  scale = optax.scale_by_rms(decay, eps, initial_scale, eps_in_sqrt)
  rate = optax.scale_by_learning_rate(learning_rate)
  return _explicit([scale, rate, _trace(momentum, nesterov)], 1, inverse)


def adam(
  learning_rate: ScalarOrSchedule,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  eps_root: float = 0.0,
  *,
  nesterov: bool = False,
) -> Base:
  """``optax.adam`` with ``Q_uu = diag(sqrt(E[Q_u^2]) + eps) / eta``.

  Args:
    learning_rate: eta, a number or a schedule over steps.
    b1: decay of the first moment, which filters the step.
    b2: decay of the second moment, which is the curvature.
    eps: added to the root of the second moment.
    eps_root: added under the root.
    nesterov: whether to use Nesterov momentum.

  Returns:
    The base.
  """

  def inverse(seen: Any) -> Any:
    nu_hat = optax.tree.bias_correction(seen.nu, b2, seen.count)
    return jax.tree.map(lambda n: 1 / (jnp.sqrt(n + eps_root) + eps), nu_hat)

  scale = optax.scale_by_adam(b1, b2, eps, eps_root, nesterov=nesterov)
  rate = optax.scale_by_learning_rate(learning_rate)
  return _explicit([scale, rate], 1, inverse)


def _trace(momentum: float | None, nesterov: bool) -> Any:
  if momentum is None:
    return optax.identity()
  return optax.trace(momentum, nesterov)


def _explicit(
  parts: Sequence[optax.GradientTransformation],
  rate: int,
  inverse: Callable[[Any], Any] | None = None,
) -> Base:
  """A chain of ``parts`` whose first part scales by ``inverse`` (if given).

  Args:
    parts: the chain, as optax' alias of the same name has it.
    rate: position of the learning rate in it.
    inverse: maps the first part's new state to the diagonal of ``M^-1``.

  Returns:
    The base.
  """
  chain = optax.chain(*parts)
  learning_rate = optax.with_extra_args_support(parts[rate])

  def update(
    updates: Any,
    state: Any,
    params: Any = None,
    *,
    observed: Any = None,
    **extra_args: Any,
  ) -> tuple[Any, Any]:
    del extra_args
    if observed is None or inverse is None:
      return chain.update(updates, state, params)
    updates, scaled = parts[0].update(updates, state[0])
    _, seen = parts[0].update(observed, state[0])
    updates = jax.tree.map(
      lambda g, new, old: g * (new / old),
      updates,
      inverse(seen),
      inverse(scaled),
    )
    states = [scaled._replace(nu=seen.nu)]
    for part, old in zip(parts[1:], state[1:], strict=True):
      updates, new = part.update(updates, old, params)
      states.append(new)
    return updates, tuple(states)

  def inverse_fn(state: Any, params: Any, *, observed: Any) -> Any:
    if inverse is None:
      diagonal = jax.tree.map(lambda u: jnp.ones((), u.dtype), params)
    else:
      _, seen = parts[0].update(observed, state[0])
      diagonal = inverse(seen)
    steps, _ = learning_rate.update(diagonal, state[rate], params)
    return jax.tree.map(jnp.negative, steps)

  return Base(chain.init, update, inverse_fn)


class BoundDiagonal(optax_base.BoundOptax):
  """A base with a diagonal ``Q_uu`` on a network."""

  def __init__(self, base: Base, params: Any):
    """``params`` are the shapes of the network's parameters."""
    super().__init__(base)
    self._explicit, self._params = base, params

  def factor_form(self, control: tuple[int, ...]) -> protocol.FactorForm:
    """See ``BoundBase``."""
    return factor_form(self._isotropic, control)

  @functools.cached_property
  def _isotropic(self) -> list[bool]:
    return isotropic(self._explicit, self._params)

  def begin(
    self, state: Any, params: Any, context: protocol.StepContext
  ) -> DiagonalCurvature:
    """See ``BoundBase``."""
    return DiagonalCurvature(self._explicit, state, params, context.extra_args)


def isotropic(base: Base, params: Any) -> list[bool]:
  """For each leaf, whether the diagonal of ``Q_uu^-1`` is one number there.

  ``params`` is a pytree of shapes.
  """

  def inverse(params: Any) -> Any:
    return base.inverse(base.init(params), params, observed=params)

  found: list[Any] = jax.tree.leaves(jax.eval_shape(inverse, params))
  return [leaf.shape == () for leaf in found]


def factor_form(
  isotropic: Sequence[bool], places: Sequence[int]
) -> protocol.FactorForm:
  """``BoundBase.factor_form`` of the leaves at these places."""
  return 'number' if all(isotropic[i] for i in places) else 'matrix'


class DiagonalCurvature(optax_base.OptaxCurvature):
  """Steps, new state and diagonal of ``Q_uu^-1`` of a base."""

  def __init__(
    self, base: Base, state: Any, params: Any, extra_args: Mapping[str, Any]
  ):
    """Captures ``base.update`` at ``state``."""
    super().__init__(
      lambda g, q: base.update(g, state, params, **extra_args, observed=q),
      params,
    )

    def inverse(q: Any) -> Any:
      observed = optax_base.like(q, params)
      diagonal = base.inverse(state, params, observed=observed)
      return jax.tree.map(_of_pairs, diagonal, params)

    self._of_observed = functools.cache(
      lambda: graph_lib.capture(inverse, self._shapes)
    )

  def inverse(self, control: tuple[int, ...]) -> DiagonalInverse:
    """See ``Curvature``."""
    program = self._of_observed()
    part = optax_base.ReadSlice.of(
      program, [program.outputs[i] for i in control]
    )
    return DiagonalInverse(part.run(*(self._observed[i] for i in part.read)))


def _of_pairs(diagonal: Array, param: Any) -> Array:
  """The diagonal for real and imaginary part of a complex parameter."""
  if not jnp.iscomplexobj(param):
    return diagonal
  diagonal = jnp.real(diagonal)
  if not diagonal.ndim:
    return diagonal
  return jnp.broadcast_to(diagonal[..., None], (*diagonal.shape, 2))


@dataclasses.dataclass(frozen=True)
class DiagonalInverse:
  """The diagonal of ``Q_uu^-1`` by leaf: each a scalar, or like the leaf."""

  leaves: Arrays

  def apply(self, rows: Array, packing: gradients_lib.Packing) -> Array:
    """See ``Inverse``."""
    pairs = zip(self.leaves, packing.shapes, strict=True)
    row = packing.pack(tuple(jnp.broadcast_to(d, s) for d, s in pairs))
    return row.reshape((1,) * (rows.ndim - 1) + row.shape) * rows

  def on_factors(
    self, form: graph_lib.ClosedForm, factors: graph_lib.Factors
  ) -> graph_lib.OnFactors:
    """See ``Inverse``."""
    return graph_lib.OnFactors(*factors, *form.diagonal(self.leaves))
