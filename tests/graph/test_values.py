"""Complex values, other batch axes, loops with counters, empty leaves.

Feedback bounded to nothing must leave the base's step: a gradient that is lost
anywhere shows. What is written in two ways must give one step.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gtddp_jax as gt

# JAX 0.8 warns where it pulls a cotangent through a cast from real to complex.
pytestmark = pytest.mark.filterwarnings('ignore:Casting complex values to real')

RNG = np.random.default_rng(0)
VALUES = ('frozen', 'bellman', 'coupled')


def matrix(*shape: int) -> jax.Array:
  return jnp.asarray(0.4 * RNG.normal(size=shape))


def square(o: jax.Array, y: jax.Array) -> jax.Array:
  return (jnp.abs(o - 1) ** 2).reshape(len(o), -1).sum(-1) + 0 * y


def step(f: Any, params: Any, x: Any, value: str, **options: Any) -> Any:
  base = options.pop('base', gt.sgd(0.1))
  options = {'trust_region': None} | options
  tx = gt.gt_ddp(gt.trace(f, params, x), square, base, value=value, **options)
  y = jnp.zeros(len(jax.tree.leaves(x)[0]))
  update = jax.jit(lambda p, s: tx.update(None, s, p, batch=(x, y))[0])
  return update(params, tx.init(params))


def apart(a: Any, b: Any) -> float:
  return norm(jax.tree.map(jnp.subtract, a, b)) / norm(b)


def norm(tree: Any) -> float:
  leaves = jax.tree.leaves(tree)
  return float(np.sqrt(sum(np.sum(np.abs(leaf) ** 2) for leaf in leaves)))


def own_step(f: Any, params: Any, x: Any, base: Any) -> Any:
  y = jnp.zeros(len(jax.tree.leaves(x)[0]))
  gradient = jax.grad(lambda p: square(f(p, x), y).mean())(params)
  gradient = jax.tree.map(jnp.conj, gradient)
  return base.update(gradient, base.init(params), params)[0]


def is_base(f: Any, params: Any, x: Any, base: Any = None) -> None:
  base = gt.sgd(0.1) if base is None else base
  expected = own_step(f, params, x, base)
  for value in 'frozen', 'bellman':
    got = step(f, params, x, value, trust_region=1e-9, base=base)
    assert apart(got, expected) < 1e-7, value


def equal_steps(f: Any, g: Any, params: Any, x: Any, **options: Any) -> None:
  for value in VALUES:
    steps = [step(h, params, x, value, **options) for h in (f, g)]
    assert apart(*steps) < 1e-9, value


SPECTRAL: Any = {
  'lift': matrix(6, 8),
  'spectral': {'re': matrix(4, 8, 8), 'im': matrix(4, 8, 8)},
  'head': matrix(8, 1),
}


def fourier(p: Any, x: jax.Array) -> jax.Array:
  """The spectrum is alive where the layer's weights are first read."""
  h = x @ p['lift']
  k = jnp.fft.rfft(h, axis=1)[:, :4]
  weights = p['spectral']['re'] + 1j * p['spectral']['im']
  k = jnp.einsum('bki,kio->bko', k, weights)
  k = jnp.pad(k, ((0, 0), (0, 3), (0, 0)))
  return (h + jnp.fft.irfft(k, n=12, axis=1)) @ p['head']


def two_dimensional(p: Any, x: jax.Array) -> jax.Array:
  """Channels first, as many operators of this kind are written."""
  h = jnp.moveaxis((x @ p['lift']).reshape(len(x), 3, 4, 8), -1, 1)
  k = jnp.fft.rfft2(h)[..., :2, :2]
  weights = (p['spectral']['re'] + 1j * p['spectral']['im']).reshape(2, 2, 8, 8)
  k = jnp.einsum('bikl,klio->bokl', k, weights)
  k = jnp.pad(k, ((0, 0), (0, 0), (0, 1), (0, 1)))
  h = jax.nn.gelu(h + jnp.fft.irfft2(k, s=(3, 4)))
  return jnp.moveaxis(h, 1, -1).reshape(len(x), 12, 8) @ p['head']


