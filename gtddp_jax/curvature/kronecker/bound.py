"""A Kronecker base on a network.

Which decisions have a Kronecker rule, and which controls take the diagonal base
that the user named.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gtddp_jax import errors
from gtddp_jax import gradients as gradients_lib
from gtddp_jax import graph as graph_lib
from gtddp_jax.curvature import diagonal, protocol
from gtddp_jax.curvature.kronecker import block as block_lib
from gtddp_jax.curvature.kronecker import squares
from gtddp_jax.curvature.kronecker import step as step_lib


class BoundKronecker:
  """``kfac`` or ``ekfac`` on a network."""

  def __init__(self, parts: step_lib.Parts, params: Any):
    """``params`` are the shapes of the network's parameters."""
    self._parts, self._params = parts, params

  def init(self, params: Any) -> step_lib.KroneckerState:
    """See ``BoundBase``."""
    parts = self._parts
    # Without leaves: a placeholder of optax' map_params.
    zeros = jax.tree.map(jnp.zeros_like, self._params)
    leaves = jax.tree.leaves(params) or jax.tree.leaves(zeros)
    kept = parts.kept(leaves)
    dtype = jnp.result_type(jnp.float32, *kept)
    base, largest = parts.settings.diagonal, parts.settings.statistics.largest
    return step_lib.KroneckerState(
      jnp.zeros((), jnp.int32),
      tuple(
        block_lib.init(layout, largest, dtype)
        for layout in parts.layouts.values()
      ),
      parts.chain.init(kept),
      base.init(parts.rest(leaves)) if base else (),
    )

  def factor_form(self, control: tuple[int, ...]) -> protocol.FactorForm:
    """See ``BoundBase``."""
    parts = self._parts
    layout = parts.layouts.get(control)
    if layout is not None:
      if len(layout.out) > 1 or layout.groups:
        return None
      return 'matrix' if layout.ekfac else 'number'
    places = [parts.others.index(i) for i in control]
    return diagonal.factor_form(self._isotropic, places)

  @functools.cached_property
  def _isotropic(self) -> list[bool]:
    """Of the diagonal base, for each of the leaves that it has."""
    base = self._parts.settings.diagonal
    assert base is not None
    rest = self._parts.rest(jax.tree.leaves(self._params))
    return diagonal.isotropic(base, rest)

  def reads_rows(self, players: Sequence[gradients_lib.Player]) -> bool:
    """See ``BoundBase``; EKFAC's ``s``, if it cannot be had from factors."""
    control = tuple(i for player in players for i in player.indices)
    layout = self._parts.layouts.get(control)
    if layout is None or not layout.ekfac:
      return False
    return not squares.in_factors(players)

  def begin(
    self, state: Any, params: Any, context: protocol.StepContext
  ) -> step_lib.KroneckerCurvature:
    """See ``BoundBase``."""
    return step_lib.KroneckerCurvature(self._parts, state, params, context)


def bind(
  settings: step_lib.Settings,
  graph: graph_lib.LayerGraph,
  decisions: Sequence[range],
  cooperation: str,
) -> BoundKronecker:
  """Ties the base of these settings to a graph, see ``BaseOptimizer``.

  Raises:
    OptionError: for a control without a Kronecker rule, if no diagonal is
      named; for players whose joint factors would be too large.
  """
  layouts: dict[tuple[int, ...], block_lib.Layout] = {}
  others: list[int] = []
  for span in decisions:
    stages = [graph.stages[t] for t in span]
    control = tuple(i for stage in stages for i in stage.control)
    if not all(graph.has_kronecker(t) for t in span):
      if settings.diagonal is None:
        raise errors.OptionError(
          _without_rule(graph, span, settings), 'diagonal'
        )
      others.extend(control)
      continue
    forms = [s.closed_form for s in stages if s.closed_form]
    layouts[control] = _layout(graph, span, forms, settings, cooperation)
  if graph.unread:
    others.extend(graph.unread)
    if settings.diagonal is None:
      settings = settings._replace(diagonal=_of_damping(settings))
  parts = [
    optax.identity() if settings.momentum is None
    else optax.trace(settings.momentum),
    optax.scale_by_learning_rate(settings.learning_rate),
  ]  # fmt: skip
  chain = optax.chain(*parts)
  return BoundKronecker(
    step_lib.Parts(settings, layouts, tuple(others), chain), graph.params
  )


def _of_damping(settings: step_lib.Settings) -> diagonal.Base:
  """``Q_uu = gamma / eta``: what is left where factors and moment are zero."""
  rate, damping = settings.learning_rate, settings.damping
  if callable(rate):
    return diagonal.sgd(lambda count: rate(count) / damping)
  return diagonal.sgd(rate / damping)


def _layout(
  graph: graph_lib.LayerGraph,
  span: range,
  forms: Sequence[graph_lib.ClosedForm],
  settings: step_lib.Settings,
  cooperation: str,
) -> block_lib.Layout:
  out, into = [f.c for f in forms], [f.width for f in forms]
  names = ', '.join(repr(graph.stages[t].name) for t in span)
  largest = settings.statistics.largest
  if len(span) > 1 and max(sum(out), sum(into)) > largest:
    raise errors.OptionError(
      f'The players {names} are updated jointly: expected factors of at most '
      f'Statistics(largest={largest}) rows, got {max(sum(out), sum(into))}. '
      f"Raise it, or use cooperation='none'.",
      'largest',
    )
  game = graph.game_of(span)
  return block_lib.Layout(
    tuple(out),
    tuple(into),
    game.alike,
    separate_bases=cooperation == 'schur' and len(span) > 1,
    identical=game.direct and not any(game.alike),
    ekfac=settings.ekfac,
    diagonal_inputs=forms[0].has_diagonal_inputs,
    groups=forms[0].groups,
  )


def _without_rule(
  graph: graph_lib.LayerGraph, span: range, settings: step_lib.Settings
) -> str:
  name = 'ekfac' if settings.ekfac else 'kfac'
  stages = [graph.stages[t] for t in span if not graph.has_kronecker(t)]
  paths = ', '.join(repr(graph.paths[i]) for s in stages for i in s.control)
  return (
    f'{name} has no Kronecker rule for {paths} (stage of kind '
    f'{stages[0].kind!r}): expected the kernel and bias of a dense layer or of '
    f'a convolution, or the table of an embedding, read once. Name a diagonal '
    f'for the rest: {name}(lr, diagonal=adam(1e-3)).'
  )
