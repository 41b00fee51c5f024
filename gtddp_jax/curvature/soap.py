"""``soap``: Adam in the eigenbasis of Shampoo's factors.

The gradient of a parameter is a matrix ``G``, ``[m, n]``, all axes but the last
as rows. With ``U_L``, ``U_R`` the eigenvectors of two running averages and
``Z = U_L^T G U_R``::

    L  <- b2 L + (1 - b2) G G^T         R <- b2 R + (1 - b2) G^T G
    nu <- b2 nu + (1 - b2) Z^2
    M^-1 G = U_L (Z / (sqrt(nu) + eps)) U_R^T

so that ``Q_uu = M / eta`` is a full matrix over the entries of one parameter,
and diagonal in a basis. A vector, and a side longer than ``max_dim``, keep the
identity as basis: there SOAP is Adam. ``L``, ``R`` and ``nu`` are taken from
the observed ``Q_u``; momentum filters the step, not the curvature.

The first call makes exact eigenvectors, by falling eigenvalue; it moves nothing
(``Q_uu^-1 = 0``). They then follow by a power iteration, ``U <- QR(L U)``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gtddp_jax import checks
from gtddp_jax import gradients as gradients_lib
from gtddp_jax import graph as graph_lib
from gtddp_jax.curvature import diagonal, linalg, optax_base, protocol

Array = jax.Array
Arrays = tuple[jax.Array, ...]


class Side(NamedTuple):
  """``L`` or ``R`` of one parameter, and its eigenvectors.

  Attributes:
    factor: ``[n, n]``.
    basis: ``[n, n]``, one eigenvector per column.
  """

  factor: Array
  basis: Array


class SoapState(NamedTuple):
  """State of ``soap``; trees are like the parameters.

  Attributes:
    steps: calls so far, int32.
    mu: running average of the gradients.
    nu: ``nu``, in the shape of the parameter.
    left: a ``Side`` for each parameter, None for the identity.
    right: likewise.
    rate: of the learning rate.
  """

  steps: Array
  mu: Any
  nu: Any
  left: Any
  right: Any
  rate: Any


@dataclasses.dataclass(frozen=True)
class Settings:
  """Arguments of ``soap``."""

  learning_rate: diagonal.ScalarOrSchedule
  b1: float
  b2: float
  eps: float
  eigenbasis_period: int
  max_dim: int

  def __post_init__(self) -> None:
    """Raises ``OptionError`` for a value that has no meaning."""
    for name in ('b1', 'b2'):
      checks.check_fraction(f'soap: {name}', getattr(self, name))
    for name in ('eigenbasis_period', 'max_dim'):
      checks.check_positive(f'soap: {name}', getattr(self, name))

  @property
  def rate(self) -> optax.GradientTransformationExtraArgs:
    """Minus eta, as a transformation with the state of a schedule."""
    scale = optax.scale_by_learning_rate(self.learning_rate)
    return optax.with_extra_args_support(scale)


class Soap(optax.GradientTransformationExtraArgs):
  """A base with ``Q_uu`` in the eigenbasis of Shampoo's factors.

  Attributes:
    settings: what it was made with.
  """

  settings: Settings

  has_curvature = True
  couples_players = False
  needs_operators = False

  def __new__(cls, settings: Settings) -> Soap:
    """Makes a base from its settings."""

    def init(params: Any) -> SoapState:
      return _init(settings, params)

    def update(
      updates: Any,
      state: SoapState,
      params: Any = None,
      *,
      observed: Any = None,
      **extra_args: Any,
    ) -> tuple[Any, SoapState]:
      del params, extra_args
      seen = updates if observed is None else observed
      return _update(settings, updates, state, seen)

    self = super().__new__(cls, init, update)
    self.settings = settings
    return self

  def __reduce__(self) -> Any:
    """What copies are made of."""
    return type(self), (self.settings,)

  def check_recursion(self) -> None:
    """See ``BaseOptimizer``; every recursion can use it."""

  def bind(
    self,
    graph: graph_lib.LayerGraph,
    decisions: Sequence[range],
    cooperation: str,
  ) -> BoundSoap:
    """See ``BaseOptimizer``; any network will do."""
    del graph, decisions, cooperation
    return BoundSoap(self)


def soap(
  learning_rate: diagonal.ScalarOrSchedule,
  b1: float = 0.95,
  b2: float = 0.95,
  eps: float = 1e-8,
  *,
  eigenbasis_period: int = 10,
  max_dim: int = 4096,
) -> Soap:
  """SOAP: Adam in Shampoo's eigenbasis, with the ``Q_uu`` that it has there.

  Each parameter is a matrix whose columns are its last axis. The first step is
  zero: its gradient only makes the basis. In a direction in which the mean
  gradient nearly vanishes and those of the samples do not, ``Q_uu`` is small
  and feedback large: with ``value='bellman'`` raise ``eps``, to 1e-3.

  Args:
    learning_rate: eta, a number or a schedule over steps.
    b1: decay of the first moment, which filters the step.
    b2: decay of the second moment and of Shampoo's factors, the curvature.
    eps: added to the root of the second moment.
    eigenbasis_period: steps between renewals of the eigenvectors.
    max_dim: sides with more rows keep the identity as basis.

  Returns:
    The base, an optax transformation. Source: arXiv 2409.11321.

  Raises:
    OptionError: for a decay outside of [0, 1), or a number that is not a
      positive integer where one is expected.
  """
  return Soap(Settings(learning_rate, b1, b2, eps, eigenbasis_period, max_dim))


class BoundSoap(optax_base.BoundOptax):
  """``soap`` on a network."""

  def __init__(self, base: Soap):
    super().__init__(base)
    self._soap = base

  def begin(
    self, state: Any, params: Any, context: protocol.StepContext
  ) -> SoapCurvature:
    """See ``BoundBase``."""
    del context
    return SoapCurvature(self._soap, state, params)


class SoapCurvature(optax_base.OptaxCurvature):
  """Steps and new state of ``soap``, and its ``Q_uu^-1``."""

  def __init__(self, base: Soap, state: SoapState, params: Any):
    """Captures ``base.update`` at ``state``."""
    super().__init__(
      lambda g, q: base.update(g, state, params, observed=q), params
    )
    self._settings, self._state = base.settings, state
    self._leaves = _leaves(state, jax.tree.structure(params))

  def inverse(self, control: tuple[int, ...]) -> SoapInverse:
    """See ``Curvature``."""
    settings, state = self._settings, self._state
    step, _ = settings.rate.update(jnp.ones(()), state.rate)
    leaves, scales = [], []
    for i in control:
      leaf = self._leaves[i].observed(settings, self._observed[i], state.steps)
      scale = leaf.scale(settings, state.steps)
      leaves.append(leaf)
      scales.append(-step.astype(scale.dtype) * scale)
    return SoapInverse(tuple(leaves), tuple(scales))


@dataclasses.dataclass(frozen=True)
class SoapInverse:
  """``Q_uu^-1`` of one control, leaf by leaf.

  Attributes:
    leaves: what holds the bases.
    scales: the diagonal in these, in the shape of each leaf.
  """

  leaves: tuple[_Leaf, ...]
  scales: Arrays

  def apply(self, rows: Array, packing: gradients_lib.Packing) -> Array:
    """See ``gradients.Inverse``."""
    found = jax.vmap(packing.unpack)(rows.reshape(-1, rows.shape[-1]))
    parts = zip(self.leaves, found, self.scales, strict=True)
    done = tuple(leaf.scaled(g, scale) for leaf, g, scale in parts)
    return jax.vmap(packing.pack)(done).reshape(rows.shape).astype(rows.dtype)

  def on_factors(
    self, form: graph_lib.ClosedForm, factors: graph_lib.Factors
  ) -> graph_lib.OnFactors:
    """Is never asked for: ``factor_form`` is None."""
    raise NotImplementedError


class _Leaf(NamedTuple):
  """The state of one parameter; see ``SoapState``."""

  mu: Array
  nu: Array
  left: Side | None
  right: Side | None

  def observed(self, settings: Settings, q: Array, steps: Array) -> _Leaf:
    """With one more gradient in ``nu``, which the first call leaves alone."""
    z = self._turned(q, back=False)
    nu = settings.b2 * self.nu + (1 - settings.b2) * jnp.square(z)
    return self._replace(nu=jnp.where(steps == 0, self.nu, nu))

  def filtered(self, settings: Settings, g: Array, steps: Array) -> _Leaf:
    """With one more gradient in ``mu``, likewise."""
    wide = g.astype(self.mu.dtype)
    mu = settings.b1 * self.mu + (1 - settings.b1) * wide
    return self._replace(mu=jnp.where(steps == 0, self.mu, mu))

  def scale(self, settings: Settings, steps: Array) -> Array:
    """The diagonal of ``M^-1`` in the basis; zero in the first call."""
    mean = self.nu / (1 - settings.b2 ** jnp.maximum(steps, 1))
    return jnp.where(steps == 0, 0, 1 / (jnp.sqrt(mean) + settings.eps))

  def scaled(self, g: Array, scale: Array) -> Array:
    """``U_L (D * (U_L^T G U_R)) U_R^T`` of ``[..., *shape]``, ``D`` a scale."""
    z = linalg.broadcast_mul(scale, self._turned(g, back=False))
    return self._turned(z, back=True)

  def _turned(self, g: Array, *, back: bool) -> Array:
    """``U_L^T G U_R``, or ``U_L G U_R^T``, of ``[..., *shape]``."""
    axes = g.ndim - self.nu.ndim
    matrices = g.reshape(*g.shape[:axes], *_rows(self.nu.shape))
    matrices = matrices.astype(self.nu.dtype)
    with jax.default_matmul_precision('float32'):
      if self.left is not None:
        basis = self.left.basis
        matrices = (basis if back else basis.T) @ matrices
      if self.right is not None:
        basis = self.right.basis
        matrices = matrices @ (basis.T if back else basis)
    return matrices.reshape(g.shape)


def _init(settings: Settings, params: Any) -> SoapState:
  checks.check_real('soap', params)

  def zeros(u: Array) -> Array:
    return jnp.zeros(u.shape, jnp.promote_types(u.dtype, jnp.float32))

  def side(u: Array, axis: int) -> Side | None:
    n = _rows(u.shape)[axis]
    if u.ndim < 2 or n == 1 or n > settings.max_dim:
      return None
    dtype = jnp.promote_types(u.dtype, jnp.float32)
    return Side(jnp.zeros((n, n), dtype), jnp.eye(n, dtype=dtype))

  return SoapState(
    jnp.zeros((), jnp.int32),
    jax.tree.map(zeros, params),
    jax.tree.map(zeros, params),
    jax.tree.map(lambda u: side(u, 0), params),
    jax.tree.map(lambda u: side(u, 1), params),
    settings.rate.init(params),
  )


def _update(
  settings: Settings, updates: Any, state: SoapState, observed: Any
) -> tuple[Any, SoapState]:
  """One step along ``updates``, with the curvature of ``observed``."""
  gradients, tree = jax.tree.flatten(updates)
  seen = jax.tree.leaves(observed)
  leaves, directions = [], []
  for old, g, q in zip(_leaves(state, tree), gradients, seen, strict=True):
    leaf = old.observed(settings, q, state.steps)
    leaf = leaf.filtered(settings, g, state.steps)
    # In the first call mu is zero, so that any number will do for its count.
    mean = leaf.mu / (1 - settings.b1 ** jnp.maximum(state.steps, 1))
    direction = leaf.scaled(mean, leaf.scale(settings, state.steps))
    directions.append(direction.astype(g.dtype))
    leaves.append(leaf)
  sides = [
    _with_gradient(settings, side, q, axis)
    for axis, name in enumerate(('left', 'right'))
    for side, q in zip((getattr(m, name) for m in leaves), seen, strict=True)
  ]
  sides = _renewed(settings, sides, state.steps)
  steps, rate = settings.rate.update(directions, state.rate)
  new = (
    [leaf.mu for leaf in leaves],
    [leaf.nu for leaf in leaves],
    sides[: len(leaves)],
    sides[len(leaves) :],
  )
  mu, nu, left, right = (jax.tree.unflatten(tree, part) for part in new)
  count = optax.safe_increment(state.steps)
  return jax.tree.unflatten(tree, steps), SoapState(
    count, mu, nu, left, right, rate
  )


def _with_gradient(
  settings: Settings, side: Side | None, q: Array, axis: int
) -> Side | None:
  """``L`` (axis 0) or ``R`` (axis 1) with one more gradient."""
  if side is None:
    return None
  matrix = q.reshape(_rows(q.shape)).astype(side.factor.dtype)
  rows = matrix if axis == 0 else matrix.T
  with jax.default_matmul_precision('float32'):
    square = rows @ rows.T
  factor = settings.b2 * side.factor + (1 - settings.b2) * square
  return side._replace(factor=factor)


def _renewed(
  settings: Settings, sides: list[Side | None], steps: Array
) -> list[Side | None]:
  """The sides with new eigenvectors, where they are due."""
  present = [side for side in sides if side is not None]
  if not present:
    return sides

  def exact() -> list[Array]:
    # By falling eigenvalues, the order that a power iteration keeps.
    spectra = linalg.spectra([p.factor for p in present])
    return [s.vectors[:, ::-1] for s in spectra]

  def followed() -> list[Array]:
    with jax.default_matmul_precision('float32'):
      return [jnp.linalg.qr(p.factor @ p.basis)[0] for p in present]

  def kept() -> list[Array]:
    return [p.basis for p in present]

  due = jnp.where(steps == 0, 0, 1 + (steps % settings.eigenbasis_period != 0))
  bases = iter(jax.lax.switch(due, [exact, followed, kept]))
  return [None if s is None else s._replace(basis=next(bases)) for s in sides]


def _leaves(state: SoapState, tree: Any) -> list[_Leaf]:
  """The state by parameter."""
  parts = (state.mu, state.nu, state.left, state.right)
  return list(map(_Leaf, *map(tree.flatten_up_to, parts)))


def _rows(shape: tuple[int, ...]) -> tuple[int, int]:
  """The shape of a parameter as a matrix."""
  last = shape[-1] if shape else 1
  return math.prod(shape[:-1]), last
