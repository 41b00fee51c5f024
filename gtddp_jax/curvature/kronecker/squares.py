"""EKFAC's eigenvalues of one batch: ``E[(U_B^T G U_A)^2]`` in each basis."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gtddp_jax import gradients as gradients_lib
from gtddp_jax.curvature import linalg
from gtddp_jax.curvature.kronecker import factors as factors_lib
from gtddp_jax.curvature.kronecker import groups as groups_lib
from gtddp_jax.curvature.kronecker import inverse as inverse_lib

Array = jax.Array
Basis = inverse_lib.EigenbasisInverse | groups_lib.Grouped


def of_batch(
  operator: gradients_lib.Sensitivity, bases: Sequence[Basis], columns: Array
) -> list[Array]:
  """``E[(U_B^T G U_A)^2]``, ``[C, A]`` of each basis.

  Args:
    operator: of the decision.
    bases: one, or one for each player; scaled by one.
    columns: of the R directions, ``[B, R, K]``, see ``factors``.

  Returns:
    The squares; of a layer with groups, with a leading axis of these.
  """
  alone = [b for b in bases if isinstance(b, inverse_lib.EigenbasisInverse)]
  if alone and in_factors(operator.players):
    return _of_factors(operator, alone, columns)
  return _of_gradients(operator, bases, columns)


def in_factors(players: Sequence[gradients_lib.Player]) -> bool:
  """Whether they follow from the factors of gradients."""
  forms = [p.closed_form for p in players]
  return all(
    form is not None and form.has_squares(player.positions)
    for form, player in zip(forms, players, strict=True)
  )


def _of_factors(
  operator: gradients_lib.Sensitivity,
  bases: Sequence[inverse_lib.EigenbasisInverse],
  columns: Array,
) -> list[Array]:
  """The squares without any gradient.

  Of several players, whose rows are dense and of one position, ``G_i`` is a sum
  of ``h_p x_p^T``: its square is one of products, each pair of players twice.
  """
  players = operator.players
  groups = [players] if len(bases) == 1 else [(p,) for p in players]
  found = []
  for basis, group in zip(bases, groups, strict=True):
    own, turned = [], []
    for player, w, v in zip(group, basis.into, basis.out, strict=True):
      form = player.closed_form
      assert form is not None
      factors = form.factors(*player.factors())
      h = factors_lib.to_columns(factors.h, columns.astype(factors.h.dtype))
      x, h = form.turned(factors.x, w), linalg.right(h, v)
      own.append(form.squares(x, h))
      turned.append((x, h))
    cross = [
      2 * (h * k)[:, :, 0].sum(axis=1).T @ (x * y)[:, 0]
      for (x, h), (y, k) in itertools.combinations(turned, 2)
    ]
    found.append(functools.reduce(jnp.add, own + cross) / operator.batch)
  return found


def _of_gradients(
  operator: gradients_lib.Sensitivity, bases: Sequence[Basis], columns: Array
) -> list[Array]:
  """The squares from per-sample gradients."""
  forms = [p.closed_form for p in operator.players]
  sizes = [(form.c, form.width) for form in forms if form]

  def squares(rows: Array, columns: Array) -> list[Array]:
    # [b, R, p] and [b, R, K] to [b, K, p]
    made = factors_lib.to_columns(rows, columns.astype(rows.dtype))
    parts = [made]
    if len(bases) > 1:
      parts = [
        g.reshape(*g.shape[:-2], -1) for g in inverse_lib.split(made, sizes)
      ]
    return [
      linalg.sum_leading(jnp.square(basis.rotate(part)), 2)
      for basis, part in zip(bases, parts, strict=True)
    ]

  totals = operator.total(squares, columns)
  return [total / operator.batch for total in totals]
