"""How the leaves of one control, or of several, lie in one row ``[p]``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Arrays = tuple[jax.Array, ...]


class EndToEnd(NamedTuple):
  """All leaves end to end."""

  control: Arrays

  @property
  def shapes(self) -> tuple[tuple[int, ...], ...]:
    """Shapes of the leaves."""
    return tuple(u.shape for u in self.control)

  def pack(self, leaves: Arrays) -> Array:
    """Leaves like the control as a row ``[p]``."""
    flat = [leaf.ravel() for leaf in leaves]
    return jnp.concatenate(flat) if len(flat) > 1 else flat[0]

  def unpack(self, row: Array) -> Arrays:
    """The leaves in a row ``[p]``, in the dtypes of the control."""
    ends = np.cumsum([math.prod(u.shape) for u in self.control])[:-1]
    return tuple(
      piece.reshape(u.shape).astype(u.dtype)
      for piece, u in zip(jnp.split(row, ends), self.control, strict=True)
    )


class Together(NamedTuple):
  """The rows of several controls, end to end."""

  parts: tuple[Packing, ...]

  @property
  def shapes(self) -> tuple[tuple[int, ...], ...]:
    """Shapes of the leaves."""
    return tuple(shape for part in self.parts for shape in part.shapes)

  def pack(self, leaves: Arrays) -> Array:
    """Leaves like the controls as a row ``[p]``."""
    pieces = divide(leaves, [len(part.shapes) for part in self.parts])
    rows = [p.pack(x) for p, x in zip(self.parts, pieces, strict=True)]
    return rows[0] if len(rows) == 1 else jnp.concatenate(rows)

  def unpack(self, row: Array) -> Arrays:
    """The leaves in a row ``[p]``, in the dtypes of the controls."""
    sizes = [sum(map(math.prod, part.shapes)) for part in self.parts]
    rows = jnp.split(row, np.cumsum(sizes)[:-1])
    pairs = zip(self.parts, rows, strict=True)
    return tuple(leaf for part, piece in pairs for leaf in part.unpack(piece))


def divide(leaves: Arrays, counts: Sequence[int]) -> list[Arrays]:
  """Consecutive leaves in groups of so many."""
  ends = [sum(counts[: i + 1]) for i in range(len(counts))]
  pairs = zip(ends, counts, strict=True)
  return [leaves[end - count : end] for end, count in pairs]


class Packing(Protocol):
  """How the leaves of a control lie in a row ``[p]``."""

  @property
  def shapes(self) -> tuple[tuple[int, ...], ...]:
    """Shapes of the leaves."""

  def pack(self, leaves: Arrays) -> Array:
    """Leaves like the control as a row."""

  def unpack(self, row: Array) -> Arrays:
    """The leaves in a row, in the dtypes of the control."""
