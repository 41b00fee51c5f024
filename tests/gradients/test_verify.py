"""A gradient lost, or given to another sample, is an error of ``trace``.

Each fault is put into the library by hand, and must be told.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gtddp_jax as gt
from gtddp_jax.gradients import control, trajectory
from gtddp_jax.graph import closed_forms, cuts, program, tracing
from gtddp_jax.graph.batch_axis import layout, walk

# JAX 0.8 warns where it pulls a cotangent through a cast from real to complex.
pytestmark = pytest.mark.filterwarnings('ignore:Casting complex values to real')

RNG = np.random.default_rng(0)


def matrix(*shape: int) -> jax.Array:
  return jnp.asarray(0.4 * RNG.normal(size=shape))


FOURIER: Any = {
  'lift': matrix(6, 8),
  'spectral': {'re': matrix(4, 8, 8), 'im': matrix(4, 8, 8)},
  'head': matrix(8, 1),
}


def fourier(p: Any, x: jax.Array) -> jax.Array:
  h = x @ p['lift']
  k = jnp.fft.rfft(h, axis=1)[:, :4]
  weights = p['spectral']['re'] + 1j * p['spectral']['im']
  k = jnp.einsum('bki,kio->bko', k, weights)
  k = jnp.pad(k, ((0, 0), (0, 3), (0, 0)))
  return (h + jnp.fft.irfft(k, n=12, axis=1)) @ p['head']


RECURRENT: Any = {
  'embed': matrix(6, 8),
  'cell': {'x': matrix(8, 8), 'h': matrix(8, 8)},
  'head': matrix(8, 3),
}


def recurrent(p: Any, x: jax.Array) -> jax.Array:
  h = (x @ p['embed']).swapaxes(0, 1)
  h, _ = jax.lax.scan(
    lambda h, t: (jnp.tanh(h @ p['cell']['h'] + t @ p['cell']['x']), None),
    jnp.zeros((x.shape[0], 8)),
    h,
  )
  return h @ p['head']


def test_what_is_right_passes() -> None:
  gt.trace(fourier, FOURIER, matrix(4, 12, 6))
  gt.trace(recurrent, RECURRENT, matrix(4, 5, 6))


def test_a_complex_value_without_derivative_is_told(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  def split(live: Any) -> Any:
    smooth = [
      v for v in live if jnp.issubdtype(program.abstract(v).dtype, jnp.floating)
    ]
    return tuple(smooth), tuple(v for v in live if v not in smooth)

  monkeypatch.setattr(cuts, 'split', split)
  with pytest.raises(gt.errors.TraceMismatchError, match=r"gradient.*'lift'"):
    gt.trace(fourier, FOURIER, matrix(4, 12, 6))


@pytest.mark.parametrize('batch', [2, 3, 5])
def test_a_batch_axis_taken_for_the_leading_one_is_told(
  monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
  """As if time, of as many steps as samples, were the batch."""
  analyse = walk.analyse

  def by_place(captured: Any, batched: Any, size: int) -> Any:
    found = analyse(captured, batched, size)
    places = {
      v: layout.leading(program.shape_of(v), size)
      if program.shape_of(v)[:1] == (size,)
      else known
      for v, known in found.layouts.items()
    }
    return found._replace(layouts=places)

  monkeypatch.setattr(tracing, 'analyse', by_place)
  with pytest.raises(gt.errors.TraceMismatchError, match='other samples'):
    gt.trace(recurrent, RECURRENT, matrix(batch, batch, 6))


@pytest.mark.parametrize('batch', [2, 5])
def test_what_is_taken_for_shared_by_all_samples_is_not_used(
  monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
  """As if an array had no batch where that is not its leading axis."""
  has_samples = layout.Layout.has_samples

  def leads(found: Any, size: int) -> bool:
    there = has_samples(found, size)
    return there and found.axes == layout.leading(found.shape, size).axes

  monkeypatch.setattr(layout.Layout, 'has_samples', leads)
  x = matrix(batch, 4, 6)
  tx = gt.gt_ddp(
    gt.trace(recurrent, RECURRENT, x),
    lambda o, y: ((o - 1) ** 2).sum(-1) + 0 * y,
    gt.sgd(0.1),
    value='coupled',
  )
  with pytest.raises(gt.errors.OptionError, match='for the whole batch'):
    tx.update(None, tx.init(RECURRENT), RECURRENT, batch=(x, jnp.zeros(batch)))


PLAIN: Any = {
  'a': {'w': matrix(6, 5), 'b': matrix(5)},
  's': matrix(5),
  'c': {'k': matrix(3, 5, 2)},
}


def plain(p: Any, x: jax.Array) -> jax.Array:
  h = jnp.tanh(x @ p['a']['w'] + p['a']['b'][None, None]) * p['s'][None, None]
  return jax.lax.conv_general_dilated(
    h, p['c']['k'], (1,), 'SAME', dimension_numbers=('NWC', 'WIO', 'NWC')
  )


def halved(function: Any) -> Any:
  return lambda *a, **k: jax.tree.map(lambda v: v / 2, function(*a, **k))


@pytest.mark.parametrize(
  ('where', 'name'),
  [
    (control.Player, 'combine'),
    (control, '_of_sample'),
    (closed_forms.Dense, 'gradients'),
    (trajectory.Point, 'pull'),
  ],
)
def test_a_gradient_of_another_size_is_told(
  monkeypatch: pytest.MonkeyPatch, where: Any, name: str
) -> None:
  monkeypatch.setattr(where, name, halved(getattr(where, name)))
  with pytest.raises(gt.errors.TraceMismatchError, match='gradient'):
    gt.trace(plain, PLAIN, matrix(4, 7, 6))


def test_samples_that_are_said_not_to_meet_are_told(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  def network(p: Any, x: jax.Array) -> jax.Array:
    h = jnp.tanh(x @ p['a'])
    return (h - h.mean(0, keepdims=True)) @ p['b']

  params, x = {'a': matrix(6, 5), 'b': matrix(5, 2)}, matrix(4, 6)
  assert gt.trace(network, params, x).mixed
  analyse = walk.analyse
  monkeypatch.setattr(
    tracing,
    'analyse',
    lambda *a: analyse(*a)._replace(meeting=frozenset()),
  )
  with pytest.raises(gt.errors.TraceMismatchError, match='gradient'):
    gt.trace(network, params, x)
