"""Gradients of convolutions from patches, against differentiation."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gtddp_jax as gt
from gtddp_jax.graph import closed_forms

RNG = np.random.default_rng(0)


class Case(NamedTuple):
  """A convolution, and whether cotangents are shifted against its inputs."""

  space: tuple[int, ...]
  window: tuple[int, ...]
  channels: tuple[int, int]
  shifts: bool = True
  options: dict[str, Any] = {}  # noqa: RUF012


CASES = {
  'usual': Case((16, 5), (3, 3), (6, 8)),
  'narrow': Case((16, 5), (3, 3), (2, 4), shifts=False),
  'more cotangents': Case((40, 5), (3, 3), (6, 20), shifts=False),
  'short': Case((5, 16), (3, 3), (6, 18), shifts=False),
  'one tap': Case((9, 5), (1, 3), (6, 4), shifts=False),
  'strides along': Case(
    (16, 6), (3, 3), (6, 8), shifts=False, options={'window_strides': (2, 1)}
  ),
  'strides across': Case(
    (16, 7), (2, 3), (6, 8), options={'window_strides': (1, 2)}
  ),
  'dilated': Case((20, 9), (3, 2), (8, 4), options={'rhs_dilation': (2, 3)}),
  'valid': Case((16, 5), (3, 3), (6, 6), options={'padding': 'VALID'}),
  'lopsided': Case(
    (16, 5), (4, 3), (6, 4), options={'padding': ((0, 4), (2, -1))}
  ),
  'cut': Case((20, 5), (3, 3), (6, 4), options={'padding': ((-2, 1), (0, 1))}),
  'transposed': Case(
    (7, 5),
    (3, 2),
    (8, 4),
    options={'lhs_dilation': (2, 3), 'padding': ((2, 1), (1, 1))},
  ),
  'line': Case((24,), (3,), (16, 8)),
  'volume': Case((8, 3, 4), (3, 2, 2), (4, 8)),
}


def layer(case: Case, p: Any, x: jax.Array) -> jax.Array:
  names = 'DHW'[-len(case.space) :]
  options = {'padding': 'SAME', **case.options}
  strides = options.pop('window_strides', (1,) * len(case.space))
  h = jax.lax.conv_general_dilated(
    x,
    p['w'],
    strides,
    dimension_numbers=(f'N{names}C', f'{names}IO', f'N{names}C'),
    **options,
  )
  return h + p['b'].reshape(*(1,) * (h.ndim - 1), -1)


@pytest.mark.parametrize('case', CASES.values(), ids=CASES)
def test_gradients_are_those_of_differentiation(case: Case) -> None:
  batch, (cin, cout) = 6, case.channels
  x = jnp.asarray(RNG.normal(size=(batch, *case.space, cin)))
  params = {
    'b': jnp.zeros(cout),
    'w': jnp.asarray(RNG.normal(size=(*case.window, cin, cout))),
  }
  graph = gt.trace(lambda p, x: layer(case, p['conv'], x), {'conv': params}, x)
  (stage,) = graph.stages
  form = stage.closed_form
  assert isinstance(form, closed_forms.Convolution)
  shape = jax.eval_shape(lambda x: layer(case, params, x), x).shape
  assert form.window._shifts(cin, cout, shape[1:-1]) is case.shifts

  h = jnp.asarray(RNG.normal(size=(2, *shape)))
  weights = jnp.asarray(RNG.normal(size=(batch, 2)))

  def of_sample(x: jax.Array, h: jax.Array) -> jax.Array:
    _, pull = jax.vjp(lambda p: layer(case, p, x[None]), params)
    (bars,) = pull(h[None])
    return form.pack([bars['b'], bars['w']])

  expected = jax.vmap(
    lambda x, h: jax.vmap(lambda one: of_sample(x, one))(h), (0, 1)
  )(x, h)
  got = jax.jit(form.gradients)(x[:, None], jnp.moveaxis(h, 0, 1)[:, :, None])
  np.testing.assert_allclose(got, expected, atol=1e-10)
  summed = jnp.einsum('br,brn->n', weights, expected)
  got = jax.jit(form.total)(x, h, weights)
  np.testing.assert_allclose(got, summed, atol=1e-10)


@pytest.mark.parametrize(
  ('size', 'channels', 'together'), [(4, 3, 16), (32, 64, 2), (300, 64, 1)]
)
def test_as_many_samples_at_once_as_stay_in_cache(
  size: int, channels: int, together: int
) -> None:
  case = Case((size, size), (3, 3), (channels, channels))
  x = jax.ShapeDtypeStruct((32, size, size, channels), jnp.float32)
  params = {
    'b': jax.ShapeDtypeStruct((channels,), jnp.float32),
    'w': jax.ShapeDtypeStruct((3, 3, channels, channels), jnp.float32),
  }
  graph = gt.trace(lambda p, x: layer(case, p['conv'], x), {'conv': params}, x)
  (stage,) = graph.stages
  form = stage.closed_form
  assert isinstance(form, closed_forms.Convolution)
  assert form.together(x, x) == together
