"""What `trace` accepts, how it cuts, and what it refuses."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import gtddp_jax as gt

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(4, 3)))


def matrix(*shape: int) -> jax.Array:
  return jnp.asarray(RNG.normal(size=shape))


class ResidualCnn(nn.Module):
  """Convolutions, an identity skip and a projection shortcut."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    conv = lambda n, k, s=1: nn.Conv(  # noqa: E731
      n, (k, k), s, param_dtype=jnp.float64
    )
    h = nn.relu(conv(2, 3)(x))
    main = nn.relu(conv(2, 3)(h))
    h = nn.relu(h + conv(2, 3)(main))
    h = nn.relu(conv(3, 3, 2)(h) + conv(3, 1, 2)(h))
    return nn.Dense(2, param_dtype=jnp.float64)(h.reshape(h.shape[0], -1))


def test_stages_are_module_calls_in_program_order() -> None:
  x = jnp.asarray(RNG.normal(size=(2, 4, 4, 1)))
  params = ResidualCnn().init(jax.random.key(0), x)
  graph = gt.trace(ResidualCnn().apply, params, x)
  names = [stage.name for stage in graph.stages]
  assert names == [f'params/Conv_{i}' for i in range(5)] + ['params/Dense_0']
  assert [stage.kind for stage in graph.stages] == ['conv'] * 5 + ['dense']
  # At Conv_2 the skip is alive beside the main path, as is the shortcut's
  # input at Conv_4; at the linear layer only the merged state is.
  sizes = [sum(s.size for s in stage.state) // 2 for stage in graph.stages]
  assert sizes == [0, 32, 64, 32, 44, 12]


def test_the_graph_runs_the_network_at_any_batch_size() -> None:
  x = jnp.asarray(RNG.normal(size=(2, 4, 4, 1)))
  net = ResidualCnn()
  params = net.init(jax.random.key(0), x)
  graph = gt.trace(net.apply, params, x)
  for inputs in (x, jnp.concatenate([x, x[:1]])):
    np.testing.assert_allclose(
      graph(params, inputs), net.apply(params, inputs), atol=1e-12
    )


def test_summary_lists_every_stage_with_its_control_and_state() -> None:
  params = {'a': {'w': matrix(3, 4), 'b': matrix(4)}, 'z': matrix(4, 2)}

  def apply_fn(p: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ p['a']['w'] + p['a']['b'][None]) @ p['z']

  lines = gt.trace(apply_fn, params, X).summary().splitlines()
  assert lines[0].split() == [
    'stage', 'parameters', 'kind', 'control', 'state', 'curvature',
  ]  # fmt: skip
  assert lines[2].split()[:6] == ['0', 'a', 'dense', '4', '3x4', '0']
  assert lines[3].split()[:5] == ['1', 'z', 'dense', '4x2', '4']
  assert '2 stages, 24 parameters, batch 4' in lines[-1]


def test_nested_calls_are_looked_through() -> None:
  params = {'a': {'w': matrix(3, 3)}, 'b': {'w': matrix(3, 3)}}

  @jax.jit
  def inner(p: Any, x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ p['a']['w'])

  @jax.checkpoint
  def both(p: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(inner(p, x) @ p['b']['w'])

  graph = gt.trace(jax.jit(both), params, X)
  assert [stage.name for stage in graph.stages] == ['a', 'b']
  assert [stage.kind for stage in graph.stages] == ['dense', 'dense']


def test_a_control_read_again_is_decided_once() -> None:
  params = {'a': {'w': matrix(3, 3)}, 'b': {'w': matrix(3, 3)}}

  def apply_fn(p: Any, x: jax.Array) -> jax.Array:
    h = jnp.tanh(x @ p['a']['w'])
    return jnp.tanh(h @ p['b']['w']) @ p['a']['w']

  graph = gt.trace(apply_fn, params, X)
  assert [stage.name for stage in graph.stages] == ['a', 'b']
  assert [stage.shared for stage in graph.stages] == [(), (0,)]
  assert 'b +a/w' in graph.summary()


def test_nnx_modules_own_their_variables() -> None:
  class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
      make = lambda i, o: nnx.Linear(  # noqa: E731
        i, o, param_dtype=jnp.float64, rngs=rngs
      )
      self.first, self.second = make(3, 4), make(4, 2)

    def __call__(self, x: jax.Array) -> jax.Array:
      return self.second(nnx.relu(self.first(x)))

  definition, params = nnx.split(Net(nnx.Rngs(0)))
  graph = gt.trace(lambda p, x: nnx.merge(definition, p)(x), params, X)
  assert [stage.name for stage in graph.stages] == ['first', 'second']
  assert [len(stage.control) for stage in graph.stages] == [2, 2]


def test_batch_statistics_are_computed_again_from_the_state() -> None:
  params = {'a': {'w': matrix(3, 3)}, 'n': {'scale': matrix(3)}}

  def apply_fn(p: Any, x: jax.Array) -> jax.Array:
    h = x @ p['a']['w']
    centre = h.mean(axis=0, keepdims=True)
    return (h - centre) * p['n']['scale'][None] + centre

  graph = gt.trace(apply_fn, params, X)
  assert [s.shape for s in graph.stages[1].state] == [(4, 3), (4, 3)]


def test_owner_joins_modules_into_one_control() -> None:
  params = {'a': matrix(3, 3), 'b': matrix(3, 3)}

  def apply_fn(p: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ p['a']) @ p['b']

  joint = gt.trace(apply_fn, params, X, owner=lambda path: 'net')
  assert [stage.name for stage in joint.stages] == ['net']
  assert joint.stages[0].control == (0, 1)


def refused(error: type[Exception], apply_fn: Any, params: Any) -> str:
  with pytest.raises(error) as info:
    gt.trace(apply_fn, params, X)
  return str(info.value)


def test_an_output_without_batch_axis_is_refused() -> None:
  message = refused(
    gt.errors.BatchAxisError,
    lambda p, x: {'score': (x @ p['w']).mean(axis=0)},
    {'w': matrix(3, 3)},
  )
  assert "'score'" in message and '[3]' in message


def test_an_input_without_batch_axis_is_refused() -> None:
  with pytest.raises(gt.errors.BatchAxisError, match='leading axis'):
    gt.trace(
      lambda p, x: x[0] @ p['w'] + x[1][None],
      {'w': matrix(3, 3)},
      (X, matrix(3)),
    )


def test_a_scan_over_two_modules_is_refused_with_a_remedy() -> None:
  def apply_fn(p: Any, x: jax.Array) -> jax.Array:
    def body(h: jax.Array, each: Any) -> tuple[jax.Array, None]:
      return jnp.tanh(h @ each['a']['w']) @ each['b']['w'], None

    return jax.lax.scan(body, x, p)[0]

  params = {'a': {'w': matrix(2, 3, 3)}, 'b': {'w': matrix(2, 3, 3)}}
  message = refused(gt.errors.UncuttableStageError, apply_fn, params)
  assert "'a/w'" in message and "'b/w'" in message and 'owner=' in message
  joint = gt.trace(apply_fn, params, X, owner=lambda path: 'cell')
  assert [stage.name for stage in joint.stages] == ['cell']


def recurrent(p: Any, x: jax.Array) -> jax.Array:
  def body(h: jax.Array, _: None) -> tuple[jax.Array, None]:
    cell = p['cell']
    return jnp.tanh(h @ cell['a']['w']) @ cell['b']['w'], None

  return jax.lax.scan(body, x, None, length=2)[0] @ p['head']


def unrolled(p: Any, x: jax.Array) -> jax.Array:
  for _ in range(2):
    x = jnp.tanh(x @ p['cell']['a']['w']) @ p['cell']['b']['w']
  return x @ p['head']


def test_a_loop_that_reads_the_same_at_every_step_is_one_stage() -> None:
  params = {
    'cell': {'a': {'w': matrix(3, 3)}, 'b': {'w': matrix(3, 3)}},
    'head': matrix(3, 2),
  }
  graph = gt.trace(recurrent, params, X)
  assert [stage.name for stage in graph.stages] == ['cell', 'head']
  assert 'stage 0: a loop that reads the same' in graph.summary()
  one = gt.trace(
    unrolled, params, X, owner=lambda path: jax.tree_util.keystr(path[:1])
  )
  assert 'a loop' not in one.summary()
  y = matrix(4, 2)
  for value in 'frozen', 'bellman', 'coupled':
    steps = []
    for g in graph, one:
      tx = gt.gt_ddp(
        g, gt.losses.squared_error, gt.sgd(0.1), value=value, trust_region=None
      )
      steps.append(tx.update(None, tx.init(params), params, batch=(X, y))[0])
    for got, expected in zip(*map(jax.tree.leaves, steps), strict=True):
      np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_a_loop_whose_carry_holds_parameters_is_refused() -> None:
  def apply_fn(p: Any, x: jax.Array) -> jax.Array:
    def body(carry: Any, _: None) -> tuple[Any, None]:
      h, w = carry
      return (h @ w @ p['b']['w'], 0.9 * w), None

    return jax.lax.scan(body, (x, p['a']['w']), None, length=2)[0][0]

  params = {'a': {'w': matrix(3, 3)}, 'b': {'w': matrix(3, 3)}}
  assert 'owner=' in refused(gt.errors.UncuttableStageError, apply_fn, params)


def test_a_value_that_a_module_makes_of_several_samples_is_refused() -> None:
  def apply_fn(p: Any, x: jax.Array) -> jax.Array:
    h = jnp.einsum('bi,ij->j', x, p['a'])  # a sum over samples
    return x @ p['b'] * h[None]

  message = refused(
    gt.errors.BatchAxisError, apply_fn, {'a': matrix(3, 3), 'b': matrix(3, 3)}
  )
  assert "'b'" in message and 'made of several samples' in message
  assert "'dot_general'" in message


def test_an_operation_that_does_not_say_where_samples_are_is_named() -> None:
  def apply_fn(p: Any, x: jax.Array) -> jax.Array:
    h = x @ p['a']
    like = jax.ShapeDtypeStruct(h.shape, h.dtype)
    return jax.pure_callback(lambda v: v, like, h) @ p['b']

  message = refused(
    gt.errors.BatchAxisError, apply_fn, {'a': matrix(3, 3), 'b': matrix(3, 3)}
  )
  assert "'pure_callback' does not say" in message


def test_an_integer_parameter_is_refused_by_path() -> None:
  message = refused(
    gt.errors.ControlDtypeError,
    lambda p, x: x @ p['w'] + p['step'],
    {'w': matrix(3, 3), 'step': jnp.zeros((), jnp.int32)},
  )
  assert "'step'" in message and 'int32' in message


def test_an_impure_function_is_refused() -> None:
  calls: list[int] = []

  def apply_fn(p: Any, x: jax.Array) -> jax.Array:
    calls.append(1)
    return x @ p['w'] * float(len(calls))

  refused(gt.errors.TraceMismatchError, apply_fn, {'w': matrix(3, 3)})


def test_other_parameters_are_refused_by_path() -> None:
  graph = gt.trace(lambda p, x: x @ p['w'], {'w': matrix(3, 3)}, X)
  with pytest.raises(gt.errors.ParameterTreeError, match=r"'w': .*nothing"):
    graph({'v': matrix(3, 3)}, X)
  with pytest.raises(gt.errors.ParameterTreeError, match="'w'"):
    graph({'w': matrix(3, 2)}, X)


def test_a_graph_is_printed_in_one_line() -> None:
  graph = gt.trace(lambda p, x: x @ p['w'], {'w': matrix(3, 3)}, X)
  assert repr(graph) == f'<LayerGraph: 1 stages, 9 parameters, batch {len(X)}>'
  assert repr(graph.stages) == "(<Stage 'w': dense>,)"

  def players(p: Any, x: jax.Array) -> jax.Array:
    return x @ p['v'] + x @ p['w']

  graph = gt.trace(players, {'v': matrix(3, 3), 'w': matrix(3, 3)}, X)
  assert (
    repr(graph) == '<LayerGraph: 2 stages, 18 parameters, batch 4, games 1>'
  )