@pytest.mark.parametrize('network', [fourier, two_dimensional])
def test_a_spectrum_beside_a_skip_keeps_its_gradient(network: Any) -> None:
  is_base(network, SPECTRAL, matrix(5, 12, 6))


STATE: Any = {
  'enc': matrix(6, 8),
  'B': {'re': matrix(8, 8), 'im': matrix(8, 8)},
  'C': {'re': matrix(8, 3), 'im': matrix(8, 3)},
}


def diagonal_state(p: Any, x: jax.Array) -> jax.Array:
  """All that is alive between two modules is complex."""
  h = (x @ p['enc']) @ (p['B']['re'] + 1j * p['B']['im'])
  return (h @ (p['C']['re'] + 1j * p['C']['im'])).real


def by_hand(p: Any, x: jax.Array) -> jax.Array:
  """The same in real numbers."""
  h = x @ p['enc']
  re, im = h @ p['B']['re'], h @ p['B']['im']
  return re @ p['C']['re'] - im @ p['C']['im']


@pytest.mark.parametrize('terminal', ['gradient', 'gauss_newton'])
def test_a_complex_state_is_two_real_ones(terminal: str) -> None:
  x = matrix(5, 6)
  is_base(diagonal_state, STATE, x)
  equal_steps(diagonal_state, by_hand, STATE, x, terminal=terminal)


MIXED: Any = {'a': matrix(6, 8), 'c': matrix(8, 3) + 1j * matrix(8, 3)}


def complex_head(p: Any, x: jax.Array) -> jax.Array:
  return (jnp.tanh(x @ p['a']) @ p['c']).real


@pytest.mark.parametrize('base', [gt.sgd(0.1), gt.rmsprop(0.01)])
def test_a_complex_parameter_steps_as_optax_has_it(base: Any) -> None:
  is_base(complex_head, MIXED, matrix(5, 6), base)


def test_a_complex_parameter_is_two_real_ones_to_the_recursion() -> None:
  def in_parts(p: Any, x: jax.Array) -> jax.Array:
    head = p['c'][..., 0] + 1j * p['c'][..., 1]
    return (jnp.tanh(x @ p['a']) @ head).real

  x = matrix(5, 6)
  pairs = {**MIXED, 'c': jnp.stack([MIXED['c'].real, MIXED['c'].imag], -1)}
  for value in VALUES:
    got = step(complex_head, MIXED, x, value, terminal='gauss_newton')
    expected = step(in_parts, pairs, x, value, terminal='gauss_newton')
    c = jnp.stack([got['c'].real, got['c'].imag], -1)
    assert apart({**got, 'c': c}, expected) < 1e-9, value


def test_complex_outputs_reach_the_loss_as_they_are() -> None:
  def network(p: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ p['a']) @ p['c']

  x = matrix(5, 6)
  is_base(network, MIXED, x)
  for value in VALUES:
    found = step(network, MIXED, x, value, terminal='gauss_newton')
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def test_kronecker_curvature_is_refused_for_complex_layers() -> None:
  graph = gt.trace(complex_head, MIXED, matrix(5, 6))
  assert [stage.kind for stage in graph.stages] == ['dense', 'generic']
  with pytest.raises(gt.errors.OptionError, match="'c'"):
    gt.gt_ddp(graph, square, gt.kfac(0.1), trust_region=None)


CELL: Any = {
  'cell': {'x': matrix(6, 8), 'h': matrix(8, 8)},
  'head': matrix(8, 3),
}


def cell(p: Any, h: jax.Array, t: jax.Array) -> jax.Array:
  return jnp.tanh(h @ p['h'] + t @ p['x'])


def scanned(p: Any, x: jax.Array) -> jax.Array:
  """Reads the array with time first."""
  h, _ = jax.lax.scan(
    lambda h, t: (cell(p['cell'], h, t), None),
    jnp.zeros((len(x), 8)),
    x.swapaxes(0, 1),
  )
  return h @ p['head']


def unrolled(p: Any, x: jax.Array) -> jax.Array:
  h = jnp.zeros((len(x), 8))
  for t in range(x.shape[1]):
    h = cell(p['cell'], h, x[:, t])
  return h @ p['head']


