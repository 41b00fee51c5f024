"""The protocol of a base: one written here, and what a base may not do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from two_layers import LOSS, PARAMS, X, Y, close, network

import gtddp_jax as gt

RATE = 0.1


class Matrix:
  """`Q_uu` is a full matrix of every leaf, which is the identity over RATE."""

  has_curvature = True
  couples_players = False
  needs_operators = False

  def init(self, params: Any) -> Any:
    del params
    return jnp.zeros((), jnp.int32)

  def update(self, updates: Any, state: Any, params: Any = None) -> Any:
    del params
    return jax.tree.map(lambda g: -RATE * g, updates), state + 1

  def check_recursion(self) -> None:
    pass

  def bind(self, graph: Any, decisions: Any, cooperation: str) -> Any:
    del decisions, cooperation
    return Bound(jax.tree.leaves(graph.params))


class Bound:
  def __init__(self, shapes: list[Any]):
    self.shapes = shapes

  def init(self, params: Any) -> Any:
    return Matrix().init(params)

  def factor_form(self, control: Any) -> None:
    del control

  def reads_rows(self, players: Any) -> bool:
    del players
    return False

  def begin(self, state: Any, params: Any, context: Any) -> Any:
    del params, context
    return Curvature(self, state)


class Curvature:
  def __init__(self, bound: Bound, state: Any):
    self.bound, self.state = bound, state
    self.observed: set[int] = set()

  def observe(self, control: Any, slope: Any, q_u: Any) -> None:
    assert len(control) == len(q_u)
    assert slope.ndim == 2
    self.observed.update(control)

  def observe_rest(self, slope: Any) -> None:
    assert slope.ndim == 2

  def inverse(self, control: Any) -> Any:
    assert self.observed.issuperset(control)
    size = sum(int(np.prod(self.bound.shapes[i].shape)) for i in control)
    return Inverse(RATE * jnp.eye(size))

  def needed(self, control: Any) -> Any:
    return control

  def step(self, control: Any, gradients: Mapping[int, Any]) -> Any:
    assert set(gradients) == set(control)
    return tuple(-RATE * gradients[i] for i in control)

  def finish(self, gradients: Mapping[int, Any]) -> Any:
    assert len(gradients) == len(self.bound.shapes)
    return self.state + 1


class Inverse:
  def __init__(self, matrix: Any):
    self.matrix = matrix

  def apply(self, rows: Any, packing: Any) -> Any:
    del packing
    return rows @ self.matrix


@pytest.mark.parametrize('feedback', [True, False])
@pytest.mark.parametrize('value', ['frozen', 'bellman', 'coupled'])
def test_a_base_needs_no_change_of_the_library(
  value: str, feedback: bool
) -> None:
  graph = gt.trace(network, PARAMS, X)
  steps = []
  for base in Matrix(), gt.sgd(RATE):
    tx = gt.gt_ddp(
      graph, LOSS, base, value=value, feedback=feedback, trust_region=None
    )
    state = tx.init(PARAMS)
    updates, state = jax.jit(tx.update)(None, state, PARAMS, batch=(X, Y))
    steps.append(updates)
  close(*steps)
  assert np.any(steps[0]['last']['w'])


def test_a_base_that_mixes_layers_is_refused_by_a_recursion() -> None:
  graph = gt.trace(network, PARAMS, X)
  sgd = gt.sgd(RATE)

  def update(g: Any, state: Any, params: Any = None, **extra: Any) -> Any:
    norm = jnp.sqrt(sum(jnp.vdot(v, v) for v in jax.tree.leaves(g)))
    updates, state = sgd.update(g, state, params, **extra)
    return jax.tree.map(lambda u: u / norm, updates), state

  mixed = gt.Base(sgd.init, update, sgd.inverse)
  for value in 'frozen', 'bellman':
    tx = gt.gt_ddp(graph, LOSS, mixed, value=value, trust_region=None)
    state = tx.init(PARAMS)
    if value == 'frozen':
      tx.update(None, state, PARAMS, batch=(X, Y))
      continue
    with pytest.raises(gt.errors.OptionError, match='global norm') as found:
      tx.update(None, state, PARAMS, batch=(X, Y))
    assert found.value.argument == 'value'
