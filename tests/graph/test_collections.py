"""Collections: variables that are no parameters, held and changed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from two_layers import LOSS, PARAMS, X, Y, network

import gtddp_jax as gt
from gtddp_jax import errors


def test_a_collection_may_read_a_control_that_nothing_else_reads() -> None:
  def averaging(v: Any, x: jax.Array, mutable: Any = False) -> Any:
    del mutable
    h = network(v, x)
    mean = 0.9 * v['mean']['w'] + 0.1 * v['first']['w']
    return h, {'mean': {'w': mean + 0 * h.sum()}}

  start = {'mean': {'w': jnp.zeros((5, 4))}}
  graph = gt.trace(averaging, PARAMS, X, collections=start, mutable=['mean'])
  tx = gt.gt_ddp(graph, LOSS, gt.sgd(0.1), trust_region=None)
  _, state = tx.update(None, tx.init(PARAMS), PARAMS, batch=(X, Y))
  found = gt.collections(state)['mean']['w']
  np.testing.assert_allclose(found, 0.1 * PARAMS['first']['w'], rtol=1e-6)


def test_a_changed_collection_is_like_the_one_given() -> None:
  def averaging(v: Any, x: jax.Array, mutable: Any = False) -> Any:
    del mutable
    h = network(v, x)
    return h, {'mean': {'w': h.mean(0), 'more': h.mean(0)}}

  with pytest.raises(errors.ParameterTreeError, match=r"'mean'.*'more'"):
    gt.trace(
      averaging,
      PARAMS,
      X,
      collections={'mean': {'w': X[0, :3]}},
      mutable=['mean'],
    )


def test_a_state_may_be_donated_and_the_graph_used_again() -> None:
  def averaging(v: Any, x: jax.Array, mutable: Any = False) -> Any:
    del mutable
    h = network(v, x)
    return h, {'mean': {'w': v['mean']['w'] + h.mean(0)}}

  start = {'mean': {'w': jnp.zeros(3)}}
  graph = gt.trace(averaging, PARAMS, X, collections=start, mutable=['mean'])
  tx = gt.gt_ddp(graph, LOSS, gt.sgd(0.1), trust_region=None)
  step = jax.jit(
    lambda s: tx.update(None, s, PARAMS, batch=(X, Y)), donate_argnums=0
  )
  step(tx.init(PARAMS))
  step(tx.init(PARAMS))
  assert graph(PARAMS, X).shape == (6, 3)


@pytest.mark.parametrize('name', ['batch_stats', 'fast'])
def test_collections_among_the_parameters_are_refused(name: str) -> None:
  """All that is given as parameters is trained."""
  variables = {'params': PARAMS, name: {'mean': jnp.zeros(5)}}

  def centred(v: Any, x: jax.Array) -> jax.Array:
    return network(v['params'], x - v[name]['mean'][None])

  with pytest.raises(
    errors.ParameterTreeError, match=rf"'{name}'.*collections="
  ):
    gt.trace(centred, variables, X)
  held = {name: variables.pop(name)}
  graph = gt.trace(centred, variables, X, collections=held)
  assert graph.paths == ('params/first/w', 'params/last/w')
