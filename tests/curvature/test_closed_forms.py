"""KFAC and EKFAC of embeddings and of groups of features.

Against dense matrices: a table is the kernel of a dense layer of rows that have
a 1 in the place of the token, and each group is a convolution of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle_kronecker as ok
import oracle_layers as layers
import pytest
from kronecker_cases import RATE, draw, stepper

import gtddp_jax as gt
from gtddp_jax import graph as graph_lib
from gtddp_jax.curvature.kronecker import groups as grouped
from gtddp_jax.curvature.kronecker import inverse

LOSS = gt.losses.squared_error
DAMPING, BATCH, TOKENS, FEATURES = 0.2, 5, 7, 3
EVERY = {'every': 2, 'basis_every': 2, 'decay': 0.7}
either = pytest.mark.parametrize('kind', ['kfac', 'ekfac'])


def tokens(t: int, length: int) -> jax.Array:
  """Some of them several times in a sample."""
  rng = np.random.default_rng(t)
  return jnp.asarray(rng.integers(0, TOKENS, (BATCH, length)))


def one_hot(which: jax.Array) -> jax.Array:
  return jax.nn.one_hot(which, TOKENS, dtype=jnp.float64)


TABLE: Any = {
  'embed': {'table': draw(TOKENS, FEATURES)},
  'head': {'w': draw(FEATURES, 2, seed=1), 'b': draw(2, seed=2)},
}


def rest(p: Any, h: jax.Array) -> jax.Array:
  h = jnp.tanh(h).mean(axis=1)
  return h @ p['head']['w'] + p['head']['b'][None]


def embedded(p: Any, x: jax.Array) -> jax.Array:
  return rest(p, jnp.take(p['embed']['table'], x, axis=0))


def multiplied(p: Any, x: jax.Array) -> jax.Array:
  return rest(p, x @ p['embed']['table'])


def statistics(**more: Any) -> gt.Statistics:
  return gt.Statistics(**EVERY, **more)


@functools.cache
def graphs(length: int) -> tuple[gt.LayerGraph, gt.LayerGraph]:
  x = tokens(0, length)
  return gt.trace(embedded, TABLE, x), gt.trace(multiplied, TABLE, one_hot(x))


@either
@pytest.mark.parametrize('value', ['frozen', 'bellman', 'coupled'])
@pytest.mark.parametrize(
  ('length', 'terminal', 'more'),
  [
    (4, 'gradient', {}),
    (1, 'gauss_newton', {}),
    (4, 'gauss_newton', {'positions': 'reduce', 'source': 'curvature'}),
  ],
)
def test_a_table_is_the_kernel_of_a_dense_layer(
  length: int, terminal: str, more: dict[str, Any], value: str, kind: str
) -> None:
  """Of which only the diagonal of the factor of the inputs is kept."""
  steps = []
  for graph in graphs(length):
    base = getattr(gt, kind)(
      RATE, DAMPING, statistics=statistics(largest=TOKENS - 1, **more)
    )
    steps.append(
      stepper(gt.gt_ddp(graph, LOSS, base, terminal, value, trust_region=None))
    )
    state = gt.gt_ddp(
      graph, LOSS, base, terminal, value, trust_region=None
    ).init(TABLE)
  assert [g.stages[0].kind for g in graphs(length)] == ['embedding', 'dense']
  params, states = TABLE, [state, state]
  for t in range(3):
    x, y = tokens(t, length), draw(BATCH, 2, seed=30 + t)
    found, states[0] = steps[0](states[0], params, (x, y))
    expected, states[1] = steps[1](states[1], params, (one_hot(x), y))
    for one, other in zip(
      *map(jax.tree.leaves, (found, expected)), strict=True
    ):
      np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)
    params = jax.tree.map(jnp.add, params, found)


def cotangents(
  of: Callable[[Any, jax.Array], jax.Array], p: Any, h: jax.Array, y: Any
) -> np.ndarray:
  """Derivative of the loss of each sample by ``h``, like it."""

  def loss(one: jax.Array, target: jax.Array) -> jax.Array:
    return LOSS(of(p, one[None]), target[None])[0]

  return np.asarray(jax.vmap(jax.grad(loss))(h, y))


@either
@pytest.mark.parametrize('positions', ['expand', 'reduce'])
def test_an_embedding_against_dense_matrices(positions: str, kind: str) -> None:
  graph, _ = graphs(4)
  base = getattr(gt, kind)(
    RATE, DAMPING, statistics=statistics(positions=positions)
  )
  tx = gt.gt_ddp(graph, LOSS, base, 'gradient', feedback=False)
  step, state, params = stepper(tx), tx.init(TABLE), TABLE
  rival = ok.Simulator(
    kind, DAMPING, positions=positions, largest=TOKENS - 1, **EVERY
  )
  for t in range(3):
    x, y = tokens(t, 4), draw(BATCH, 2, seed=30 + t)
    updates, state = step(state, params, (x, y))
    rows = np.asarray(one_hot(x))
    h = cotangents(rest, params, params['embed']['table'][x], y)[:, None]
    G = np.einsum('irtc,ita->ca', h, rows) / BATCH
    (frame,) = state.base.blocks[0].frames
    basis = np.eye(TOKENS), np.asarray(frame.out.vectors)
    expected = -RATE * rival.step(t, rows, h, G, basis).T
    np.testing.assert_allclose(
      updates['embed']['table'], expected, rtol=1e-9, atol=1e-11
    )
    params = jax.tree.map(jnp.add, params, updates)


@pytest.mark.parametrize('mode', ['fill', 'clip'])
def test_tokens_outside_of_the_table(mode: str) -> None:
  """Read the nearest row, or none, as the network does; a negative one counts
  from the end."""

  def network(p: Any, x: jax.Array) -> jax.Array:
    h = p['embed']['table'].at[x].get(mode=mode, fill_value=0.3)
    return rest(p, h)

  x = jnp.asarray([[0, 9, 9], [-1, 6, 2], [7, -8, 1]])
  y = draw(3, 2, seed=3)
  graph = gt.trace(network, TABLE, x, verify=mode == 'clip')
  assert [s.kind for s in graph.stages] == ['embedding', 'dense']
  tx = gt.gt_ddp(graph, LOSS, gt.adam(0.1), value='coupled')
  assert gt.verify_step(tx, TABLE, (x, y)).ok


# Convolutions with groups of features.

GROUPS = {
  'depthwise': (4, (3, 2, 1, 4), {}),
  'multiplied': (2, (2, 3, 1, 6), {'window_strides': (2, 1)}),
  'grouped': (2, (3, 3, 2, 6), {'padding': 'VALID'}),
}


def convolved(case: str, p: Any, x: jax.Array) -> jax.Array:
  groups, _, options = GROUPS[case]
  how = {'window_strides': (1, 1), 'padding': 'SAME', **options}
  h = jax.lax.conv_general_dilated(
    x,
    p['c']['w'],
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
    **how,
  )
  return h + p['c']['b'].reshape(1, 1, 1, -1)


def ending(p: Any, h: jax.Array) -> jax.Array:
  return jnp.tanh(h).mean(axis=(1, 2)) @ p['d']['w']


def grouped_case(case: str) -> tuple[Any, gt.LayerGraph]:
  groups, shape, _ = GROUPS[case]
  params = {
    'c': {'w': draw(*shape, seed=1), 'b': draw(shape[-1], seed=2)},
    'd': {'w': draw(shape[-1], 2, seed=3)},
  }
  x = draw(BATCH, 5, 4, groups * shape[2])
  return params, gt.trace(
    lambda p, x: ending(p, convolved(case, p, x)), params, x
  )


@either
@pytest.mark.parametrize(
  ('case', 'positions', 'largest'),
  [
    ('depthwise', 'expand', 4096),
    ('multiplied', 'reduce', 4096),
    ('grouped', 'expand', 5),
  ],
)
def test_each_group_is_a_convolution_of_its_own(
  case: str, positions: str, largest: int, kind: str
) -> None:
  groups, shape, options = GROUPS[case]
  params, graph = grouped_case(case)
  assert [stage.kind for stage in graph.stages] == ['grouped conv', 'dense']
  base = getattr(gt, kind)(
    RATE,
    DAMPING,
    statistics=statistics(positions=positions, largest=largest),
  )
  tx = gt.gt_ddp(graph, LOSS, base, 'gradient', feedback=False)
  step, state = stepper(tx), tx.init(params)
  rivals = [
    ok.Simulator(kind, DAMPING, positions=positions, largest=largest, **EVERY)
    for _ in range(groups)
  ]
  cin, cout = shape[2], shape[3] // groups
  for t in range(3):
    x, y = draw(BATCH, 5, 4, groups * cin, seed=10 + t), draw(BATCH, 2, seed=t)
    updates, state = step(state, params, (x, y))
    h = cotangents(ending, params, convolved(case, params, x), y)
    (frame,) = state.base.blocks[0].frames
    for n, rival in enumerate(rivals):
      own = slice(n * cout, (n + 1) * cout)
      rows = layers.rows(
        'conv',
        x[..., n * cin : (n + 1) * cin],
        (*shape[:3], cout),
        options.get('window_strides'),
        options.get('padding', 'SAME'),
      )
      bars = h[..., own].reshape(BATCH, 1, -1, cout)
      G = np.einsum('irtc,ita->ca', bars, rows) / BATCH
      basis = square(frame.into.vectors[n]), square(frame.out.vectors[n])
      expected = -RATE * rival.step(t, rows, bars, G, basis)
      found = layers.matrix_of(
        {key: leaf[..., own] for key, leaf in updates['c'].items()}
      )
      np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)
    params = jax.tree.map(jnp.add, params, updates)


def square(vectors: jax.Array) -> np.ndarray:
  return np.eye(len(vectors)) if vectors.ndim == 1 else np.asarray(vectors)


@either
@pytest.mark.parametrize('value', ['bellman', 'coupled'])
def test_groups_take_part_in_a_sweep(value: str, kind: str) -> None:
  params, graph = grouped_case('grouped')
  base = getattr(gt, kind)(RATE, DAMPING, statistics=statistics())
  tx = gt.gt_ddp(graph, LOSS, base, 'gauss_newton', value, trust_region=None)
  batch = draw(BATCH, 5, 4, 4), draw(BATCH, 2, seed=9)
  report = gt.verify_step(tx, params, batch)
  assert report.ok, str(report)


def test_the_inverse_of_groups_is_a_matrix_for_each() -> None:
  groups, c, a = 3, 2, 4
  each = inverse.EigenbasisInverse(
    (draw(groups, c, c),), (draw(groups, a, a, seed=1),), draw(groups, c, a)
  )
  rows = draw(2, 5, groups * c * a, seed=3)
  found = grouped.Grouped(each).scaled(jnp.asarray(0.5)).apply(rows)
  parts = []
  for n, part in enumerate(np.split(np.asarray(rows), groups, axis=-1)):
    basis = np.kron(each.out[0][n], each.into[0][n])
    parts.append(part @ (basis * np.ravel(each.scale[n])) @ basis.T)
  expected = 0.5 * np.concatenate(parts, axis=-1)
  np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_products_of_tokens_are_those_of_rows_with_a_one() -> None:
  embedding, dense = (graph.stages[0].closed_form for graph in graphs(4))
  assert embedding is not None and dense is not None
  x, h, side = tokens(3, 4), draw(BATCH, 2, 1, 4, FEATURES), draw(TOKENS)
  number, nothing = jnp.asarray(1.7), jnp.zeros(())

  def products(form: Any, x: jax.Array) -> list[jax.Array]:
    rows, bars = form.factors(x, h)
    rows = form.turned(rows, side)
    factors = graph_lib.OnFactors(rows, bars, number, nothing)
    return [form.gram(factors), form.cross_gram(factors)]

  pairs = zip(
    products(embedding, x[:, None, :, None]),
    products(dense, one_hot(x)[:, None]),
    strict=True,
  )
  for found, expected in pairs:
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
