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

The eigenvectors of the first gradient are exact; later ones follow by one step
of a power iteration, ``U <- QR(L U)``. The first call has no basis yet: it
makes one and moves nothing, and ``Q_uu^-1`` is zero there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gtddp_jax import checks, errors
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
    """See ``BaseOptimizer``.

    Raises:
      OptionError: for a complex parameter.
    """
    del decisions, cooperation
    shapes = jax.tree.leaves(graph.params)
    for path, shape in zip(graph.paths, shapes, strict=True):
      if jnp.iscomplexobj(shape):
        raise errors.OptionError(
          f'soap: parameter {path!r} is {shape.dtype}: expected real numbers. '
          f'Make it of two real parameters in apply_fn, or use adam.'
        )
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
    self._moments = _moments(state, jax.tree.structure(params))

  def inverse(self, control: tuple[int, ...]) -> EigenbasisInverse:
    """See ``Curvature``."""
    settings, state = self._settings, self._state
    step, _ = settings.rate.update(jnp.ones(()), state.rate)
    parts = []
    for i in control:
      moment = self._moments[i]
      nu = moment.next_nu(settings, self._observed[i], state.steps)
      scale = _scale(settings, nu, state.steps)
      parts.append(moment.rotation(-step.astype(scale.dtype) * scale))
    return EigenbasisInverse(tuple(parts))


class Rotation(NamedTuple):
  """``U_L (D * (U_L^T G U_R)) U_R^T`` of one parameter.

  Attributes:
    left: ``U_L``, or None for the identity.
    right: ``U_R``, likewise.
    scale: ``D``, in the shape of the parameter.
  """

  left: Array | None
  right: Array | None
  scale: Array

  def apply(self, leaf: Array) -> Array:
    """Of a leaf ``[..., *shape]``."""
    shape = self.scale.shape
    matrices = leaf.reshape(
      *leaf.shape[: leaf.ndim - len(shape)], *_rows(shape)
    )
    scale = self.scale.reshape(_rows(shape))
    matrices = matrices.astype(scale.dtype)
    with jax.default_matmul_precision('float32'):
      turned = _rotated(self.left, self.right, matrices)
      back = _rotated_back(self.left, self.right, linalg.times(scale, turned))
    return back.reshape(leaf.shape)


@dataclasses.dataclass(frozen=True)
class EigenbasisInverse:
  """``Q_uu^-1`` of one control, leaf by leaf."""

  leaves: tuple[Rotation, ...]

  def apply(self, rows: Array, packing: gradients_lib.Packing) -> Array:
    """See ``gradients.Inverse``."""
    found = jax.vmap(packing.unpack)(rows.reshape(-1, rows.shape[-1]))
    pairs = zip(self.leaves, found, strict=True)
    done = tuple(part.apply(leaf) for part, leaf in pairs)
    return jax.vmap(packing.pack)(done).reshape(rows.shape).astype(rows.dtype)

  def on_factors(
    self, product: gradients_lib.Contraction, factors: gradients_lib.Factors
  ) -> gradients_lib.OnFactors:
    """Is never asked for: ``factor_form`` is None."""
    raise NotImplementedError


class _Moment(NamedTuple):
  """The state of one parameter."""

  mu: Array
  nu: Array
  left: Side | None
  right: Side | None

  def next_nu(self, settings: Settings, q: Array, count: Array) -> Array:
    """``nu`` with one more gradient; as it was in the first call."""
    z = self.rotated(q)
    nu = settings.b2 * self.nu + (1 - settings.b2) * jnp.square(z)
    return jnp.where(count == 0, self.nu, nu)

  def next_mu(self, settings: Settings, g: Array, count: Array) -> Array:
    """``mu`` likewise."""
    wide = g.astype(self.mu.dtype)
    mu = settings.b1 * self.mu + (1 - settings.b1) * wide
    return jnp.where(count == 0, self.mu, mu)

  def rotated(self, g: Array) -> Array:
    """``U_L^T G U_R``, in the shape of the parameter."""
    matrix = g.reshape(_rows(g.shape)).astype(self.nu.dtype)
    left, right = _basis(self.left), _basis(self.right)
    with jax.default_matmul_precision('float32'):
      return _rotated(left, right, matrix).reshape(g.shape)

  def rotation(self, scale: Array) -> Rotation:
    """The operator with this scale in the present basis."""
    return Rotation(_basis(self.left), _basis(self.right), scale)


