"""Levenberg-Marquardt at its limits: nothing infinite, the loss never rises."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gtddp_jax as gt

pytestmark = pytest.mark.once


def network(params: Any, x: jax.Array) -> jax.Array:
  for n, (w, b) in enumerate(params):
    x = (jnp.tanh(x) if n else x) @ w + b[None]
  return x


def parameters(widths: tuple[int, ...], dtype: Any, seed: int = 0) -> Any:
  rng = np.random.default_rng(seed)
  return [
    (
      jnp.asarray(rng.normal(size=(a, b)) / a**0.5, dtype),
      jnp.asarray(0.1 * rng.normal(size=b), dtype),
    )
    for a, b in itertools.pairwise(widths)
  ]


def weighted(outputs: jax.Array, targets: Any) -> jax.Array:
  y, weights = targets
  return 0.5 * weights * jnp.square(outputs - y).sum(axis=1)


def optimizer(
  params: Any, x: jax.Array, loss: Any = gt.losses.squared_error, **options: Any
) -> Any:
  feedback = options.pop('feedback', True)
  return gt.gt_ddp(
    gt.trace(network, params, x),
    loss,
    gt.levenberg_marquardt(**options),
    terminal='gauss_newton',
    value='coupled',
    feedback=feedback,
  )


def history(tx: Any, params: Any, batch: Any, steps: int) -> tuple[Any, Any]:
  """Metrics of some steps, by name, and the last parameters."""

  def step(carry: Any, _: Any) -> Any:
    params, state = carry
    updates, state = tx.update(None, state, params, batch=batch)
    return (jax.tree.map(jnp.add, params, updates), state), gt.metrics(state)

  @jax.jit
  def run(params: Any) -> Any:
    return jax.lax.scan(step, (params, tx.init(params)), None, length=steps)

  (params, _), found = run(params)
  return {name: np.asarray(v) for name, v in found.items()}, params


def assert_sound(found: Any, params: Any, dtype: Any, falls: float) -> None:
  losses = found['loss']
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
  assert np.isfinite(losses).all() and not found['skipped_steps'].any()
  slack = 1e-4 if dtype == 'float32' else 1e-6  # metrics are float32
  assert (np.diff(losses) <= slack * losses[:-1]).all()
  assert losses[-1] <= falls * losses[0]


CASES = {
  'plain': (20, 1.0, 1e-3),
  'one sample': (1, 1.0, 1e-3),
  'repeated points': (20, 1.0, 1e-3),
  'zero weights': (20, 1.0, 1e-3),
  'large residuals': (20, 1e6, 0.5),
  'large batch': (2000, 1.0, 0.7),
}


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('feedback', [True, False])
def test_the_loss_never_rises(dtype: str, name: str, feedback: bool) -> None:
  batch, scale, falls = CASES[name]
  rng = np.random.default_rng(1)
  points = rng.normal(size=(batch, 2))
  if name == 'repeated points':
    points = points[np.arange(batch) // 10]
  x = jnp.asarray(points, dtype)
  weights = jnp.asarray(np.arange(batch) % 4 != 0, dtype)
  if name != 'zero weights':
    weights = jnp.ones_like(weights)
  y = scale * (jnp.sin(2 * x[:, :1]) + 1)
  params = parameters((2, 8, 8, 1), dtype)
  tx = optimizer(params, x, weighted, feedback=feedback)
  steps = 4 if batch > 1000 else 15
  found, params = history(tx, params, (x, (y, weights)), steps)
  assert_sound(found, params, dtype, falls)


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_tiny_residuals_stay_tiny(dtype: str) -> None:
  """Targets 1e-12 off: all that is left is rounding, and no step is harmful."""
  x = jnp.linspace(-1, 1, 12, dtype=dtype)[:, None]
  params = [(1e-12 * w, b * 0) for w, b in parameters((1, 6, 1), dtype)]
  tx = optimizer(params, x)
  found, params = history(tx, params, (x, 1e-12 * (x + 2)), 10)
  assert_sound(found, params, dtype, 0.1)


@pytest.mark.parametrize('damping', [1e-12, 1e12])
def test_any_damping_will_do_to_start_from(damping: float) -> None:
  x = jnp.linspace(-1, 1, 30, dtype='float32')[:, None]
  params = parameters((1, 10, 10, 1), 'float32')
  tx = optimizer(params, x, damping=damping)
  found, params = history(tx, params, (x, jnp.sin(3 * x)), 60)
  assert_sound(found, params, 'float32', 1e-2)


@pytest.mark.parametrize('feedback', [True, False])
def test_a_softmax_has_a_gauss_newton_factor_too(feedback: bool) -> None:
  x = jnp.asarray(np.random.default_rng(2).normal(size=(40, 2)), 'float32')
  labels = (x[:, 0] * x[:, 1] > 0).astype(int) + (x[:, 0] > 1)
  params = parameters((2, 8, 3), 'float32')
  loss = gt.losses.softmax_cross_entropy
  tx = optimizer(params, x, loss, damping=0.1, feedback=feedback)
  found, params = history(tx, params, (x, labels), 25)
  assert_sound(found, params, 'float32', 0.2)


def test_a_rejected_step_changes_the_damping_alone() -> None:
  """No step decreases a loss that is at its least at the nominal outputs, and
  has a slope there that says otherwise."""

  @jax.custom_jvp
  def misleading(outputs: jax.Array) -> jax.Array:
    return jnp.square(outputs)

  misleading.defjvp(lambda at, along: (at[0] ** 2, along[0] * (at[0] + 1)))

  def loss(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return misleading(outputs - targets).sum(axis=1)

  x = jnp.linspace(-1, 1, 6)[:, None]
  params = parameters((1, 4, 1), 'float64')
  y = network(params, x)
  tx = optimizer(params, x, loss, damping=0.5, momentum=0.5)
  state, damping = tx.init(params), 0.5
  for growth in (2, 4, 8):
    updates, state = tx.update(None, state, params, batch=(x, y))
    assert not any(leaf.any() for leaf in jax.tree.leaves(updates))
    damping *= growth
    np.testing.assert_allclose(state.base.damping, damping)
    found = gt.metrics(state)
    assert found['rejected'] == 1 and found['step_size'] == 0
    assert found['skipped_steps'] == 0


def test_the_prediction_is_that_of_a_linear_network() -> None:
  """A linear model does what is predicted, whatever the norm bound: rho = 1 or
  the share that the bound leaves."""
  x = jnp.asarray(np.random.default_rng(3).normal(size=(9, 4)))
  y = x.sum(axis=1, keepdims=True) + 1
  params = parameters((4, 1), 'float64')
  for bound in (None, 0.2):
    tx = optimizer(params, x, damping=1e-2, max_norm=bound)
    updates, state = tx.update(None, tx.init(params), params, batch=(x, y))
    found = gt.metrics(state)
    np.testing.assert_allclose(found['gain_ratio'], 1, rtol=1e-5)
    length = np.sqrt(sum(np.sum(u**2) for u in jax.tree.leaves(updates)))
    if bound is None:
      assert found['step_size'] == 1
    else:
      np.testing.assert_allclose(length, bound)
      assert found['step_size'] < 1


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
  'frozen': ({'value': 'frozen'}, "'coupled'"),
  'bellman': ({'value': 'bellman'}, "'coupled'"),
  'gradient': ({'terminal': 'gradient'}, "'gauss_newton'"),
  'subset': ({'terminal': gt.subset(gt.sampled(1), 2)}, 'every sample'),
}


@pytest.mark.parametrize('name', REFUSED)
@pytest.mark.parametrize('feedback', [True, False])
def test_what_has_no_joint_curvature_is_refused(
  name: str, feedback: bool
) -> None:
  options, message = REFUSED[name]
  x = jnp.ones((3, 1))
  graph = gt.trace(network, parameters((1, 1), 'float64'), x)
  given = {'terminal': 'gauss_newton', 'value': 'coupled', **options}
  with pytest.raises(gt.errors.OptionError, match=message):
    gt.gt_ddp(
      graph,
      gt.losses.squared_error,
      gt.levenberg_marquardt(),
      feedback=feedback,
      **given,
    )


@pytest.mark.parametrize(
  'arguments',
  [
    {'damping': 0.0},
    {'damping': lambda n: 0.1},
    {'learning_rate': -1.0},
    {'momentum': 1.0},
    {'max_norm': 0.0},
    {'adaptive': 1},
    {'metric': 'kfac'},
    {'min_damping': 2.0, 'max_damping': 1.0},
  ],
  ids=lambda arguments: '-'.join(arguments),
)
def test_values_without_a_meaning_are_refused(arguments: Any) -> None:
  name = next(iter(arguments))
  with pytest.raises(gt.errors.OptionError, match=name):
    gt.levenberg_marquardt(**arguments)


def test_gradients_are_refused_and_so_is_a_step_without_a_network() -> None:
  x, params = jnp.ones((3, 1)), parameters((1, 1), 'float64')
  tx = optimizer(params, x)
  with pytest.raises(gt.errors.OptionError, match='got gradients'):
    tx.update(params, tx.init(params), params, batch=(x, x))
  with pytest.raises(gt.errors.OptionError, match='base of gt_ddp'):
    gt.levenberg_marquardt().init(params)
  assert copy.deepcopy(gt.levenberg_marquardt(0.5)).settings.damping == 0.5
