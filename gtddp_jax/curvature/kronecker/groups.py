"""``Q_uu^-1`` of a layer whose groups of outputs have no weight in common.

Its gradient is one matrix for each group, ``[groups, c, a]``, and ``M`` has a
block for each of them: all that holds of one holds of each, under ``vmap``.
"""

from __future__ import annotations

import dataclasses

import jax

from gtddp_jax import gradients as gradients_lib
from gtddp_jax import graph as graph_lib
from gtddp_jax.curvature.kronecker import inverse as inverse_lib

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Grouped:
  """One operator for each group.

  Attributes:
    each: their operators, with a leading axis of groups in all arrays.
  """

  each: inverse_lib.EigenbasisInverse

  def rotate(self, rows: Array) -> Array:
    """``V^T G W`` of each group: ``[..., p]`` to ``[..., groups, C, A]``."""
    return jax.vmap(
      lambda one, rows: one.rotate(rows), in_axes=(0, -2), out_axes=-3
    )(self.each, self._split(rows))

  def apply(
    self, rows: Array, packing: gradients_lib.Packing | None = None
  ) -> Array:
    """See ``gradients.Inverse``."""
    del packing
    done = jax.vmap(
      lambda one, rows: one.apply(rows), in_axes=(0, -2), out_axes=-2
    )(self.each, self._split(rows))
    return done.reshape(rows.shape)

  def on_factors(
    self, form: graph_lib.ClosedForm, factors: graph_lib.Factors
  ) -> graph_lib.OnFactors:
    """Is never asked for: ``factor_form`` is None."""
    raise NotImplementedError

  def scaled(self, factor: Array) -> Grouped:
    """This operator times a number."""
    return Grouped(self.each.scaled(factor))

  def _split(self, rows: Array) -> Array:
    """Rows ``[..., p]`` as ``[..., groups, p / groups]``."""
    return rows.reshape(*rows.shape[:-1], len(self.each.scale), -1)