def _init(settings: Settings, params: Any) -> SoapState:
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
  count = state.steps
  moments, steps = [], []
  for old, g, q in zip(_moments(state, tree), gradients, seen, strict=True):
    mu = old.next_mu(settings, g, count)
    nu = old.next_nu(settings, q, count)
    # In the first call mu is zero, so that any number will do for its count.
    mean = mu / (1 - settings.b1 ** jnp.maximum(count, 1))
    step = old.rotation(_scale(settings, nu, count)).apply(mean)
    steps.append(step.astype(g.dtype))
    moments.append(old._replace(mu=mu, nu=nu))
  sides = [
    _with_gradient(settings, side, q, axis)
    for axis, name in enumerate(('left', 'right'))
    for side, q in zip((getattr(m, name) for m in moments), seen, strict=True)
  ]
  sides = _renewed(settings, sides, count)
  updates, rate = settings.rate.update(steps, state.rate)
  leaves = (
    [m.mu for m in moments],
    [m.nu for m in moments],
    sides[: len(moments)],
    sides[len(moments) :],
  )
  mu, nu, left, right = (jax.tree.unflatten(tree, part) for part in leaves)
  new = SoapState(optax.safe_increment(count), mu, nu, left, right, rate)
  return jax.tree.unflatten(tree, updates), new


def _scale(settings: Settings, nu: Array, count: Array) -> Array:
  """The diagonal of ``M^-1`` in the basis; zero in the first call."""
  mean = nu / (1 - settings.b2 ** jnp.maximum(count, 1))
  return jnp.where(count == 0, 0, 1 / (jnp.sqrt(mean) + settings.eps))


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
  settings: Settings, sides: list[Side | None], count: Array
) -> list[Side | None]:
  """The sides with new eigenvectors, where they are due."""
  present = [side for side in sides if side is not None]
  if not present:
    return sides

  def exact() -> list[Array]:
    return [s.vectors for s in linalg.spectra([p.factor for p in present])]

  def followed() -> list[Array]:
    with jax.default_matmul_precision('float32'):
      return [jnp.linalg.qr(p.factor @ p.basis)[0] for p in present]

  def kept() -> list[Array]:
    return [p.basis for p in present]

  due = jnp.where(count == 0, 0, 1 + (count % settings.eigenbasis_period != 0))
  bases = iter(jax.lax.switch(due, [exact, followed, kept]))
  return [None if s is None else s._replace(basis=next(bases)) for s in sides]


def _moments(state: SoapState, tree: Any) -> list[_Moment]:
  """The state by parameter."""
  parts = (state.mu, state.nu, state.left, state.right)
  return list(map(_Moment, *map(tree.flatten_up_to, parts)))


def _rows(shape: tuple[int, ...]) -> tuple[int, int]:
  """The shape of a parameter as a matrix."""
  last = shape[-1] if shape else 1
  return math.prod(shape[:-1]), last


def _basis(side: Side | None) -> Array | None:
  return None if side is None else side.basis


def _rotated(left: Array | None, right: Array | None, matrices: Array) -> Array:
  """``U_L^T G U_R`` of matrices ``[..., m, n]``."""
  turned = matrices if left is None else left.T @ matrices
  return turned if right is None else turned @ right


def _rotated_back(
  left: Array | None, right: Array | None, matrices: Array
) -> Array:
  """``U_L Z U_R^T`` of matrices ``[..., m, n]``."""
  turned = matrices if left is None else left @ matrices
  return turned if right is None else turned @ right.T
