"""Which stages play together, where they stand, and what follows from it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import kronecker_games as games
import numpy as np
import oracle_kronecker as ok
import pytest
from kronecker_cases import (
  LOSSES,
  Case,
  assert_close,
  draw,
  matrices,
  parameters,
  stepper,
)
from oracle_layers import applied
from oracle_recursion import Decision

import gtddp_jax as gt

X = draw(4, 3)
SQUARE = {name: (3, 3) for name in 'uvwz'}


def traced(function: Callable, shapes: Any = None, x: Any = X) -> gt.LayerGraph:
  """`function(layer, x)`, with a layer for each name in `shapes`."""
  params = parameters(shapes or SQUARE)

  def apply_fn(params: Any, x: jax.Array) -> jax.Array:
    return function(lambda name, *of: applied(params[name], *of), x)

  graph = gt.trace(apply_fn, params, x)
  merged = graph.in_order('merge')
  expected = apply_fn(params, x)
  np.testing.assert_allclose(graph(params, x), expected, atol=1e-13)
  np.testing.assert_allclose(merged(params, x), expected, atol=1e-13)
  back = merged.in_order('program')
  assert [s.name for s in back.stages] == [s.name for s in graph.stages]
  return graph


def players(graph: gt.LayerGraph) -> list[tuple[str, ...]]:
  return [
    tuple(graph.stages[t].name for t in game.stages) for game in graph.games
  ]


@pytest.mark.parametrize(
  ('build', 'names', 'alike', 'direct'),
  [
    (games.dense, ('main', 'side'), (0, 1), True),
    (games.three, ('a', 'b', 'c'), (0, 1, 1), True),
    (games.convolutions, ('main', 'side'), (0, 1), False),
    (games.coincident, ('u', 'v'), (0, 0), True),
  ],
)
def test_players_are_found(
  build: Callable, names: tuple[str, ...], alike: Any, direct: bool
) -> None:
  graph = build().trace()
  assert players(graph) == [names]
  [game] = graph.games
  assert (game.alike, game.direct) == (alike, direct)


def test_the_summary_names_the_partners() -> None:
  table = [line.split() for line in games.three().trace().summary().split('\n')]
  assert table[0][-1] == 'meets'
  assert [row[-2:] for row in table[3:6]] == [
    ['2', '3'],
    ['1', '3'],
    ['1', '2'],
  ]
  assert table[2][-1] == table[6][-1] == 'kronecker'
  alone = traced(lambda layer, x: layer('u', x), {'u': (3, 3)})
  assert 'meets' not in alone.summary()


def chained(layer: Callable, x: jax.Array) -> jax.Array:
  """v depends on u."""
  u = layer('u', x)
  return layer('w', u + layer('v', jnp.tanh(u))) + layer('z', x) * x


def read_twice(layer: Callable, x: jax.Array) -> jax.Array:
  """u is read after the add as well, and v is an output's part."""
  u, v = layer('u', x), layer('v', x)
  return layer('w', u + v) * u * layer('z', x)


def tied(layer: Callable, x: jax.Array) -> jax.Array:
  """u is used again later."""
  h = jnp.tanh(layer('u', x) + layer('v', x))
  return layer('w', jnp.tanh(layer('u', h))) * layer('z', h)


def identity(layer: Callable, x: jax.Array) -> jax.Array:
  """An identity shortcut has no control."""
  x = x + layer('v', jnp.tanh(layer('u', x)))
  return x + layer('z', jnp.tanh(layer('w', x)))


def gated(layer: Callable, x: jax.Array) -> jax.Array:
  """Outputs meet in products, and after a mean over features."""
  h = layer('u', x) * layer('v', x)
  return jnp.sum(layer('w', h), 1, keepdims=True) + jnp.sum(
    layer('z', h), 1, keepdims=True
  )


@pytest.mark.parametrize(
  'function', [chained, read_twice, tied, identity, gated]
)
def test_none_is_found_where_none_is(function: Callable) -> None:
  assert traced(function).games == ()


@pytest.mark.parametrize('act', [jax.nn.relu, jax.nn.sigmoid, lambda h: -2 * h])
def test_an_activation_may_stand_before_the_add(act: Callable) -> None:
  graph = traced(
    lambda layer, x: act(layer('u', x)) + layer('v', x),
    {'u': (3, 3), 'v': (3, 3)},
  )
  [game] = graph.games
  assert (game.stages, game.direct) == ((0, 1), False)


