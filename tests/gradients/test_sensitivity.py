"""Per-sample gradients: every way of forming them gives the same operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import gtddp_jax as gt
from gtddp_jax import graph as graph_lib
from gtddp_jax import terminal
from gtddp_jax.curvature.diagonal import DiagonalInverse
from gtddp_jax.gradients import control as control_lib
from gtddp_jax.gradients import operator as operator_lib
from gtddp_jax.gradients import trajectory
from gtddp_jax.graph.closed_forms import matrix

RNG = np.random.default_rng(2)
ApplyFn = Callable[[Any, jax.Array], jax.Array]


def normal(*shape: int) -> jax.Array:
  return jnp.asarray(RNG.normal(size=shape))


def convolution(
  image: tuple[int, ...], kernel: tuple[int, ...], **how: Any
) -> Any:
  """A convolution and a dense layer on its flat output."""

  def convolve(p: Any, x: jax.Array) -> jax.Array:
    h = lax.conv_general_dilated(x, p['c']['w'], **how)
    return h.reshape(x.shape[0], -1)

  x, params = normal(3, *image), {'c': {'w': normal(*kernel)}}
  features = jax.eval_shape(convolve, params, x).shape[1]
  params['d'] = {'w': normal(features, 2), 'b': normal(2)}

  def apply_fn(p: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(convolve(p, x)) @ p['d']['w'] + p['d']['b'][None]

  return apply_fn, params, x


def tokens() -> Any:
  """Dense layers over several positions, one in a merged batch axis."""
  params = {
    'a': {'w': normal(4, 3), 'b': normal(3)},
    'b': {'w': normal(3, 2, 2)},
    'c': {'scale': normal(4)},
    'd': {'w': normal(20, 2)},
  }

  def apply_fn(p: Any, x: jax.Array) -> jax.Array:
    h = jnp.tanh(x @ p['a']['w'] + p['a']['b'][None, None])
    h = h.reshape(-1, 3)
    h = jnp.tanh(jnp.tensordot(h, p['b']['w'], axes=1)).reshape(-1, 4)
    h = h * p['c']['scale'][None]
    return h.reshape(x.shape[0], -1) @ p['d']['w']

  return apply_fn, params, normal(3, 5, 4)


def embedding(axis: int, *shape: int) -> Any:
  """A table read by integers, some of them several times in a sample."""
  table = [3, 3]
  table[axis] = 5
  features = 3 * int(np.prod(shape))
  params = {'a': {'t': normal(*table)}, 'b': {'w': normal(features, 2)}}

  def apply_fn(p: Any, x: jax.Array) -> jax.Array:
    h = jnp.take(p['a']['t'], x, axis=axis)
    if axis:
      h = jnp.moveaxis(h, 0, -1)
    return jnp.tanh(h.reshape(len(x), -1)) @ p['b']['w']

  return apply_fn, params, jnp.asarray(RNG.integers(0, 5, (3, *shape)))


def tied() -> Any:
  """A control that a later stage reads again."""

  def apply_fn(p: Any, x: jax.Array) -> jax.Array:
    h = jnp.tanh(jnp.tanh(x @ p['a']['w']) @ p['b']['w'])
    return (h @ p['a']['w'])[:, :2]

  return (
    apply_fn,
    {'a': {'w': normal(3, 3)}, 'b': {'w': normal(3, 3)}},
    normal(3, 3),
  )


NHWC = {'dimension_numbers': ('NHWC', 'HWIO', 'NHWC')}
CASES: dict[str, tuple[Callable[[], Any], list[str]]] = {
  'same': (
    lambda: convolution(
      (6, 5, 2), (3, 2, 2, 4), window_strides=(1, 1), padding='SAME', **NHWC
    ),
    ['conv', 'dense'],
  ),
  'strided': (
    lambda: convolution(
      (6, 5, 2), (3, 2, 2, 4), window_strides=(2, 1), padding='VALID', **NHWC
    ),
    ['conv', 'dense'],
  ),
  'dilated': (
    lambda: convolution(
      (6, 5, 2),
      (3, 2, 2, 4),
      window_strides=(1, 2),
      padding=[(2, 1), (0, 2)],
      rhs_dilation=(2, 1),
      **NHWC,
    ),
    ['conv', 'dense'],
  ),
  'channels_first': (
    lambda: convolution(
      (2, 6, 5), (4, 2, 3, 2), window_strides=(2, 2), padding='SAME'
    ),
    ['conv', 'dense'],
  ),
  'grouped': (
    lambda: convolution(
      (6, 5, 2),
      (3, 2, 1, 4),
      window_strides=(1, 1),
      padding='SAME',
      feature_group_count=2,
      **NHWC,
    ),
    ['grouped conv', 'dense'],
  ),
  'transposed': (
    lambda: convolution(
      (3, 4, 2),
      (3, 2, 2, 2),
      window_strides=(1, 1),
      padding=[(1, 1), (0, 1)],
      lhs_dilation=(2, 2),
      **NHWC,
    ),
    ['conv', 'dense'],
  ),
  'depthwise': (
    lambda: convolution(
      (3, 6, 5),
      (6, 1, 3, 2),
      window_strides=(1, 2),
      padding='SAME',
      feature_group_count=3,
    ),
    ['grouped conv', 'dense'],
  ),
  'embedding': (lambda: embedding(0, 2, 4), ['embedding', 'dense']),
  'embedding, columns': (lambda: embedding(1, 6), ['embedding', 'dense']),
  'embedding, one token': (lambda: embedding(0), ['embedding', 'dense']),
  'tokens': (tokens, ['dense', 'dense', 'generic', 'dense']),
  'tied': (tied, ['dense', 'dense']),
}


@pytest.mark.once
@pytest.mark.parametrize('isotropic', [True, False])
@pytest.mark.parametrize('memory', [2**26, 1], ids=['kept', 'blocks'])
@pytest.mark.parametrize('case', CASES)
def test_the_operator_is_that_of_the_gradient_matrix(
  case: str, memory: int, isotropic: bool
) -> None:
  build, kinds = CASES[case]
  apply_fn, params, x = build()
  y = normal(3, 2)
  graph = gt.trace(apply_fn, params, x)
  assert [stage.kind for stage in graph.stages] == kinds
  leaves = tuple(jax.tree.leaves(params))
  rows = gradient_rows(apply_fn, params, x, y)

  def products(t: int, control: tuple[int, ...]) -> Any:
    nominal = trajectory.linearize(graph, leaves, x)
    expansion = terminal.gradient(gt.losses.squared_error, nominal.outputs, y)
    directions = trajectory.propagate(nominal, expansion.directions)
    plain, gram_of, kernel_of = (
      operator_lib.Sensitivity(
        [control_lib.Player(graph, nominal, directions, t)],
        x.shape[0],
        1,
        operator_lib.Wanted(
          product,
          'number' if isotropic else 'matrix',
          memory=memory * x.dtype.itemsize,
        ),
      )
      for product in (None, 'gram', 'kernel')
    )
    weights = jnp.arange(1.0, 4.0)[:, None]
    before = plain.combine(weights)
    k = tuple(
      jnp.cos(jnp.arange(leaves[i].size)).reshape(leaves[i].shape)
      for i in control
    )
    inverse = DiagonalInverse(diagonal(k, isotropic))
    return (
      gram_of.gram(inverse)[:, 0, 0],
      kernel_of.kernel(inverse)[:, 0, :, 0],
      kernel_of.directional(k)[:, 0],
      flat(before),
      flat(kernel_of.combine(weights)),
    )

  for t, stage in enumerate(graph.stages):
    matrix = np.stack([flat([row[i] for i in stage.control]) for row in rows])
    k = [np.cos(np.arange(leaves[i].size)) for i in stage.control]
    spread = [
      np.broadcast_to(d, leaf.shape)
      for d, leaf in zip(diagonal(k, isotropic), k, strict=True)
    ]
    vector = np.concatenate(k)
    kernel = (matrix * np.concatenate(spread)) @ matrix.T
    combined = np.arange(1, 4) @ matrix / 3
    got = jax.jit(products, static_argnums=(0, 1))(t, stage.control)
    wanted = (np.diag(kernel), kernel, matrix @ vector, combined, combined)
    for a, b in zip(got, wanted, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


def diagonal(k: Any, isotropic: bool) -> Any:
  """Some `D`, one number per leaf or per parameter."""
  if isotropic:
    return tuple(jnp.asarray(1.0 + i) for i in range(len(k)))
  return tuple(2 + leaf for leaf in k)


def flat(leaves: Any) -> jax.Array:
  return jnp.concatenate([leaf.ravel() for leaf in leaves])


def gradient_rows(apply_fn: ApplyFn, params: Any, x: Any, y: Any) -> Any:
  """The gradient of each sample alone, straight from the definition."""

  def loss(p: Any, i: int) -> jax.Array:
    outputs = apply_fn(p, x[i : i + 1])
    return gt.losses.squared_error(outputs, y[i : i + 1])[0]

  return [jax.tree.leaves(jax.grad(loss)(params, i)) for i in range(len(x))]


def test_products_of_half_precision_are_taken_in_single() -> None:
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(3, 1, 300)), jnp.bfloat16)
  h = jnp.asarray(rng.normal(size=(3, 1, 1, 200)), jnp.bfloat16)
  one = jnp.ones((), jnp.float32)
  factors = graph_lib.OnFactors(x, h, one, one)
  a, b = (np.asarray(v, np.float64).reshape(3, -1) for v in (x, h))
  expected = (a @ a.T + 1) * (b @ b.T)
  kernel = matrix.cross_gram(factors).reshape(3, 3)
  gram = matrix.gram(factors).ravel()
  np.testing.assert_allclose(kernel, expected, rtol=1e-4, atol=1e-1)
  np.testing.assert_allclose(gram, np.diagonal(expected), rtol=1e-4)
