"""Kronecker factors of a decision: ``A = E[x x^T]`` and ``B = E[h h^T]``.

``x`` are the layers' input rows (with a trailing 1 for a bias) and ``h`` the
cotangents at their outputs; players who are updated jointly have them end to
end. Where a layer is used at several positions of a sample (pixels, tokens)::

    expand    A = E_{i,t}[x x^T]     B = E_i[sum_t h h^T]
    reduce    A = E_i[m m^T]         B = E_i[n n^T]

with ``m`` the mean of ``x`` and ``n`` the sum of ``h`` over positions. A layer
with groups has a pair of factors for each.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gtddp_jax import checks
from gtddp_jax import graph as graph_lib

Array = jax.Array
POSITIONS = ('expand', 'reduce')
SOURCES = ('slope', 'curvature')


@dataclasses.dataclass(frozen=True)
class Statistics:
  """How a Kronecker base estimates its curvature.

  Attributes:
    decay: of the running averages of ``A``, ``B`` and ``s``; less during the
      first steps, which count equally.
    every: steps between renewals of ``A`` and ``B``. Before the first such
      number of steps they are renewed at steps 1, 2, 4, 8, ... too, so that
      the first batch does not serve them all.
    basis_every: steps between renewals of their eigenvectors, likewise.
    source: what ``B`` and ``s`` come from: 'slope', the derivative ``V_h`` of
      the value function (the paper's), or 'curvature', the columns of the
      terminal's ``V_hh``: exact Gauss-Newton with ``terminal='gauss_newton'``.
    positions: 'expand' or 'reduce', for layers used at several positions.
    largest: sides of more rows keep only the diagonal of their factor.
  """

  decay: float = 0.95
  every: int = 10
  basis_every: int = 50
  source: str = 'slope'
  positions: str = 'expand'
  largest: int = 4096

  def __post_init__(self) -> None:
    """Raises ``OptionError`` for a value that has no meaning."""
    for name in ('every', 'basis_every', 'largest'):
      checks.check_positive(f'Statistics: {name}', getattr(self, name))
    checks.check_option('Statistics: source', self.source, SOURCES)
    checks.check_option('Statistics: positions', self.positions, POSITIONS)
    checks.check_fraction('Statistics: decay', self.decay)


def is_due(step: Array, every: int) -> Array:
  """Whether a step renews what is renewed in ``every`` steps."""
  early = [step == power for power in _early(every)]
  return functools.reduce(jnp.logical_or, early, step % every == 0)


def renewals_before(step: Array, every: int) -> Array:
  """How many earlier steps did, of those that ``is_due`` names."""
  early = [(step > power).astype(step.dtype) for power in _early(every)]
  return functools.reduce(jnp.add, early, -(-step // every))


def _early(every: int) -> list[int]:
  """The powers of two below ``every``."""
  return [1 << n for n in range((every - 1).bit_length())]


def of_inputs(
  forms: Sequence[graph_lib.ClosedForm],
  factors: Sequence[tuple[Array, Array]],
  positions: str,
  *,
  whole: bool,
) -> Array:
  """``A``.

  Args:
    forms: of each player.
    factors: inputs ``[B, k, ...]`` and cotangents ``[B, R, k, ...]`` of each.
    positions: 'expand' or 'reduce'.
    whole: whether to return the matrix, else its diagonal.

  Returns:
    ``[a, a]`` or ``[a]``, with a the sum over players; of a layer with groups,
    one for each.
  """
  reduce = positions == 'reduce'
  if len(forms) == 1:
    ((x, h),) = factors
    return forms[0].input_factor(x, h, reduce=reduce, whole=whole)
  rows = [f.input_rows(h) for f, (_, h) in zip(forms, factors, strict=True)]

  def end_to_end(xs: list[Array]) -> Array:
    found = [f(x) for f, x in zip(rows, xs, strict=True)]
    return jnp.concatenate(found, axis=-1)

  xs = [x for x, _ in factors]
  return graph_lib.second_moment(end_to_end, xs, reduce=reduce, whole=whole)


def of_cotangents(
  forms: Sequence[graph_lib.ClosedForm],
  factors: Sequence[tuple[Array, Array]],
  positions: str,
  columns: Array,
  *,
  whole: bool,
) -> Array:
  """``B``; as ``of_inputs``, from the columns of ``V_hh`` or from ``V_h``.

  ``columns`` ``[B, R, K]`` combine the R directions to K columns.
  """

  def of_rows(rows: Array) -> Array:
    rows = rows.astype(jnp.promote_types(rows.dtype, jnp.float32))
    if positions == 'reduce':
      rows = rows.sum(axis=2, keepdims=True)
    rows = to_columns(rows, columns.astype(rows.dtype))
    flat = rows.reshape(-1, rows.shape[-1])
    if not whole:
      return jnp.square(flat).sum(axis=0) / columns.shape[0]
    with jax.default_matmul_precision('float32'):
      return flat.T @ flat / columns.shape[0]

  found = [f.cotangents(h) for f, (_, h) in zip(forms, factors, strict=True)]
  rows = jnp.concatenate(found, axis=-1)
  return jax.vmap(of_rows)(rows) if forms[0].groups else of_rows(rows)


def to_columns(rows: Array, columns: Array) -> Array:
  """Rows ``[B, R, ...]`` combined to ``[B, K, ...]`` by ``[B, R, K]``."""
  if columns.shape[1:] == (1, 1):
    return rows * columns.reshape(-1, *(1,) * (rows.ndim - 1))
  return jnp.einsum('br...,brk->bk...', rows, columns)