def test_subtraction_is_no_coincidence() -> None:
  """Cotangents of opposite sign are not equal."""
  graph = traced(
    lambda layer, x: layer('u', x) - layer('v', x), {'u': (3, 3), 'v': (3, 3)}
  )
  assert all(not game.direct for game in graph.games)


def test_an_output_added_twice_is_no_coincidence() -> None:
  """The cotangent of u is twice that of v."""

  def doubled(layer: Callable, x: jax.Array) -> jax.Array:
    u = layer('u', x)
    return (u + u) + layer('v', x)

  graph = traced(doubled, {'u': (3, 3), 'v': (3, 3)})
  assert all(not game.direct for game in graph.games)


def test_rows_are_alike_if_windows_are_whatever_the_layout() -> None:
  """Convolutions of one input whose kernels, outputs first, end differently."""

  def convolve(kernel: jax.Array, x: jax.Array) -> jax.Array:
    dims = 'NCHW', 'OIHW', 'NCHW'
    return jax.lax.conv_general_dilated(
      x, kernel, (1, 2), 'VALID', dimension_numbers=dims
    )

  def both(params: Any, x: jax.Array) -> jax.Array:
    h = convolve(params['u'], x) + convolve(params['v'], x)
    return h.reshape(len(x), -1)

  for width, alike in (2, (0, 1)), (1, (0, 0)):
    params = {'u': draw(3, 2, 1, 1), 'v': draw(3, 2, 1, width)}
    [game] = gt.trace(both, params, draw(4, 2, 3, 6)).games
    assert game.alike == alike


def early(layer: Callable, x: jax.Array) -> jax.Array:
  """Two residual blocks whose shortcuts are computed first."""
  for a, b, shortcut in (('a', 'b', 'p'), ('c', 'd', 'q')):
    side = layer(shortcut, x)
    x = jnp.tanh(layer(b, jnp.tanh(layer(a, x))) + side)
  return layer('z', x)


def test_an_early_projection_moves_next_to_the_merge() -> None:
  graph = traced(early, {name: (3, 3) for name in 'abpcdqz'})
  assert [s.name for s in graph.stages] == list('pabqcdz')
  assert players(graph) == [('p', 'b'), ('q', 'd')]
  assert len(graph.decisions(True)) == 7  # none stands next to its partner
  merged = graph.in_order('merge')
  assert [s.name for s in merged.stages] == list('apbcqdz')
  assert players(merged) == [('p', 'b'), ('q', 'd')]
  assert merged.decisions(True) == [
    range(0, 1), range(1, 3), range(3, 4), range(4, 6), range(6, 7),
  ]  # fmt: skip
  assert merged.decisions(False) == [range(t, t + 1) for t in range(7)]
  assert merged.paths == graph.paths


def test_games_may_overlap_in_program_order() -> None:
  def overlapping(layer: Callable, x: jax.Array) -> jax.Array:
    a, b = layer('a', x), layer('b', x)
    left = jnp.tanh(a + layer('c', jnp.tanh(x)))
    return layer('z', left * jnp.tanh(b + layer('d', left)))

  graph = traced(overlapping, {name: (3, 3) for name in 'abcdz'})
  assert players(graph) == [('a', 'c'), ('b', 'd')]
  merged = graph.in_order('merge')
  assert [s.name for s in merged.stages] == list('acbdz')
  assert len(merged.decisions(True)) == 3


def test_an_order_that_is_none_is_refused() -> None:
  graph = games.dense().trace()
  assert graph.in_order('merge').in_order('merge').order == 'merge'
  with pytest.raises(gt.errors.OptionError, match='order'):
    graph.in_order('last')


def test_cooperation_changes_nothing_for_a_first_order_base() -> None:
  case = games.dense()
  loss, batch = LOSSES[case.phi], (case.inputs, case.targets)
  plain = gt.gt_ddp(case.trace(), loss, gt.adam(0.1), feedback=False)
  with pytest.warns(gt.errors.NoGameWarning, match='changes nothing'):
    tx = gt.gt_ddp(
      case.trace(), loss, gt.adam(0.1), cooperation='schur', feedback=False
    )
  found = [
    stepper(t)(t.init(case.params), case.params, batch)[0] for t in (plain, tx)
  ]
  jax.tree.map(np.testing.assert_array_equal, *found)


