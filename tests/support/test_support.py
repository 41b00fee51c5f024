"""Every row of the support table does what the table says."""

from __future__ import annotations

import collections
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import support
from agreement import assert_agree
from support_case import TABLE, Case
from support_reference import Dense

import gtddp_jax as gt
from gtddp_jax.graph import Fixed

PAGE = pathlib.Path(__file__).parents[2] / 'docs' / 'networks.md'
RATE = 0.05
LEVELS = 'frozen', 'bellman', 'coupled'
CASES = {' '.join(key): case for key, case in TABLE.items()}


@functools.cache
def trace(case: Case, seed: int | None = None) -> gt.LayerGraph:
  """The row's graph, with other keys than the row's where there is a seed."""
  network = case.network()
  options = dict(network.options)
  if seed is not None:
    options['rngs'] = {'dropout': jax.random.key(seed)}
  return gt.trace(
    network.apply_fn,
    network.params,
    network.inputs,
    verify=False,
    **options,
  )


def plain_graph(case: Case) -> gt.LayerGraph:
  """The graph of the function that has its keys and statistics inside."""
  network = case.network()
  owner = {k: v for k, v in network.options.items() if k == 'owner'}
  if owner == network.options:
    return trace(case)
  return gt.trace(
    network.outputs, network.params, network.inputs, verify=False, **owner
  )


def words_of(case: Case) -> dict[str, Any]:
  """What `update` is given besides the batch."""
  options = case.network().options
  return {'rngs': options['rngs']} if 'rngs' in options else {}


def dense_of(case: Case) -> tuple[Dense, oracle.Terminal]:
  network = case.network()
  inputs = tuple(jax.tree.leaves(network.inputs))
  dense = Dense(plain_graph(case), network.params, Fixed((), inputs))
  loss = getattr(gt.losses, network.loss)
  return dense, dense.terminal(network.targets, loss)


@pytest.mark.once
@pytest.mark.parametrize('name', CASES)
def test_the_graph_is_the_network(name: str) -> None:
  network, graph = CASES[name].network(), trace(CASES[name])
  counts = collections.Counter(stage.kind for stage in graph.stages)
  words = ', '.join(f'{counts[kind]} {kind}' for kind in sorted(counts))
  assert words == CASES[name].stages

  @jax.jit
  def both(params: Any, inputs: Any) -> list[Any]:
    results = []
    for function in (network.outputs, graph):
      outputs, pull = jax.vjp(lambda p, f=function: f(p, inputs), params)
      seed = jnp.cos(jnp.arange(outputs.size, dtype=outputs.dtype))
      results.append((outputs, pull(seed.reshape(outputs.shape))))
    return results

  expected, actual = map(jax.tree.leaves, both(network.params, network.inputs))
  for one, other in zip(expected, actual, strict=True):
    np.testing.assert_allclose(other, one, rtol=1e-10, atol=1e-10)


@pytest.mark.once
@pytest.mark.parametrize('name', CASES)
def test_a_step_is_finite_and_that_of_the_dense_recursion(name: str) -> None:
  case, network = CASES[name], CASES[name].network()
  loss = getattr(gt.losses, network.loss)
  levels, rate, expected = ('frozen', 'coupled'), RATE, {}
  if case.independent:
    dense, end = dense_of(case)
    levels, rate = LEVELS, dense.safe_rate(end, RATE)
    expected = {level: dense.solve(end, rate, level) for level in levels}

  # What counts are the keys of the step, not those of the trace.
  graph = trace(case, 9 if 'rngs' in words_of(case) else None)

  @jax.jit
  def steps(params: Any, batch: Any) -> dict[str, Any]:
    updates = {}
    for level in levels:
      tx = gt.gt_ddp(graph, loss, gt.sgd(rate), value=level, trust_region=None)
      updates[level], _ = tx.update(
        None,
        tx.init(params),
        params,
        batch=batch,
        **words_of(case),
      )
    return updates

  updates = steps(network.params, (network.inputs, network.targets))
  paths = oracle.leaves_of(network.params)
  for level in levels:
    leaves = list(map(np.asarray, jax.tree.leaves(updates[level])))
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    assert any(np.abs(leaf).max() > 1e-6 for leaf in leaves)
    if case.independent:
      named = {path: expected[level][i] for i, path in enumerate(paths)}
      assert_agree(updates[level], named, case.tolerance)


@pytest.mark.parametrize(
  'name', [n for n in CASES if 'BatchNorm, training' in n]
)
def test_statistics_after_a_step_are_those_of_flax(name: str) -> None:
  network, graph = CASES[name].network(), trace(CASES[name])
  tx = gt.gt_ddp(
    graph, getattr(gt.losses, network.loss), gt.sgd(RATE), trust_region=None
  )

  @jax.jit
  def step(params: Any) -> Any:
    batch = network.inputs, network.targets
    return gt.collections(
      tx.update(None, tx.init(params), params, batch=batch)[1]
    )

  _, expected = network.apply_fn(
    {**network.params, **network.options['collections']},
    network.inputs,
    mutable=network.options['mutable'],
  )
  actual = step(network.params)
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for one, other in zip(*map(jax.tree.leaves, (expected, actual)), strict=True):
    np.testing.assert_allclose(other, one, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('refusal', support.REFUSALS, ids=lambda r: r.what)
def test_what_is_refused_is_refused_with_a_remedy(
  refusal: support.Refusal,
) -> None:
  error = getattr(gt.errors, refusal.error)
  with pytest.raises(error, match=r'[Ee]xpected'):
    refusal.attempt(gt)


def test_the_readme_holds_the_tables() -> None:
  text = PAGE.read_text()
  assert support.BEGIN in text and support.END in text
  begin, end = text.index(support.BEGIN), text.index(support.END)
  assert text[begin : end + len(support.END)] == support.section()
