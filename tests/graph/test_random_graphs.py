"""Random directed graphs of small layers: the library equals the oracle.

One list of operations is run twice: as a function of a batch, which the
library cuts into stages, and, cut here, as the oracle's chain for one sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from agreement import (
  TERMINALS,
  VALUES,
  assert_agree,
  compiled,
  loss_of,
  oracle_step,
  trace,
)
from hypothesis import strategies as st
from networks import BATCH, Problem, squared

import gtddp_jax as gt

pytestmark = pytest.mark.once

MOST_CONTROLS = 6
FEW, MANY = 8, 200
WIDEST = 5
LAYERS = 'tanh', 'affine', 'scale', 'tanh'
KINDS = *LAYERS, *LAYERS, 'add', 'multiply', 'concatenate'


class Op(NamedTuple):
  """One value computed from earlier ones; value 0 is the input.

  Attributes:
    kind: 'tanh' or 'affine' (a dense layer), 'scale' (a vector of factors),
      'add', 'multiply' or 'concatenate'.
    sources: The values it reads.
    control: The name of its parameters, if it has any.
    width: Of the value it computes.
  """

  kind: str
  sources: tuple[int, ...]
  control: str | None
  width: int


class Network(NamedTuple):
  """Operations, the width of the input, and a seed for the numbers."""

  ops: tuple[Op, ...]
  width: int
  seed: int = 0


def apply_op(op: Op, env: dict[str, Any]) -> jax.Array:
  """Runs one operation on named values and controls."""
  values = [env[f'v{source}'] for source in op.sources]
  if op.kind == 'add':
    return values[0] + values[1]
  if op.kind == 'multiply':
    return values[0] * values[1]
  if op.kind == 'concatenate':
    return jnp.concatenate(values, axis=-1)
  u = env[op.control]
  if op.kind == 'scale':
    return values[0] * jnp.broadcast_to(u, values[0].shape)
  h = values[0] @ u['w']
  h = h + jnp.broadcast_to(u['b'], h.shape)
  return jnp.tanh(h) if op.kind == 'tanh' else h


def make_params(network: Network) -> dict[str, Any]:
  """One entry for each control: a layer, or a vector at the root."""
  rng = np.random.default_rng(network.seed)
  widths = [network.width] + [op.width for op in network.ops]
  params: dict[str, Any] = {}
  for op in network.ops:
    if op.control is None or op.control in params:
      continue
    if op.kind == 'scale':
      params[op.control] = 1 + 0.5 * rng.standard_normal(op.width)
    else:
      shape = widths[op.sources[0]], op.width
      params[op.control] = {
        'w': 0.8 * rng.standard_normal(shape),
        'b': 0.5 * rng.standard_normal(op.width),
      }
  return jax.tree.map(jnp.asarray, params)


def make_chain(network: Network) -> tuple[oracle.Stage, ...]:
  """Cuts the operations before the first use of each control."""
  segments: list[tuple[str, list[int]]] = []
  prelude: list[int] = []
  for index, op in enumerate(network.ops):
    if op.control and op.control not in [name for name, _ in segments]:
      # What comes before the first control belongs to the first stage.
      segments.append((op.control, prelude if not segments else []))
    (segments[-1][1] if segments else prelude).append(index)
  chain = []
  for t, (name, segment) in enumerate(segments):
    later = [index for _, rest in segments[t + 1 :] for index in rest]
    chain.append(_stage(network, name, segment, later))
  return tuple(chain)


def _stage(
  network: Network, name: str, segment: Sequence[int], later: Sequence[int]
) -> oracle.Stage:
  ops = network.ops
  read = {f'v{source}' for index in later for source in ops[index].sources}
  read |= {ops[index].control for index in later} - {None}
  vector = any(op.control == name and op.kind == 'scale' for op in ops)

  def step(c: dict[str, Any], u: dict[str, Any]) -> Any:
    env = {**c, name: u[name] if vector else u}
    for index in segment:
      env[f'v{index + 1}'] = apply_op(ops[index], env)
    if not later:
      return env[f'v{len(ops)}']
    return {key: value for key, value in env.items() if key in read}

  control = (name,) if vector else (f'{name}/w', f'{name}/b')
  return oracle.Stage(control, step)


def make_problem(network: Network) -> Problem:
  """The random network as a row of the table."""
  rng = np.random.default_rng(network.seed + 1)

  def apply_fn(params: dict[str, Any], x: jax.Array) -> jax.Array:
    env = {'v0': x, **params}
    for index, op in enumerate(network.ops):
      env[f'v{index + 1}'] = apply_op(op, env)
    return env[f'v{len(network.ops)}']

  inputs = jnp.asarray(rng.standard_normal((BATCH, network.width)))
  targets = jnp.asarray(rng.standard_normal((BATCH, network.ops[-1].width)))
  return Problem(
    apply_fn,
    make_params(network),
    inputs,
    targets,
    make_chain(network),
    squared,
    'squared_error',
    start={'v0': inputs},
  )


@st.composite
def networks(draw: st.DrawFn) -> Network:
  """Draws operations one by one, each on values drawn from those before.

  What nothing has read in the end is put beside each other for the last layer,
  so that every control matters.
  """
  width = draw(st.integers(2, 3))
  widths, ops = [width], []
  shapes: dict[str, tuple[str, int, int]] = {}
  for kind in draw(st.lists(st.sampled_from(KINDS), min_size=4, max_size=8)):
    # Counted from the latest value, which makes graphs deep.
    first = len(ops) - draw(st.integers(0, min(3, len(ops))))
    if kind in ('add', 'multiply', 'concatenate'):
      op = _draw_merge(draw, kind, first, widths)
    else:
      op = _draw_layer(draw, kind, first, widths[first], shapes)
    ops.append(op)
    widths.append(op.width)
  read = {source for op in ops for source in op.sources}
  last, *others = [v for v in range(len(ops), 0, -1) if v not in read]
  for other in others:
    widths.append(widths[last] + widths[other])
    ops.append(Op('concatenate', (last, other), None, widths[-1]))
    last = len(ops)
  ops.append(Op('affine', (last,), 'head', 2))
  return Network(tuple(ops), width, draw(st.integers(0, 99)))


def _draw_merge(
  draw: st.DrawFn, kind: str, first: int, widths: list[int]
) -> Op:
  """Merges a value with one of its width, or with any narrow one."""
  have = widths[first]
  fits = [other for other, wide in enumerate(widths) if wide == have]
  if kind == 'concatenate':
    fits = [o for o, wide in enumerate(widths) if have + wide <= WIDEST]
    if not fits:
      return Op('add', (first, first), None, have)
  second = draw(st.sampled_from(fits))
  out = have + widths[second] if kind == 'concatenate' else have
  return Op(kind, (first, second), None, out)


def _draw_layer(
  draw: st.DrawFn,
  kind: str,
  first: int,
  have: int,
  shapes: dict[str, tuple[str, int, int]],
) -> Op:
  """A layer on a value, with a new control or one that was used before."""
  out = have if kind == 'scale' else draw(st.integers(2, 3))
  shape = 'vector' if kind == 'scale' else 'dense', have, out
  known = [name for name, other in shapes.items() if other == shape]
  full = len(shapes) == MOST_CONTROLS - 1
  if known and (full or draw(st.integers(0, 2)) == 0):
    return Op(kind, (first,), draw(st.sampled_from(known)), out)
  if full:
    return Op('multiply', (first, first), None, have)
  name = f'c{len(shapes)}'
  shapes[name] = shape
  return Op(kind, (first,), name, out)


def assert_equal_to_oracle(network: Network) -> None:
  """Every level and terminal, at a rate where nothing clamps."""
  problem = make_problem(network)
  graph = trace(problem)
  for terminal in TERMINALS:
    rate = _safe_rate(problem, terminal)
    for value in (*VALUES, 'coupled'):
      tx = gt.gt_ddp(
        graph,
        loss_of(problem),
        gt.sgd(rate),
        terminal=terminal,
        value=value,
        trust_region=None,
      )
      state = tx.init(problem.params)
      updates, _ = compiled(problem, tx)(problem.params, state)
      solution, _ = oracle_step(
        problem,
        problem.params,
        oracle.sgd(rate),
        terminal=terminal,
        value=value,
      )
      assert_agree(updates, solution.updates, 1e-9)


def _safe_rate(problem: Problem, terminal: str) -> float:
  """The largest of 0.1, 0.05, ... that leaves every factor positive."""
  stages, outputs = oracle.linearise(
    problem.chain, oracle.leaves_of(problem.params), problem.first_state()
  )
  end = oracle.terminal_value(outputs, problem.targets, problem.phi, terminal)
  rate = 0.1
  while oracle.backward(stages, end, oracle.sgd(rate)).smallest_factor < 0.05:
    rate /= 2
  return rate


def _settings(examples: int) -> hypothesis.settings:
  shrinking = {hypothesis.Phase.shrink, hypothesis.Phase.explain}
  # Shrinking a failure takes minutes: only where minutes were asked for.
  few = set(hypothesis.Phase) - shrinking
  return hypothesis.settings(
    max_examples=examples,
    phases=set(hypothesis.Phase) if examples > FEW else few,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
  )


# Control `c0` twice with another between, the second time beside itself.
SHARED_AND_FORKED = Network(
  (
    Op('tanh', (0,), 'c0', 3),
    Op('tanh', (1,), 'c1', 3),
    Op('tanh', (2,), 'c0', 3),
    Op('add', (3, 1), None, 3),
    Op('multiply', (4, 2), None, 3),
    Op('affine', (5,), 'head', 2),
  ),
  3,
)
# A value added to itself, a shared vector at the root, a late concatenation.
SELF_ADD_AND_SHARED_VECTOR = Network(
  (
    Op('scale', (0,), 'c0', 2),
    Op('add', (1, 1), None, 2),
    Op('tanh', (2,), 'c1', 2),
    Op('scale', (3,), 'c0', 2),
    Op('concatenate', (4, 2), None, 4),
    Op('affine', (5,), 'head', 2),
  ),
  2,
)


@hypothesis.example(SHARED_AND_FORKED)
@hypothesis.example(SELF_ADD_AND_SHARED_VECTOR)
@hypothesis.given(networks())
@_settings(FEW)
def test_random_graphs(network: Network) -> None:
  assert_equal_to_oracle(network)


@pytest.mark.slow
@hypothesis.given(networks())
@_settings(MANY)
def test_many_random_graphs(network: Network) -> None:
  assert_equal_to_oracle(network)


@hypothesis.given(networks())
@_settings(FEW)
def test_random_chains_are_their_networks(network: Network) -> None:
  """A check of this module itself: it needs no library."""
  problem = make_problem(network)
  params = oracle.leaves_of(problem.params)
  decided = [path for stage in problem.chain for path in stage.control]
  assert sorted(decided) == sorted(params)
  _, outputs = oracle.linearise(problem.chain, params, problem.first_state())
  expected = problem.apply_fn(problem.params, problem.inputs)
  np.testing.assert_allclose(np.stack(outputs), expected, atol=1e-13)