def test_cooperation_without_players_warns() -> None:
  graph = traced(lambda layer, x: layer('u', x), {'u': (3, 3)})
  with pytest.warns(UserWarning, match='no stages whose outputs meet'):
    gt.gt_ddp(
      graph,
      gt.losses.squared_error,
      gt.kfac(0.1),
      cooperation='schur',
      trust_region=None,
    )
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    gt.gt_ddp(graph, gt.losses.squared_error, gt.kfac(0.1), trust_region=None)


# Theorem 3, Corollary 7, and players without correlation.


def one_step(
  case: Case, base: Any, cooperation: str, **more: Any
) -> dict[str, Any]:
  tx = gt.gt_ddp(
    case.trace(),
    LOSSES[case.phi],
    base,
    cooperation=cooperation,
    feedback=False,
    **more,
  )
  batch = case.inputs, case.targets
  return matrices(stepper(tx)(tx.init(case.params), case.params, batch)[0])


def test_theorem_3() -> None:
  damping = 1e-2
  case = games.dense()
  data = case.data()
  u, v = data['main'], data['side']
  A, B = ok.factors(
    np.concatenate([u.x, v.x], 2), np.concatenate([u.slope, v.slope], 3)
  )
  found = one_step(case, gt.kfac(1.0, damping), 'kronecker')
  expected = ok.theorem_3(A, B, damping, [u.Q_u, v.Q_u])
  pair = {'main': -expected[0], 'side': -expected[1]}
  assert_close({name: found[name] for name in pair}, pair, 1e-9)


def test_corollary_7() -> None:
  """Of equal gradients each player takes `-g / (2 s + gamma)`; EKFAC alone
  takes `-g / (s + gamma)`."""
  case = games.coincident()
  data = case.data()['u']
  A, B = ok.factors(data.x, data.slope)
  U_A, U_B = np.linalg.eigh(A)[1], np.linalg.eigh(B)[1]
  s = ok.ekfac_scale(U_A, U_B, ok.sample_gradients(data.x, data.slope))
  for cooperation, weight in ('schur', 2), ('none', 1):
    found = one_step(case, gt.ekfac(1.0, 1e-2), cooperation)
    step = -ok.ekfac_solve(U_A, U_B, weight * s, 1e-2, data.Q_u)
    pair = {'u': step, 'v': step}
    assert_close({name: found[name] for name in pair}, pair, 1e-9)


def apart(act: Callable) -> Case:
  """Each sample has rows of one of two players alone, so A_uv = 0. With
  `act` = relu its cotangent is that player's alone too, so B_uv = 0."""
  half = (jnp.arange(12) % 2)[:, None]
  x = jnp.concatenate([half * draw(12, 3), (1 - half) * draw(12, 2, seed=1)], 1)

  def meet(u: jax.Array, v: jax.Array) -> jax.Array:
    return act(u) + act(v)

  chain = (
    Decision(('u',), lambda x, layer: (layer('u', x[:, :3]), x[:, 3:])),
    Decision(('v',), lambda c, layer: meet(c[0], layer('v', c[1]))),
    Decision(('end',), lambda h, layer: layer('end', h)),
  )
  params = parameters({'u': (3, 2), 'v': (2, 2), 'end': (2, 2)}, ['u', 'v'])
  return Case(chain, params, x, draw(12, 2, seed=2))


def test_players_of_uncorrelated_inputs_step_alone() -> None:
  """With A_uv = 0 'schur' is EKFAC; 'kronecker' if B_uv = 0, too."""
  base = gt.ekfac(1.0, 1e-2)
  for act, same in (jax.nn.relu, True), (lambda h: h, False):
    case = apart(act)
    alone = one_step(case, base, 'none')
    assert_close(one_step(case, base, 'schur'), alone, 1e-10)
    together = one_step(case, base, 'kronecker')
    if same:
      assert_close(together, alone, 1e-10)
    else:
      off = np.max(np.abs(together['u'] - alone['u']))
      assert off > 0.1 * np.max(np.abs(alone['u']))
