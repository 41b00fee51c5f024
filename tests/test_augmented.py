"""The batch as one state: dense matrices agree, with statistics too."""

from __future__ import annotations

from typing import Any

import agreement
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

import gtddp_jax as gt
from gtddp_jax import augmented

BATCH, WIDTHS, RATE = 3, (3, 4, 2), 0.7
RNG = np.random.default_rng(3)
X = jnp.asarray(RNG.normal(size=(BATCH, WIDTHS[0])))
LABELS = jnp.asarray([0, 1, 1])
PARAMS = {
  'a': {'w': jnp.asarray(RNG.normal(size=WIDTHS[:2]))},
  'b': {'w': jnp.asarray(RNG.normal(size=(WIDTHS[1],) * 2))},
  'c': {'w': jnp.asarray(RNG.normal(size=WIDTHS[1:]))},
}


def first(x: jax.Array, w: jax.Array) -> jax.Array:
  return jnp.tanh(x @ w)


def normalized(x: jax.Array, w: jax.Array) -> jax.Array:
  """A layer, and batch normalisation without scale."""
  h = x @ w
  mean = jnp.broadcast_to(h.mean(axis=0), h.shape)
  variance = jnp.square(h - mean).mean(axis=0)
  return jnp.tanh((h - mean) / jnp.sqrt(jnp.broadcast_to(variance, h.shape)))


def last(x: jax.Array, w: jax.Array) -> jax.Array:
  return x @ w


NETS = {
  'free': (first, first, last),
  'batch': (first, normalized, last),
}


def dense(
  net: Any, terminal: str, keep: Any = lambda V: V
) -> tuple[oracle.Solution, list[Any]]:
  """The oracle, with the whole batch as its only sample."""
  chain = [
    oracle.Stage((f'{name}/w',), lambda x, u, f=f: f(x, u['w']))
    for name, f in zip('abc', net, strict=True)
  ]
  leaves = oracle.leaves_of(PARAMS)
  stages, (outputs,) = oracle.linearise(chain, leaves, X[None])

  def phi(output: jax.Array, label: jax.Array) -> jax.Array:
    return -jax.nn.log_softmax(output)[label]

  end = oracle.terminal_value(list(outputs), LABELS, phi, terminal)
  whole = oracle.Terminal(
    end.loss,
    [np.concatenate(end.V_x) / BATCH],
    [oracle._block_diagonal(end.V_xx) / BATCH],
  )
  return oracle.solve_coupled(
    stages, whole, oracle.sgd(RATE), keep=keep
  ), stages


@pytest.fixture(
  scope='module', params=[('free', 'gauss_newton'), ('batch', 'gauss_newton')]
)
def case(request: pytest.FixtureRequest) -> Any:
  name, terminal = request.param
  net = NETS[name]

  def apply_fn(params: Any, x: jax.Array) -> jax.Array:
    for key, f in zip('abc', net, strict=True):
      x = f(x, params[key]['w'])
    return x

  graph = gt.trace(apply_fn, PARAMS, X)
  loss = gt.losses.softmax_cross_entropy
  found = jax.jit(
    lambda p: augmented.solve(
      graph, loss, p, (X, LABELS), gt.sgd(RATE), terminal
    )
  )(PARAMS)
  return name, terminal, graph, found


def test_blocks_and_updates_are_those_of_dense_matrices(case: Any) -> None:
  name, terminal, _, found = case
  expected, stages = dense(NETS[name], terminal)
  agreement.assert_agree(found.updates, expected.updates, 1e-9)
  assert found.names == ('a', 'b', 'c') and found.kinds[0] == 'dense'
  assert not np.any(found.blocks[0])
  for t in 1, 2:
    V = expected.V_xx[t]
    width = stages[t].x.size // BATCH
    blocks = V.reshape(BATCH, width, BATCH, width)
    norms = np.linalg.norm(blocks, axis=(1, 3))
    np.testing.assert_allclose(found.blocks[t], norms, rtol=1e-9)
    # The samples are coupled before the last stage, too.
    assert norms[0, 1] > 1e-5 * norms[0, 0]


def test_without_the_blocks_between_samples(case: Any) -> None:
  name, terminal, graph, found = case
  if name == 'batch':
    assert not np.allclose(found.alone['a']['w'], found.updates['a']['w'])
    return

  def keep(V: np.ndarray) -> np.ndarray:
    width = len(V) // BATCH
    return V * np.kron(np.eye(BATCH), np.ones((width, width)))

  expected, _ = dense(NETS[name], terminal, keep)
  agreement.assert_agree(found.alone, expected.updates, 1e-9)
  assert not np.allclose(found.alone['a']['w'], found.updates['a']['w'])
  tx = gt.gt_ddp(
    graph, gt.losses.softmax_cross_entropy, gt.sgd(RATE), terminal, 'coupled'
  )
  updates, _ = jax.jit(
    lambda p: tx.update(None, tx.init(p), p, batch=(X, LABELS))
  )(PARAMS)
  agreement.assert_agree(found.updates, oracle.leaves_of(updates), 1e-9)


def test_what_it_cannot_solve_is_refused() -> None:
  tied = {'v': jnp.eye(3), 'w': jnp.eye(3)}
  graph = gt.trace(
    lambda p, x: jnp.tanh(jnp.tanh(x @ p['w']) @ p['v']) @ p['w'],
    tied,
    X,
    verify=False,
  )
  given = graph, gt.losses.softmax_cross_entropy, tied, (X, LABELS)
  with pytest.raises(gt.errors.OptionError, match=r"'w', which .* uses again"):
    augmented.solve(*given, gt.sgd(0.1))
  with pytest.raises(gt.errors.OptionError, match=r'expected a base with'):
    augmented.solve(*given, gt.kfac(0.1, 0.1))