@pytest.mark.parametrize('batch', [2, 3, 8])
def test_a_scan_over_time_is_the_unrolled_one(batch: int) -> None:
  equal_steps(scanned, unrolled, CELL, matrix(batch, 5, 6))


LAYERS: Any = {'a': matrix(6, 8), 'b': matrix(8, 8), 'c': matrix(8, 3)}


def features_first(p: Any, x: jax.Array) -> jax.Array:
  h = jnp.tanh(p['a'].T @ x.T)
  h = h + jnp.tanh(p['b'].T @ h)
  return (p['c'].T @ h).T


def features_last(p: Any, x: jax.Array) -> jax.Array:
  h = jnp.tanh(x @ p['a'])
  h = h + jnp.tanh(h @ p['b'])
  return h @ p['c']


def test_features_before_samples_are_features_behind_them() -> None:
  equal_steps(features_first, features_last, LAYERS, matrix(5, 6))


def test_experts_before_samples_are_experts_behind_them() -> None:
  params = {'in': matrix(6, 8), 'experts': matrix(3, 8, 4), 'out': matrix(4, 2)}

  def gated(p: Any, x: jax.Array, spec: str, axis: int) -> jax.Array:
    h = jnp.tanh(x @ p['in'])
    gates = jax.nn.softmax(h[:, :3])
    made = jnp.tanh(jnp.einsum(spec, h, p['experts']))
    gates = gates.T[..., None] if axis == 0 else gates[..., None]
    return (made * gates).sum(axis) @ p['out']

  equal_steps(
    lambda p, x: gated(p, x, 'bi,eij->ebj', 0),
    lambda p, x: gated(p, x, 'bi,eij->bej', 1),
    params,
    matrix(3, 6),
  )


def looped(p: Any, x: jax.Array) -> jax.Array:
  h = jax.lax.fori_loop(0, 3, lambda i, h: jnp.tanh(h @ p['b']), x @ p['a'])
  return h @ p['c']


def written_out(p: Any, x: jax.Array) -> jax.Array:
  h = x @ p['a']
  for _ in range(3):
    h = jnp.tanh(h @ p['b'])
  return h @ p['c']


def test_a_loop_with_a_counter_couples_nothing() -> None:
  x = matrix(5, 6)
  assert not gt.trace(looped, LAYERS, x).mixed
  equal_steps(looped, written_out, LAYERS, x)


def euler(p: Any, x: jax.Array) -> jax.Array:
  """An ordinary differential equation, its time in the carry."""

  def move(carry: Any, _: None) -> Any:
    t, h = carry
    return (t + 0.1, h + 0.1 * jnp.tanh(h @ p['b'] + t)), None

  (_, h), _ = jax.lax.scan(move, (0.0, x @ p['a']), length=3)
  return h @ p['c']


def test_a_time_in_the_carry_couples_nothing() -> None:
  x = matrix(5, 6)
  assert not gt.trace(euler, LAYERS, x).mixed
  is_base(euler, LAYERS, x)


@pytest.mark.parametrize('value', VALUES)
def test_empty_leaves_are_taken(value: str) -> None:
  def among_inputs(p: Any, x: Any) -> jax.Array:
    return jnp.tanh(jnp.concatenate(x, -1) @ p['a']) @ p['b']

  def among_parameters(p: Any, x: jax.Array) -> jax.Array:
    none = jnp.broadcast_to(p['z'], (len(x), 0))
    return jnp.tanh(jnp.concatenate([x @ p['a'], none], -1)) @ p['b']

  x, params = matrix(5, 6), {'a': matrix(6, 8), 'b': matrix(8, 3)}
  inputs = (x, jnp.zeros((5, 0)))
  plain = step(lambda p, x: jnp.tanh(x @ p['a']) @ p['b'], params, x, value)
  assert apart(step(among_inputs, params, inputs, value), plain) < 1e-12
  found = step(among_parameters, {**params, 'z': jnp.zeros(0)}, x, value)
  assert apart({k: found[k] for k in params}, plain) < 1e-12


