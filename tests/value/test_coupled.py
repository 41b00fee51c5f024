"""The coupled level in its limits: infinite rate, little memory."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import compiled, loss_of, trace
from problems import PROBLEMS

import gtddp_jax as gt

pytestmark = pytest.mark.once

RNG = np.random.default_rng(5)
BATCH = 7


def linear_network(widths: tuple[int, ...]) -> tuple[Any, Any, Any, Any]:
  params = {
    f'layer_{t}': {'w': jnp.asarray(RNG.normal(size=pair))}
    for t, pair in enumerate(itertools.pairwise(widths))
  }

  def apply_fn(params: Any, x: jax.Array) -> jax.Array:
    for layer in params.values():
      x = x @ layer['w']
    return x

  x, y = (RNG.normal(size=(BATCH, w)) for w in (widths[0], widths[-1]))
  return apply_fn, params, jnp.asarray(x), jnp.asarray(y)


@pytest.mark.parametrize('widths', [(4, 3), (3, 4, 2), (3, 2, 4, 2)])
def test_at_infinite_rate_each_layer_solves_its_least_squares(
  widths: tuple[int, ...],
) -> None:
  """With x the nominal and x^ the actual input of layer t, r = x^ W_t ... W_T -
  y what is left to explain, and G_s the effect of a change of layer s on the
  outputs at nominal inputs and weights, (du_t, dv_{t+1} ... dv_T) is the
  least-squares solution of least norm of `sum_s G_s dv_s = -r`; layer t takes
  its own part, and the next layers decide again, given what it then did.
  """
  apply_fn, params, x, y = linear_network(widths)
  graph = gt.trace(apply_fn, params, x)
  tx = gt.gt_ddp(
    graph,
    gt.losses.squared_error,
    gt.sgd(3e6),
    terminal='gauss_newton',
    value='coupled',
  )
  updates, _ = tx.update(None, tx.init(params), params, batch=(x, y))
  weights = [np.asarray(layer['w']) for layer in params.values()]
  nominal, actual = [np.asarray(x)], np.asarray(x)
  for w in weights:
    nominal.append(nominal[-1] @ w)

  def effect(s: int) -> np.ndarray:
    after = np.linalg.multi_dot([np.eye(widths[s + 1])] * 2 + weights[s + 1 :])
    return np.kron(nominal[s], after.T)

  for t, w in enumerate(weights):
    left = actual @ np.linalg.multi_dot([np.eye(widths[t])] * 2 + weights[t:])
    effects = np.concatenate(
      [effect(s) for s in range(t, len(weights))], axis=1
    )
    solution = -np.linalg.pinv(effects) @ (left - y).ravel()
    du = solution[: w.size].reshape(w.shape)
    got = updates[f'layer_{t}']['w']
    np.testing.assert_allclose(got, du, rtol=1e-4, atol=1e-5)
    actual = actual @ (w + du)
  if len(weights) == 1:
    fit, *_ = np.linalg.lstsq(x, y)
    np.testing.assert_allclose(weights[0] + du, fit, rtol=1e-6)


@pytest.mark.parametrize('value', [gt.Bellman, gt.Coupled])
@pytest.mark.parametrize(
  ('name', 'base'),
  [('strided_convolutions', gt.sgd), ('linen_mlp', gt.rmsprop)],
)
def test_memory_changes_only_how_it_is_computed(
  name: str, base: Any, value: Any
) -> None:
  problem = PROBLEMS[name]()
  graph = trace(problem)
  got = []
  for memory in 1, 2**28:
    tx = gt.gt_ddp(
      graph,
      loss_of(problem),
      base(0.05),
      value=value(memory),
      trust_region=None,
    )
    step = compiled(problem, tx)
    got.append(step(problem.params, tx.init(problem.params))[0])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-9), *got)
