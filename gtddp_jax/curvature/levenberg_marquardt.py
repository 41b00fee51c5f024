"""``levenberg_marquardt``: damped least squares over a whole batch.

``Q_uu = lambda M + G^T S G / B``, whose second term is that of
``value='coupled'``. Madsen's rule adapts ``lambda`` by the gain ratio ``rho``,
the actual decrease of the mean loss over that which the linearised chain
predicts for the full step; what is rejected raises it as in Nielsen's rule::

    taken      lambda <- lambda / 10 if rho > 1/2, 3 lambda if rho < 1/10
    rejected   lambda <- lambda nu,   nu <- 2 nu         (nu <- 2 once taken)

A predicted decrease that rounding errors of the loss would hide divides it by
ten too: so a damping that is far too large falls.

The feedforward term of a step is scaled by ``alpha``, the learning rate or one
of its halvings down to 1/64 of it: the first that decreases the loss by 1e-4 of
what is predicted for that ``alpha``. If none does, the parameters stay.

Momentum is SPRING's: the cost ``(lambda / 2) |du - mu phi|^2_M``, ``phi`` the
last step at ``alpha = 1``, is least at ``k_0 = mu phi``.

Sources: K. Madsen, H. B. Nielsen, O. Tingleff, "Methods for non-linear least
squares problems", 2004, section 3.2 (schedule, there with factors 1/3 and 2
beyond 3/4 and 1/4); arXiv 2402.10680 (momentum).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gtddp_jax import gradients as gradients_lib
from gtddp_jax import graph as graph_lib
from gtddp_jax.curvature import damping as damping_lib
from gtddp_jax.curvature import diagonal, protocol

Array = jax.Array
Arrays = tuple[jax.Array, ...]

HALVINGS = 6  # of the learning rate: alpha is 1/64 of it at least
SUFFICIENT = 1e-4  # share of the predicted decrease that a step has to make
_MOST_GROWTH = 2.0**20  # of nu

MEASURED: Mapping[str, float] = MappingProxyType(
  {
    'damping': float('nan'),
    'step_size': 0.0,
    'gain_ratio': float('nan'),
    'rejected': 0.0,
  }
)


class LevenbergMarquardtState(NamedTuple):
  """State of ``levenberg_marquardt``.

  Attributes:
    steps: calls so far, int32.
    damping: ``lambda`` of the next step, where it is adapted; else of the last.
    growth: ``nu``, by which a rejected step multiplies ``lambda``.
    previous: ``phi``, like the parameters; () without momentum.
    metric: what ``M`` is made of.
  """

  steps: Array
  damping: Array
  growth: Array
  previous: Any
  metric: Any


class LevenbergMarquardt(protocol.GraphBase):
  """A base that steps through ``gt_ddp`` alone."""

  settings: damping_lib.Settings

  couples_players = False
  refusal = (
    'levenberg_marquardt needs the layers of a network: expected it as the '
    'base of gt_ddp, got a call of its own init or update. Use gt_ddp('
    "graph, loss, levenberg_marquardt(), terminal='gauss_newton', "
    "value='coupled')."
  )

  def check_recursion(self) -> None:
    """See ``BaseOptimizer``; ``gt_ddp`` refuses all recursions but one."""

  def bind(
    self,
    graph: graph_lib.LayerGraph,
    decisions: Sequence[range],
    cooperation: str,
  ) -> BoundLevenbergMarquardt:
    """See ``BaseOptimizer``; any network will do."""
    metric = damping_lib.METRICS[self.settings.metric].bind(
      graph, decisions, cooperation
    )
    return BoundLevenbergMarquardt(self.settings, graph, metric)


def levenberg_marquardt(
  damping: diagonal.ScalarOrSchedule = 1e-3,
  learning_rate: diagonal.ScalarOrSchedule = 1.0,
  momentum: float = 0.0,
  max_norm: float | None = None,
  adaptive: bool = True,
  metric: str = 'identity',
  min_damping: float = 1e-12,
  max_damping: float = 1e12,
) -> LevenbergMarquardt:
  """Levenberg-Marquardt: ``Q_uu = lambda M + G^T S G / B`` over the batch.

  Without feedback it is Gauss-Newton in the space of the samples (ENGD-W), for
  residuals ``r``: ``du = -J^T (J J^T / B + lambda)^-1 r / B``. With feedback
  its step is rolled out in closed loop. The damping follows Madsen's rule. A
  line search tests the loss on the same batch: a step that does not decrease it
  is rejected, which leaves the parameters as they are and raises the damping.
  So it is for full batches, or large ones; for mini-batches use
  ``adaptive=False`` with ``momentum`` and ``max_norm``.

  Args:
    damping: lambda, in units of ``J J^T / B``: a number, where it starts; or,
      unless ``adaptive``, a schedule over steps.
    learning_rate: largest step size alpha, a number or a schedule over steps.
    momentum: mu of SPRING, in the space of the samples: the part of the last
      step that is kept where the batch does not say otherwise.
    max_norm: bound on the 2-norm of the whole step; None for none.
    adaptive: whether the damping adapts and the step size is searched for.
    metric: M, 'identity', or the diagonal of 'rmsprop' or 'adam'.
    min_damping: lambda is never adapted below.
    max_damping: lambda is never adapted above.

  Returns:
    A base for ``gt_ddp(..., terminal='gauss_newton', value='coupled')``, with
    feedback or without, whose ``update`` takes no gradients. ``metrics`` then
    has ``damping`` (of this step), ``step_size`` (alpha, 0 if rejected),
    ``gain_ratio`` (NaN unless ``adaptive``, and where it is
    hidden by rounding) and ``rejected`` (1 or 0). Sources:
    Madsen, Nielsen, Tingleff, 2004; arXiv 2402.10680.

  Raises:
    OptionError: for a value that has no meaning.
  """
  return LevenbergMarquardt(damping_lib.Settings(
    damping, learning_rate, momentum, max_norm, adaptive, metric, min_damping,
    max_damping,
  ))  # fmt: skip


class BoundLevenbergMarquardt:
  """``levenberg_marquardt`` on a network."""

  sizes_step = True
  measured = MEASURED

  def __init__(
    self,
    settings: damping_lib.Settings,
    graph: graph_lib.LayerGraph,
    metric: diagonal.BoundDiagonal,
  ):
    self._settings, self._graph, self._metric = settings, graph, metric

  def init(self, params: Any) -> LevenbergMarquardtState:
    """See ``BoundBase``."""
    settings = self._settings
    wide = jnp.result_type(jnp.float32, *map(_real, jax.tree.leaves(params)))
    steps = jnp.zeros((), jnp.int32)
    return LevenbergMarquardtState(
      steps,
      jnp.asarray(_at(settings.damping, steps), wide),
      jnp.asarray(2, wide),
      jax.tree.map(jnp.zeros_like, params) if settings.has_momentum else (),
      self._metric.init(params),
    )

  def factor_form(self, control: tuple[int, ...]) -> protocol.FactorForm:
    """See ``BoundBase``."""
    return self._metric.factor_form(control)

  def reads_rows(self, players: Sequence[gradients_lib.Player]) -> bool:
    """See ``BoundBase``."""
    del players
    return False

  def begin(
    self,
    state: LevenbergMarquardtState,
    params: Any,
    context: protocol.StepContext,
  ) -> LevenbergMarquardtCurvature:
    """See ``BoundBase``."""
    metric = self._metric.begin(state.metric, params, context)
    return LevenbergMarquardtCurvature(
      self._settings, self._graph, state, metric
    )


class LevenbergMarquardtCurvature:
  """Damping and size of one step, see ``SizedCurvature``."""

  def __init__(
    self,
    settings: damping_lib.Settings,
    graph: graph_lib.LayerGraph,
    state: LevenbergMarquardtState,
    metric: diagonal.DiagonalCurvature,
  ):
    self._settings, self._graph, self._state = settings, graph, state
    self._metric = metric
    self._inverses: dict[tuple[int, ...], diagonal.DiagonalInverse] = {}
    self.damping = state.damping
    if not settings.adaptive:
      given = _at(settings.damping, state.steps)
      self.damping = jnp.asarray(given, state.damping.dtype)

  @property
  def prior(self) -> Arrays | None:
    """See ``SizedCurvature``: ``mu phi``."""
    if not self._settings.has_momentum:
      return None
    leaves = map(graph_lib.as_real, jax.tree.leaves(self._state.previous))
    return tuple((self._settings.momentum * v).astype(v.dtype) for v in leaves)

  @property
  def size(self) -> Array:
    """See ``SizedCurvature``: the learning rate."""
    rate = _at(self._settings.learning_rate, self._state.steps)
    return jnp.asarray(rate, self.damping.dtype)

  @property
  def halvings(self) -> int | None:
    """See ``SizedCurvature``."""
    return HALVINGS if self._settings.adaptive else None

  def observe(
    self, control: tuple[int, ...], slope: Array, q_u: Arrays
  ) -> None:
    """See ``Curvature``."""
    self._metric.observe(control, slope, q_u)
    m = self._metric.inverse(control)
    # Made once, outside of the loop over step sizes.
    self._inverses[control] = diagonal.DiagonalInverse(
      tuple(leaf / self.damping.astype(leaf.dtype) for leaf in m.leaves)
    )

  def observe_rest(self, slope: Array) -> None:
    """See ``Curvature``; 'coupled' observes all."""
    self._metric.observe_rest(slope)

  def inverse(self, control: tuple[int, ...]) -> diagonal.DiagonalInverse:
    """See ``Curvature``: ``(lambda M)^-1``."""
    return self._inverses[control]

  def needed(self, control: tuple[int, ...]) -> tuple[int, ...]:
    """See ``Curvature``."""
    return control

  def step(
    self, control: tuple[int, ...], gradients: Mapping[int, Array]
  ) -> Arrays:
    """See ``Curvature``."""
    if control not in self._inverses:  # no output depends on it
      return tuple(jnp.zeros_like(gradients[i]) for i in control)
    leaves = self._inverses[control].leaves
    found = zip(control, leaves, strict=True)
    return tuple(
      -(leaf.astype(gradients[i].dtype) * gradients[i]) for i, leaf in found
    )

  def finish(self, gradients: Mapping[int, Array]) -> Any:
    """See ``Curvature``; the rest of the state is in ``settled``."""
    return self._metric.finish(gradients)

  def bounded(self, updates: Sequence[Array]) -> tuple[list[Array], Array]:
    """See ``SizedCurvature``."""
    one = jnp.ones((), self.damping.dtype)
    if self._settings.max_norm is None:
      return list(updates), one
    # By the largest entry first, whose square may be out of range.
    wide = [u.astype(jnp.result_type(u, one)) for u in updates]
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(u)) for u in wide]))
    scale = jnp.where(largest > 0, largest, 1)
    total = sum(jnp.sum(jnp.square(u / scale)) for u in wide)
    norm = scale * jnp.sqrt(jnp.asarray(total))
    bound = jnp.asarray(self._settings.max_norm, norm.dtype)
    factor = jnp.where(norm > bound, bound / norm, 1)
    shorter = [(factor * u).astype(u.dtype) for u in updates]
    return shorter, factor.astype(one.dtype)

  def accepts(self, decrease: Array, predicted: Array) -> Array:
    """See ``SizedCurvature``; what is not finite is not accepted."""
    return (decrease > 0) & (decrease >= SUFFICIENT * predicted)

  def settled(
    self, trial: protocol.Trial
  ) -> tuple[LevenbergMarquardtState, dict[str, Array]]:
    """See ``SizedCurvature``."""
    settings, old, taken = self._settings, self._state, trial.taken
    metric = jax.tree.map(
      lambda new, kept: jnp.where(taken, new, kept),
      trial.base_state,
      old.metric,
    )
    damping, growth = self.damping, old.growth
    if settings.adaptive:
      damping, growth = self._adapted(trial)
    state = LevenbergMarquardtState(
      optax.safe_increment(old.steps),
      damping,
      growth,
      self._previous(trial) if settings.has_momentum else (),
      metric,
    )
    return state, {
      'damping': self.damping,
      'step_size': jnp.where(taken, trial.size, 0),
      'gain_ratio': trial.gain_ratio,
      'rejected': jnp.where(taken, 0, 1),
    }

  def _adapted(self, trial: protocol.Trial) -> tuple[Array, Array]:
    """``lambda`` and ``nu`` by Madsen's rule."""
    growth, ratio = self._state.growth, trial.gain_ratio
    factor = jnp.where(ratio > 0.5, 0.1, jnp.where(ratio < 0.1, 3.0, 1.0))
    factor = jnp.where(trial.taken, factor, growth)
    hidden = jnp.isnan(ratio)
    damping = self.damping * jnp.where(hidden, 0.1, factor)
    least, most = self._settings.min_damping, self._settings.max_damping
    damping = jnp.clip(damping, least, most).astype(self.damping.dtype)
    grown = jnp.minimum(2 * growth, _MOST_GROWTH)
    grown = jnp.where(trial.taken | hidden, 2, grown)
    return damping, grown.astype(damping.dtype)

  def _previous(self, trial: protocol.Trial) -> Any:
    """``phi``: the step at ``alpha = 1``; none after a rejected one."""
    size = jnp.where(trial.size > 0, trial.size, 1)
    return self._graph.unflatten(
      [
        jnp.where(trial.taken, (u / size).astype(u.dtype), 0)
        for u in trial.updates
      ]
    )


def _at(value: Any, steps: Array) -> Any:
  """A number, or that of a schedule."""
  return value(steps) if callable(value) else value


def _real(leaf: Any) -> Any:
  """The dtype of the real numbers in a leaf."""
  return jnp.real(jnp.zeros((), jnp.result_type(leaf))).dtype