def test_a_batch_of_nothing_changes_nothing() -> None:
  params, x = {'a': matrix(6, 8), 'b': matrix(8, 3)}, matrix(5, 6)
  graph = gt.trace(lambda p, x: jnp.tanh(x @ p['a']) @ p['b'], params, x)
  tx = gt.gt_ddp(graph, square, gt.adam(0.1), value='coupled')
  state = tx.init(params)
  batch = x[:0], jnp.zeros(0)
  updates, after = tx.update(None, state, params, batch=batch)
  assert norm(updates) == 0
  assert gt.metrics(after)['skipped_steps'] == 1
  assert jax.tree.structure(after) == jax.tree.structure(state)
  with pytest.raises(gt.errors.BatchAxisError, match='no samples'):
    gt.trace(lambda p, x: x @ p['a'], {'a': params['a']}, x[:0])


@pytest.mark.parametrize('value', ['frozen', 'bellman', 'coupled'])
@pytest.mark.parametrize('base', [gt.sgd(0.1), gt.ekfac(0.1, 1e-2)])
def test_shard_map_with_its_checks_takes_the_same_step(
  value: str, base: Any
) -> None:
  params = {
    'a': {'w': matrix(6, 8), 'b': matrix(8)},
    'b': {'w': matrix(8, 3)},
  }

  def network(p: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ p['a']['w'] + p['a']['b'][None]) @ p['b']['w']

  x = matrix(4, 6)
  graph = gt.trace(network, params, x)
  tx = gt.gt_ddp(graph, square, base, 'gauss_newton', value, trust_region=None)

  def update(p: Any, x: jax.Array) -> Any:
    batch = x, jnp.zeros(len(x))
    updates, _ = tx.update(None, tx.init(p), p, batch=batch)
    return jax.lax.pmean(updates, 'd')

  mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ('d',))
  specs = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec('d')
  steps = [
    jax.jit(
      jax.shard_map(
        update,
        mesh=mesh,
        in_specs=specs,
        out_specs=specs[0],
        check_vma=check,
      )
    )(params, x)
    for check in (True, False)
  ]
  assert apart(*steps) < 1e-12


@jax.custom_vjp
def damped(x: jax.Array) -> jax.Array:
  return jnp.sin(x)


damped.defvjp(
  lambda x: (jnp.sin(x), jnp.cos(x)), lambda slope, bar: (slope * bar,)
)


def tied(p: Any, x: jax.Array, bend: Any) -> jax.Array:
  """A leaf is read again behind a function without forward derivative."""
  h = bend(jnp.tanh(jnp.tanh(x @ p['a']) @ p['b']) @ p['a'])
  return h @ p['c']


def within_a_module(p: Any, x: jax.Array, bend: Any) -> jax.Array:
  h = bend(bend((x @ p['b']) @ p['m']['w']) @ p['m']['v'])
  return h @ p['c']


@pytest.mark.parametrize('network', [tied, within_a_module])
def test_a_backward_derivative_is_enough(network: Any) -> None:
  params = {name: matrix(6, 6) for name in 'abc'}
  if network is within_a_module:
    del params['a']
    params['m'] = {'w': matrix(6, 6), 'v': matrix(6, 6)}
  x = matrix(5, 6)
  for value in (*VALUES, gt.Bellman(memory=1), gt.Coupled(memory=1)):
    steps = [
      step(lambda p, x, f=f: network(p, x, f), params, x, value)
      for f in (damped, jnp.sin)
    ]
    assert apart(*steps) < 1e-9, value


def test_a_value_put_at_one_place_is_of_its_sample() -> None:
  params = {'a': matrix(6, 8), 'b': matrix(8, 3)}

  def placed(p: Any, x: jax.Array) -> jax.Array:
    h = jnp.tanh(x @ p['a'])
    return h.at[:, 2].set(h[:, 0] * h[:, 1]).at[..., 5].add(1.0) @ p['b']

  def masked(p: Any, x: jax.Array) -> jax.Array:
    h = jnp.tanh(x @ p['a'])
    third = jnp.arange(8)[None] == 2
    h = jnp.where(third, (h[:, 0] * h[:, 1])[:, None], h)
    return (h + (jnp.arange(8)[None] == 5)) @ p['b']

  x = matrix(5, 6)
  assert not gt.trace(placed, params, x).mixed
  equal_steps(placed, masked, params, x)
