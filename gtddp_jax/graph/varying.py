"""Values that differ from device to device inside ``jax.shard_map``.

With its check on (``check_vma``), ``shard_map`` types every value by the mesh
axes along which it varies, and an operation wants operands of one type. A step
takes one type throughout: all that it is given varies along the same axes, and
so the network is captured for such values.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

# What JAX calls the type, newest name first: each is an attribute of what
# ``jax.typeof`` returns and an argument of ``jax.ShapeDtypeStruct``.
_NAMES = ('manual_axis_type', 'vma')


def axes_of(tree: Any) -> frozenset[Any]:
  """The mesh axes along which some leaf varies; none outside ``shard_map``."""
  found: frozenset[Any] = frozenset()
  for leaf in jax.tree.leaves(tree):
    kind = next(iter(_kind(leaf).values()), ())
    found |= frozenset(getattr(kind, 'varying', kind))
  return found


def cast(tree: Any, axes: frozenset[Any]) -> Any:
  """The leaves typed as varying along these axes too."""
  if not axes:
    return tree

  def to(leaf: Any) -> Any:
    missing = tuple(sorted(axes - axes_of(leaf), key=str))
    return _varying(leaf, missing) if missing else leaf

  return jax.tree.map(to, tree)


def shaped(shape: tuple[int, ...], dtype: Any, like: Any) -> Any:
  """A ``jax.ShapeDtypeStruct`` that varies as another value does.

  Args:
    shape: of the value.
    dtype: of the value.
    like: an array, a shape or a tracer; anything else varies nowhere.
  """
  return jax.ShapeDtypeStruct(shape, dtype, **_kind(like))


def _varying(leaf: Any, axes: tuple[Any, ...]) -> Any:
  if hasattr(jax.lax, 'pcast'):
    return jax.lax.pcast(leaf, axes, to='varying')
  pvary: Any = getattr(jax.lax, 'pvary')  # noqa: B009 (before jax 0.8.2)
  return pvary(leaf, axes)


def placeholders(tree: Any) -> Any:
  """Shapes that vary, as values inside ``shard_map``; others as they are."""

  def of(shape: Any) -> Any:
    axes = axes_of(shape)
    if not axes or not isinstance(shape, jax.ShapeDtypeStruct):
      return shape
    if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
      return cast(jnp.empty(shape.shape, shape.dtype), axes)
    return cast(jnp.zeros(shape.shape, shape.dtype), axes)

  return jax.tree.map(of, tree)


def _kind(value: Any) -> dict[str, Any]:
  """The type of a value that varies, by JAX's name of it; else empty."""
  if isinstance(value, jax.core.Tracer):
    value = jax.typeof(value)
  for name in _NAMES:
    kind = getattr(value, name, None)
    if kind is not None and getattr(kind, 'varying', kind):
      return {name: kind}
  return {}
