"""What a base optimizer offers, in three steps: before, on, and in a network.

A base knows no network. ``bind`` ties it to one, once, before anything is
traced; ``begin`` opens one step there and gives its curvature, which a value
recursion and the forward pass then ask about one control at a time::

    base        sgd(lr), kfac(lr), soap(lr), any optax transformation
    bound       base.bind(graph, decisions, cooperation)
    curvature   bound.begin(state, params, context)      one for each step

A base with a curvature of its own is a file beside this one, with these three.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, Self

import jax
import optax

from gtddp_jax import errors
from gtddp_jax import gradients as gradients_lib
from gtddp_jax import graph as graph_lib

Array = jax.Array
Arrays = tuple[jax.Array, ...]
Control = tuple[int, ...]  # flat parameter indices of the leaves of a decision

FactorForm = Literal['number', 'matrix'] | None


class BaseOptimizer(Protocol):
  """A base before it knows a network.

  Attributes:
    has_curvature: whether it has a ``Q_uu``; without, only the value
      recursion 'frozen' can use it.
    couples_players: whether its curvature has terms between the players of a
      game, so that cooperation changes something.
    needs_operators: whether its step needs the layers' inputs and cotangents.
      Else it has ``update`` like any optax transformation, and its ``Q_uu`` is
      made from ``Q_u`` alone.
  """

  @property
  def has_curvature(self) -> bool:
    """See the attributes."""

  @property
  def couples_players(self) -> bool:
    """See the attributes."""

  @property
  def needs_operators(self) -> bool:
    """See the attributes."""

  def check_recursion(self) -> None:
    """Raises ``OptionError`` unless 'bellman' and 'coupled' can use it."""

  def bind(
    self,
    graph: graph_lib.LayerGraph,
    decisions: Sequence[range],
    cooperation: str,
  ) -> BoundBase:
    """Ties it to a network.

    Args:
      graph: the network.
      decisions: the stages of each decision.
      cooperation: 'none', 'kronecker' or 'schur'.

    Returns:
      The base on that network.

    Raises:
      OptionError: for a network that it cannot optimize.
    """


class StepContext(NamedTuple):
  """What a step has besides the base's state and the parameters.

  Attributes:
    operators: per-sample gradients of every decision.
    root: ``L`` of the terminal ``S = L L^T``, ``[B, R, R]``; None where
      ``needs_operators`` is False.
    given: open-loop gradients of all leaves that the caller passed, or None.
    extra_args: keyword arguments of ``update`` for the base.
  """

  operators: Sequence[gradients_lib.Sensitivity]
  root: Array | None
  given: Sequence[Array] | None
  extra_args: Mapping[str, Any]


class BoundBase(Protocol):
  """A base on a network; one that sizes its step is a ``SizedBase``."""

  def init(self, params: Any) -> Any:
    """The state before the first step.

    ``params`` without leaves, as optax' ``map_params`` has them, give a state
    too.
    """

  def factor_form(self, control: Control) -> FactorForm:
    """What ``Q_uu^-1`` of a control is between the factors ``x`` and ``h``.

    Returns:
      'number' (a multiple of the identity for each leaf, or after a change of
      basis of ``x`` and ``h``), 'matrix' (one number for each pair of their
      entries), or None where ``Inverse.on_factors`` cannot be asked.
    """

  def reads_rows(self, players: Sequence[gradients_lib.Player]) -> bool:
    """Whether the curvature of these players reads per-sample gradients."""

  def begin(self, state: Any, params: Any, context: StepContext) -> Curvature:
    """Opens one step.

    Args:
      state: of the base.
      params: pytree of parameters.
      context: what else the step has.

    Returns:
      The base's curvature during that step.
    """


class GraphBase(optax.GradientTransformationExtraArgs):
  """A ``BaseOptimizer`` that ``gt_ddp`` binds to a graph; no step by itself.

  Attributes:
    settings: what it was made with.
    refusal: what its own ``init`` and ``update`` say.
  """

  settings: Any
  refusal: str

  has_curvature = True
  needs_operators = True

  def __new__(cls, settings: Any) -> Self:
    """Makes a base from its settings."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
      raise errors.OptionError(cls.refusal)

    self = super().__new__(cls, refuse, refuse)
    self.settings = settings
    return self

  def __reduce__(self) -> Any:
    """What copies are made of."""
    return type(self), (self.settings,)


