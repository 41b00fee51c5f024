"""Where the samples are in every value, and where they meet.

The reference changes the inputs of one sample at a time and sees what moves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gtddp_jax.graph import batch_axis, program
from gtddp_jax.graph.batch_axis import layout

B, F = 3, 4
RNG = np.random.default_rng(0)
W = jnp.asarray(RNG.normal(size=(F, F)))
CELL = jnp.asarray(RNG.normal(size=(F, F)))
X = jnp.asarray(RNG.normal(size=(B, 6, F)))


def whole(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
  return lambda x: jax.vmap(f)(x)


def scanned(x: jax.Array) -> jax.Array:
  """Time first, with a counter beside the state."""

  def step(carry: Any, t: jax.Array) -> tuple[Any, jax.Array]:
    n, h = carry
    h = jnp.tanh(h @ CELL + t) + n
    return (n + 1, h), h * 2

  start = jnp.zeros((), jnp.int32), jnp.zeros((x.shape[0], F))
  return jax.lax.scan(step, start, x.swapaxes(0, 1))[1]


def solved(x: jax.Array) -> jax.Array:
  a = jnp.einsum('btf,btg->bfg', x, x) + jnp.eye(F)[None]
  return jnp.linalg.solve(a, x[:, 0, :, None])[..., 0]


@jax.custom_vjp
def doubled(x: jax.Array) -> jax.Array:
  return 2 * x


doubled.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g,))


@jax.custom_jvp
def tripled(x: jax.Array) -> jax.Array:
  return 3 * x


tripled.defjvp(lambda p, t: (3 * p[0], 3 * t[0]))

APART: dict[str, Callable[[jax.Array], Any]] = {
  'dense': lambda x: jnp.tanh(x @ W),
  'time major': lambda x: x.swapaxes(0, 1) * 2,
  'feature major': lambda x: W @ x.reshape(-1, F).T,
  'merged': lambda x: x.reshape(-1, F),
  'merged behind time': lambda x: x.swapaxes(0, 1).reshape(-1, F),
  'merged and split again': lambda x: (
    x.swapaxes(0, 1).reshape(-1, F) @ W
  ).reshape(2, 3, len(x), F),
  'all in one row': lambda x: x.ravel(),
  'all in one row, time first': lambda x: x.transpose(1, 2, 0).ravel(),
  'experts first': lambda x: jnp.einsum('btf,fg->gbt', x, W),
  'grouped': lambda x: x[:, None].transpose(1, 2, 0, 3),
  'scan over time': scanned,
  'fori loop': lambda x: jax.lax.fori_loop(0, 3, lambda i, h: h @ W + i, x),
  'while': lambda x: jax.lax.while_loop(
    lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.sin(s[1])), (0, x)
  )[1],
  'map over samples': lambda x: jax.lax.map(lambda s: jnp.sort(s @ W, 0), x),
  'map in parts': lambda x: (
    jax.lax.map(lambda s: s[0] @ W, x, batch_size=2)
    if len(x) % 2 == 0
    else jax.lax.map(lambda s: s[0] @ W, x)
  ),
  'cond': lambda x: jax.lax.cond(W.sum() > 0, jnp.sin, jnp.cos, x),
  'two views behind each other': lambda x: jnp.concatenate([x, x + 1]),
  'two views, parted again': lambda x: jnp.multiply(
    *jnp.split(jnp.concatenate([x, x + 1]) @ W, 2)
  ),
  'one view of two': lambda x: jnp.stack([x, x + 1])[1],
  'nothing padded by the edge': lambda x: jnp.pad(
    x, [(0, 0), (1, 1), (0, 0)], 'edge'
  ),
  'rows taken by their numbers': lambda x: jnp.stack([x, x + 1], 1).reshape(
    -1, 6, F
  )[2 * np.arange(len(x)) + 1],
  'every other row': lambda x: jnp.stack([x, x + 1], 1).reshape(-1, 6, F)[::2],
  'last step': lambda x: x[jnp.arange(len(x)), jnp.argmax(x[:, :, 0], 1)],
  'take along an axis': lambda x: jnp.take_along_axis(
    x, jnp.argsort(x, axis=1), axis=1
  ),
  'embedding': lambda x: W[jnp.argmax(x, -1)],
  'one hot': lambda x: jax.nn.one_hot(jnp.argmax(x, -1), 5),
  'sort': lambda x: jnp.sort(x, axis=1),
  'top k': lambda x: jax.lax.top_k(x, 2)[0],
  'top k indices': lambda x: jax.lax.top_k(x, 2)[1],
  'cumulative': lambda x: jnp.cumsum(x, axis=1),
  'reverse': lambda x: x[:, ::-1],
  'roll': lambda x: jnp.roll(x, 1, axis=1),
  'pad': lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 0))),
  'strided': lambda x: x[:, 1::2],
  'set own row': lambda x: (
    jnp.zeros((len(x), 6))
    .at[jnp.arange(len(x)), jnp.argmax(x[..., 0], 1)]
    .set(x[:, 0, 0])
  ),
  'add into places of its own': whole(
    lambda s: jnp.zeros(9).at[jnp.argsort(s[:, 0])].add(s[:, 0])
  ),
  'dynamic update': lambda x: jax.lax.dynamic_update_slice(
    jnp.zeros((len(x), 9, F)), x, (0, 2, 0)
  ),
  'dynamic slices of samples': whole(
    lambda s: jax.lax.dynamic_slice_in_dim(s, jnp.argmax(s[:, 0]), 2)
  ),
  'fft': lambda x: jnp.fft.rfft(x, axis=1),
  'fft and back': lambda x: jnp.fft.irfft(
    jnp.fft.rfft(x, axis=1) * 2, n=6, axis=1
  ),
  'real parts': lambda x: (x + 1j * x).conj().imag,
  'attention': lambda x: jnp.einsum(
    'bst,btf->bsf', jax.nn.softmax(jnp.einsum('bsf,btf->bst', x, x)), x
  ),
  'gram of a sample': whole(lambda s: s @ s.T),
  'solve': solved,
  'cholesky': lambda x: jnp.linalg.cholesky(
    jnp.einsum('btf,btg->bfg', x, x) + jnp.eye(F)[None]
  ),
  'eigh': lambda x: jnp.linalg.eigh(jnp.einsum('btf,btg->bfg', x, x))[0],
  'convolution': lambda x: jax.lax.conv_general_dilated(
    x,
    jnp.ones((3, F, 2)),
    (1,),
    'SAME',
    dimension_numbers=('NWC', 'WIO', 'NWC'),
  ),
  'convolution with kernels of samples': lambda x: jax.vmap(
    lambda s: jax.lax.conv_general_dilated(
      s.T[None], s[:4, None, :3] * jnp.ones((4, F, 3)), (1,), 'SAME'
    )[0]
  )(x),
  'pooling': lambda x: jax.lax.reduce_window(
    x, -jnp.inf, jax.lax.max, (1, 2, 1), (1, 2, 1), 'VALID'
  ),
  'custom derivatives': lambda x: doubled(tripled(x)),
  'remat': jax.checkpoint(lambda x: jnp.sin(x @ W)),
  'nothing': lambda x: x[:, :0].swapaxes(0, 1),
  'beside nothing': lambda x: jnp.concatenate([x, x[:, :0]], 1),
  'keys of samples': whole(
    lambda s: jax.random.uniform(
      jax.random.fold_in(jax.random.key(0), jnp.argmax(s[:, 0])), (5,)
    )
  ),
  'ghost parts': lambda x: (
    x.reshape(2, -1, 6, F).sum(2) if len(x) % 2 == 0 else x
  ),
}

MEET: dict[str, Callable[[jax.Array], Any]] = {
  'mean over the batch': lambda x: x - x.mean(0, keepdims=True),
  'mean over all': lambda x: x / x.sum(),
  'product over the batch': lambda x: jnp.einsum('btf,ctf->bc', x, x),
  'roll along the batch': lambda x: jnp.roll(x, 1, axis=0),
  'reverse the batch': lambda x: x[::-1],
  'sort the batch': lambda x: jnp.sort(x, axis=0),
  'cumulative along the batch': lambda x: jnp.cumsum(x, axis=0),
  'permuted': lambda x: x[jnp.array([1, 2, 0])],
  'chosen': lambda x: x[jnp.argsort(x[:, 0, 0])],
  'fft along the batch': lambda x: jnp.fft.fft(x, axis=0),
  'one after the other': lambda x: jax.lax.scan(
    lambda c, t: (c + t, c), jnp.zeros((6, F)), x
  )[1],
  'pairs': lambda x: (x[:, None] - x[None]).sum(1),
  'branch of a sample': lambda x: jax.lax.cond(
    x[0, 0, 0] > 0, jnp.sin, jnp.cos, x
  ),
  'as long as one goes on': lambda x: jax.lax.while_loop(
    lambda h: jnp.max(h) > 0.1, lambda h: h / 2, x
  ),
  'mean in a loop': lambda x: jax.lax.scan(
    lambda h, _: (h - h.mean(0, keepdims=True), None), x, length=2
  )[0],
  'segments': lambda x: (
    x + jax.ops.segment_sum(x, jnp.zeros(len(x), int), len(x))
  ),
  'views parted as they were not joined': lambda x: (
    jnp.stack([x, x], 1).reshape(-1, F).reshape(2, -1, F)
  ),
  'transposed square': lambda x: x[:, :B, 0] + x[:, :B, 0].T,
}


def analysed(f: Any, size: int) -> tuple[batch_axis.Batch, Any]:
  x = jnp.concatenate([X, X + 0.1])[:size]
  captured = program.capture(f, x)
  return batch_axis.analyse(captured, captured.inputs, size), captured


def owners(found: layout.Layout, size: int) -> np.ndarray:
  """The number of the sample that each element belongs to."""
  shape = layout.encoded(found, size, jnp.int32).shape
  rows = np.repeat(np.arange(size), shape[0] // size)
  numbers = np.broadcast_to(rows.reshape(-1, *[1] * (len(shape) - 1)), shape)
  return np.asarray(layout.decode(found, jnp.int32, jnp.asarray(numbers)))


def moved(f: Any, size: int) -> np.ndarray:
  """For each sample, the elements that its input moves, ``[B, ...]``."""
  x = jnp.concatenate([X, X + 0.1])[:size]
  f = jax.jit(f)
  start = np.asarray(f(x))
  found = np.zeros((size, *start.shape), bool)
  for trial in range(2):
    noise = np.random.default_rng(trial).normal(size=x.shape)
    for b in range(size):
      changed = np.asarray(f(x.at[b].add(noise[b])))
      found[b] |= changed != start
  return found


@pytest.mark.parametrize('size', [3, 2, 1])
@pytest.mark.parametrize('name', APART)
def test_each_element_is_of_the_sample_that_moves_it(
  name: str, size: int
) -> None:
  f = APART[name]
  batch, captured = analysed(f, size)
  (value,) = captured.outputs
  found = batch.layouts[value]
  assert not batch.meeting and not found.coupled and batch.has_samples(value)
  of = owners(found, size)
  for b, elements in enumerate(moved(f, size)):
    assert not (elements & (of != b)).any()
  x = jnp.concatenate([X, X + 0.1])[:size]
  there = layout.encode(found, size, f(x))
  assert layout.encoded(found, size, f(x).dtype).shape == there.shape
  back = layout.decode(found, value.aval.dtype, there)
  np.testing.assert_array_equal(back, f(x))


@pytest.mark.parametrize('name', MEET)
def test_samples_that_meet_are_told(name: str) -> None:
  f = MEET[name]
  batch, captured = analysed(f, B)
  (value,) = captured.outputs
  assert batch.meeting and batch.layouts[value].coupled
  assert not batch.layouts[value].unknown


def test_what_is_not_known_is_named() -> None:
  def f(x: jax.Array) -> jax.Array:
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return jax.pure_callback(np.sin, shape, x) * 2

  batch, captured = analysed(f, B)
  assert batch.unknown(captured.outputs[0]) == 'pure_callback'


def test_a_counter_is_of_no_sample() -> None:
  def f(x: jax.Array) -> Any:
    return jax.lax.fori_loop(0, 3, lambda i, s: (s[0] + 1, s[1] @ W), (0, x))

  batch, captured = analysed(f, B)
  count, h = captured.outputs
  assert count not in batch.layouts
  assert batch.has_samples(h) and not batch.meeting