class Curvature(Protocol):
  """``Q_uu``, step and new state of a base during one step.

  A value recursion observes the controls that it passes, asks ``inverse`` and
  ``step`` of them, and ends with ``observe_rest``; the forward pass then asks
  ``step`` once for each control, in order, and ``finish``.
  """

  def observe(self, control: Control, slope: Array, q_u: Arrays) -> None:
    """Takes the curvature of a control from ``d`` and ``Q_u`` there.

    Args:
      control: which.
      slope: ``d``, ``[B, R]``.
      q_u: ``Q_u``, leaves like the control.
    """

  def observe_rest(self, slope: Array) -> None:
    """Takes the curvature of all other controls from ``d``, ``[B, R]``."""

  def inverse(self, control: Control) -> gradients_lib.Inverse:
    """``Q_uu^-1`` of a control that was observed."""

  def needed(self, control: Control) -> Sequence[int]:
    """Flat parameter indices of the gradients that ``step`` reads."""

  def step(self, control: Control, gradients: Mapping[int, Array]) -> Arrays:
    """The base's updates of the leaves of one control.

    Args:
      control: which.
      gradients: by flat parameter index, all that are ``needed``.

    Raises:
      OptionError: if one is missing, as where a recursion knows those of the
        control alone and the base mixes controls.
    """

  def finish(self, gradients: Mapping[int, Array]) -> Any:
    """The base's new state, once the gradients of all leaves are final."""


class Trial(NamedTuple):
  """A candidate step of a base that sizes its step.

  Attributes:
    updates: of all leaves by flat index, in their final length.
    base_state: what ``finish`` returned for it.
    size: the step size alpha, with what a bound on the step leaves of it.
    gain_ratio: actual decrease of the mean loss over that which the linearised
      chain predicts for the largest candidate; NaN where it was not measured.
    taken: whether the step is taken.
  """

  updates: Sequence[Array]
  base_state: Any
  size: Array
  gain_ratio: Array
  taken: Array


class SizedBase(BoundBase, Protocol):
  """A base on a network that says how long the whole step is.

  Attributes:
    sizes_step: True: it damps and sizes its step by what 'coupled' predicts,
      with feedback and without; its curvature is a ``SizedCurvature``.
    measured: what its steps measure beyond those of every base, by name, with
      the values before the first step.
  """

  @property
  def sizes_step(self) -> bool:
    """See the attributes."""

  @property
  def measured(self) -> Mapping[str, float]:
    """See the attributes."""


class SizedCurvature(Curvature, Protocol):
  """The curvature of a ``SizedBase``.

  The feedforward term of each control is scaled by a step size, the feedback is
  not. Of several candidates the first that is accepted is taken.

  Attributes:
    prior: ``k_0``, the step of each leaf, by flat index, that a cost of the
      controls alone asks for; None for no such cost.
    size: the first candidate of the step size, a scalar.
    halvings: how often it is halved at most; None to take the first candidate
      untested.
  """

  @property
  def prior(self) -> Arrays | None:
    """See the attributes."""

  @property
  def size(self) -> Array:
    """See the attributes."""

  @property
  def halvings(self) -> int | None:
    """See the attributes."""

  def bounded(self, updates: Sequence[Array]) -> tuple[list[Array], Array]:
    """The updates of all leaves in their final length, and the factor."""

  def accepts(self, decrease: Array, predicted: Array) -> Array:
    """Whether the mean loss decreases enough, given the prediction."""

  def settled(self, trial: Trial) -> tuple[Any, dict[str, Array]]:
    """The base's new state after the last candidate, and what it measured."""
