"""`gt_ddp` as an optax transformation: the contract, safety and refusals."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gtddp_jax as gt

RNG = np.random.default_rng(1)
X = jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32)
Y = jnp.asarray(RNG.integers(0, 4, 6))
PARAMS = {
  'a': {'w': jnp.asarray(RNG.normal(size=(3, 5)), jnp.float32)},
  'b': {
    'w': jnp.asarray(RNG.normal(size=(5, 4)), jnp.float32),
    'b': jnp.zeros((4,), jnp.float32),
  },
}
BATCH = (X, Y)


def network(p: Any, x: jax.Array) -> jax.Array:
  return jnp.tanh(x @ p['a']['w']) @ p['b']['w'] + p['b']['b'][None]


GRAPH = gt.trace(network, PARAMS, X)
make = functools.partial(
  gt.gt_ddp, GRAPH, gt.losses.softmax_cross_entropy, trust_region=None
)


def update(
  tx: Any, state: Any = None, grads: Any = None, batch: Any = BATCH
) -> Any:
  """One compiled update at PARAMS, from the initial state by default."""
  state = tx.init(PARAMS) if state is None else state
  return jax.jit(lambda s: tx.update(grads, s, PARAMS, batch=batch))(state)


FORMS = [
  {'base': gt.sgd(0.1)},
  {'base': gt.sgd(0.1, momentum=0.9, nesterov=True), 'value': 'bellman'},
  {'base': gt.rmsprop(0.01), 'value': 'bellman', 'terminal': 'gauss_newton'},
  {'base': gt.adam(0.01), 'value': 'bellman'},
  {'base': optax.lion(0.01), 'terminal': 'gauss_newton'},
  {'base': optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(0.01))},
  {'base': gt.adam(0.01), 'feedback': False},
  {'base': gt.kfac(0.03, 0.01)},
  {'base': gt.ekfac(0.01, 0.01), 'value': 'bellman', 'trust_region': 0.3},
]
forms = pytest.mark.parametrize('form', FORMS, ids=range(len(FORMS)))


def close(a: Any, b: Any, tolerance: float = 1e-5) -> None:
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=1e-6),
    a,
    b,
  )


@forms
def test_one_compile_in_scan_with_stable_state(form: Any) -> None:
  tx = make(**form)

  def body(carry: Any, _: None) -> tuple[Any, None]:
    params, state = carry
    updates, state = tx.update(
      None, state, params, batch=BATCH, an_extra_argument=jnp.ones(())
    )
    return (optax.apply_updates(params, updates), state), None

  start = (PARAMS, tx.init(PARAMS))
  (_, state), _ = jax.jit(lambda c: jax.lax.scan(body, c, length=60))(start)
  shapes = lambda tree: jax.tree.map(lambda v: (v.shape, v.dtype), tree)  # noqa: E731
  assert shapes(state) == shapes(start[1])
  metrics = gt.metrics(state)
  assert metrics['loss'] < 0.9 * np.log(4)
  assert metrics['skipped_steps'] == 0


@forms
def test_map_params_and_cond(form: Any) -> None:
  tx = make(**form)
  state = tx.init(PARAMS)
  optax.tree.map_params(tx, lambda v: v, state)

  @jax.jit
  def step(go: jax.Array, state: Any) -> Any:
    return jax.lax.cond(
      go,
      lambda s: tx.update(None, s, PARAMS, batch=BATCH),
      lambda s: (jax.tree.map(jnp.zeros_like, PARAMS), s),
      state,
    )

  still, same = step(jnp.asarray(False), state)
  moved, _ = step(jnp.asarray(True), state)
  close(same, state)
  assert optax.tree.norm(still) == 0 and optax.tree.norm(moved) > 0


def test_a_second_call_compiles_nothing() -> None:
  tx = make(gt.adam(0.01), value='bellman')
  step = jax.jit(lambda p, s: tx.update(None, s, p, batch=BATCH))
  _, state = step(PARAMS, tx.init(PARAMS))
  step(PARAMS, state)
  assert step._cache_size() == 1


def test_chain_hands_the_batch_through() -> None:
  plain, chained = (
    make(gt.sgd(0.1)),
    optax.chain(optax.clip(1e6), make(gt.sgd(0.1)), optax.scale(0.5)),
  )
  grads = jax.grad(
    lambda p: gt.losses.softmax_cross_entropy(network(p, X), Y).mean()
  )(PARAMS)
  one, _ = update(plain, grads=grads)
  two, state = update(chained, grads=grads)
  close(jax.tree.map(lambda u: u / 2, one), two)
  assert gt.metrics(state)['feedback_ratio'] > 0


def test_inject_hyperparams_gives_the_same_updates() -> None:
  def factory(learning_rate: float) -> Any:
    return make(gt.sgd(learning_rate), value='bellman')

  plain = factory(0.1)
  injected = optax.inject_hyperparams(factory)(learning_rate=0.1)
  one, _ = update(plain)
  two, _ = update(injected)
  close(one, two)


def test_schedules_advance_inside_the_base() -> None:
  rates = optax.piecewise_constant_schedule(0.1, {1: 0.0})
  tx = make(gt.sgd(rates), value='bellman')
  first, state = update(tx)
  second, _ = update(tx, state)
  assert optax.tree.norm(first) > 0 and optax.tree.norm(second) == 0


def test_multi_steps_feeds_averaged_gradients() -> None:
  tx = optax.MultiSteps(make(gt.sgd(0.1)), every_k_schedule=2)
  zeros = jax.tree.map(jnp.zeros_like, PARAMS)
  grads = jax.tree.map(jnp.ones_like, PARAMS)
  state = tx.init(PARAMS)
  first, state = update(tx, state, grads)
  second, state = update(tx, state, grads)
  close(first, zeros)
  # The first layer has nobody upstream: its update is the open-loop one.
  close(second['a'], jax.tree.map(lambda g: -0.1 * g, grads['a']))


def test_masked_base_leaves_other_leaves_alone() -> None:
  mask = {'a': {'w': False}, 'b': {'w': True, 'b': True}}
  base = optax.chain(
    optax.masked(optax.sgd(0.1), mask),
    optax.masked(optax.set_to_zero(), jax.tree.map(lambda m: not m, mask)),
  )
  tx = make(base)
  updates, _ = update(tx)
  assert optax.tree.norm(updates['a']) == 0 < optax.tree.norm(updates['b'])


FROZEN = {'a': {'w': True}, 'b': {'w': False, 'b': False}}


def test_frozen_layers_are_not_answered() -> None:
  """Traced without them, or with a base that does not move them; not behind."""
  still = optax.masked(optax.set_to_zero(), FROZEN)
  frozen, trained = {'a': PARAMS['a']}, {'b': PARAMS['b']}
  graph = gt.trace(lambda p, x: network({**p, **frozen}, x), trained, X)
  forms: list[tuple[Any, Any]] = [
    (
      gt.gt_ddp(
        graph, gt.losses.softmax_cross_entropy, gt.sgd(0.1), trust_region=None
      ),
      trained,
    ),
    (make(optax.chain(gt.sgd(0.1), still)), PARAMS),
    (optax.chain(make(gt.sgd(0.1)), still), PARAMS),
  ]
  apart, inside, behind = jax.jit(
    lambda: [tx.update(None, tx.init(p), p, batch=BATCH)[0] for tx, p in forms]
  )()
  for updates in inside, behind:
    assert optax.tree.norm(updates['a']) == 0 < optax.tree.norm(updates['b'])
  close(apart['b'], inside['b'])
  assert not np.allclose(inside['b']['w'], behind['b']['w'], rtol=1e-3)


@pytest.mark.parametrize(
  'wrap',
  [
    lambda tx: optax.masked(tx, jax.tree.map(lambda m: not m, FROZEN)),
    lambda tx: optax.multi_transform(
      {True: optax.set_to_zero(), False: tx}, FROZEN
    ),
  ],
  ids=['masked', 'multi_transform'],
)
def test_wrappers_that_hide_parameters_are_refused(wrap: Any) -> None:
  for base in gt.sgd(0.1), gt.kfac(0.1):
    with pytest.raises(
      gt.errors.ParameterTreeError,
      match=r"'a/w': expected float32\[3, 5\], got MaskedNode.*set_to_zero",
    ):
      wrap(make(base)).init(PARAMS)


@pytest.mark.parametrize(
  ('grads', 'words'),
  [
    ({**PARAMS, 'a': {'w': None}}, r"'a/w': expected shape \[3, 5\], got None"),
    ({'b': PARAMS['b']}, "'a/w': .*, got nothing"),
    ({**PARAMS, 'c': jnp.ones(2)}, r"'c': expected nothing, got shape \[2\]"),
    ({**PARAMS, 'a': {'w': jnp.ones(5)}}, r"'a/w': .*, got shape \[5\]"),
    ({**PARAMS, 'a': [PARAMS['a']['w']]}, "'a/w': .*, got nothing"),
    ((PARAMS['a'], PARAMS['b']), 'one for every parameter'),
  ],
)
@pytest.mark.parametrize('feedback', [True, False])
def test_gradients_are_like_the_parameters(
  grads: Any, words: str, feedback: bool
) -> None:
  tx = make(gt.sgd(0.1), feedback=feedback)
  with pytest.raises(gt.errors.ParameterTreeError, match=words):
    tx.update(grads, tx.init(PARAMS), PARAMS, batch=BATCH)


def test_sharded_batches_give_the_same_updates() -> None:
  device = jax.sharding.Mesh(np.array(jax.devices()[:1]), ('data',))
  rows = jax.NamedSharding(device, jax.P('data'))
  tx = make(gt.sgd(0.1), value='bellman')
  step = jax.jit(lambda s, b: tx.update(None, s, PARAMS, batch=b)[0])
  state = tx.init(PARAMS)
  close(step(state, BATCH), step(state, jax.device_put(BATCH, rows)))


def test_bfloat16_parameters_keep_their_dtype() -> None:
  half = lambda tree: jax.tree.map(lambda v: v.astype(jnp.bfloat16), tree)  # noqa: E731
  params, x = half(PARAMS), half(X)
  graph = gt.trace(network, params, x)
  for value in ('frozen', 'bellman'):
    tx = gt.gt_ddp(
      graph,
      gt.losses.softmax_cross_entropy,
      gt.sgd(0.1),
      value=value,
      trust_region=None,
    )
    step = jax.jit(lambda s, tx=tx: tx.update(None, s, params, batch=(x, Y)))
    updates, _ = step(tx.init(params))
    assert {str(u.dtype) for u in jax.tree.leaves(updates)} == {'bfloat16'}


def test_a_last_batch_of_another_size_is_traced_on_its_own() -> None:
  tx = make(gt.sgd(0.1), value='bellman')
  step = jax.jit(lambda s, b: tx.update(None, s, PARAMS, batch=b)[0])
  updates = step(tx.init(PARAMS), (X[:4], Y[:4]))
  other = gt.gt_ddp(
    gt.trace(network, PARAMS, X[:4]),
    gt.losses.softmax_cross_entropy,
    gt.sgd(0.1),
    value='bellman',
    trust_region=None,
  )
  expected, _ = update(other, batch=(X[:4], Y[:4]))
  close(updates, expected)


@pytest.mark.parametrize('value', ['frozen', 'bellman'])
@pytest.mark.parametrize('feedback', [True, False])
def test_a_non_finite_step_changes_nothing_and_is_counted(
  value: str, feedback: bool
) -> None:
  tx = make(gt.adam(0.1), value=value, feedback=feedback)
  step = jax.jit(lambda s, b: tx.update(None, s, PARAMS, batch=b))
  _, before = step(tx.init(PARAMS), BATCH)
  updates, after = step(before, (X.at[0, 0].set(jnp.nan), Y))
  assert optax.tree.norm(updates) == 0
  close(after.base, before.base, 0)
  assert gt.metrics(after)['skipped_steps'] == 1
  _, later = step(after, BATCH)
  assert gt.metrics(later)['skipped_steps'] == 1


def test_the_trust_region_bounds_feedback_and_is_counted() -> None:
  wild = make(gt.sgd(30.0), value='bellman')
  tame = make(gt.sgd(30.0), value='bellman', trust_region=0.01)
  loose = make(gt.sgd(30.0), value='bellman', trust_region=1e9)
  results = [update(tx) for tx in (wild, tame, loose)]
  shares = [gt.metrics(s)['clipped_share'] for _, s in results]
  assert shares[0] == 0 == shares[2] and 0 < shares[1] <= 1
  close(results[0][0], results[2][0])
  open_loop = make(gt.sgd(30.0), feedback=False)
  plain, _ = update(open_loop)
  # Weights within 1 % of 1 in both sweeps: within 2 % of the open loop, by
  # the norm of what each sample contributes.
  distance = lambda u: optax.tree.norm(optax.tree.sub(u, plain))  # noqa: E731
  assert distance(results[1][0]) < 0.1 * distance(results[0][0])


@pytest.mark.parametrize('value', ['frozen', 'bellman', 'coupled'])
def test_a_fitted_batch_has_nothing_to_bound(value: str) -> None:
  """The trust region is in units of slopes that are all zero here."""
  tx = gt.gt_ddp(
    GRAPH, gt.losses.squared_error, gt.sgd(0.1), 'gauss_newton', value,
    trust_region=0.3,
  )  # fmt: skip
  params = {**PARAMS, 'b': jax.tree.map(jnp.zeros_like, PARAMS['b'])}
  updates, state = jax.jit(
    lambda s: tx.update(None, s, params, batch=(X, jnp.zeros((6, 4))))
  )(tx.init(params))
  assert gt.metrics(state)['skipped_steps'] == 0
  jax.tree.map(lambda u: np.testing.assert_array_equal(u, 0), updates)


def test_clamping_keeps_the_curvature_positive() -> None:
  tx = make(gt.sgd(1e4), value='bellman')
  updates, state = update(tx)
  assert gt.metrics(state)['smallest_factor'] < 0
  assert np.isfinite(optax.tree.norm(updates))


@pytest.mark.parametrize(
  ('options', 'needle'),
  [
    ({'value': 'belman'}, "'frozen', 'bellman'"),
    ({'terminal': 'hessian'}, "'gradient', 'gauss_newton'"),
    ({'cooperation': 'alone'}, 'cooperation'),
    ({'trust_region': -1.0}, 'trust_region'),
    ({'trust_region': '0.3'}, 'trust_region'),
    ({'feedback': 'no'}, 'feedback'),
    ({'terminal': None}, 'terminal'),
    ({'base': gt.adam}, 'call its factory'),
    ({'base': optax.sgd(0.1), 'value': 'bellman'}, 'sgd, rmsprop, adam'),
  ],
)
def test_meaningless_options_are_refused(options: Any, needle: str) -> None:
  with pytest.raises(gt.errors.OptionError, match=needle):
    make(**{'base': gt.sgd(0.1), **options})


def test_a_loss_that_averages_is_refused() -> None:
  tx = gt.gt_ddp(
    GRAPH, lambda o, t: jnp.mean(o), gt.sgd(0.1), trust_region=None
  )
  with pytest.raises(gt.errors.LossError, match='one value per sample'):
    tx.update(None, tx.init(PARAMS), PARAMS, batch=BATCH)


def test_a_loss_that_is_no_function_is_refused() -> None:
  with pytest.raises(gt.errors.OptionError, match='squared_error'):
    gt.gt_ddp(GRAPH, 'mse', gt.sgd(0.1), trust_region=None)


@pytest.mark.parametrize('name', ['squared_error', 'softmax_cross_entropy'])
def test_targets_of_another_shape_are_refused(name: str) -> None:
  outputs, targets = jnp.zeros((5, 1)), jnp.zeros((5,))
  with pytest.raises(gt.errors.LossError, match=r'\[5, 1\], got .*\[5\]'):
    getattr(gt.losses, name)(outputs, targets)


def test_without_feedback_any_base_goes_with_any_value() -> None:
  tx = make(optax.adamw(0.01), value='coupled', feedback=False)
  updates, _ = update(tx)
  assert optax.tree.norm(updates) > 0


def test_update_needs_batch_and_parameters() -> None:
  tx = make(gt.sgd(0.1))
  with pytest.raises(gt.errors.OptionError, match='needs the batch'):
    tx.update(None, tx.init(PARAMS), PARAMS)
  with pytest.raises(gt.errors.OptionError, match='inputs, targets'):
    tx.update(None, tx.init(PARAMS), PARAMS, batch={'x': X})
  with pytest.raises(gt.errors.ParameterTreeError, match='parameters'):
    tx.update(None, tx.init(PARAMS), batch=BATCH)


@pytest.mark.parametrize(
  ('other', 'needle'),
  [
    (gt.adam(0.1), r"'base/0/count': expected nothing, got shape \[\]"),
    (gt.sgd(0.1, momentum=0.9), r"'base/0/trace/a/w'.*got shape \[3, 5\]"),
    (gt.ekfac(0.1), "steps'"),
  ],
)
def test_the_state_of_another_base_is_refused(other: Any, needle: str) -> None:
  tx, state = make(gt.sgd(0.1)), make(other).init(PARAMS)
  with pytest.raises(gt.errors.OptionError, match=needle) as caught:
    tx.update(None, state, PARAMS, batch=BATCH)
  assert 'init(params)' in str(caught.value)
  with pytest.raises(gt.errors.OptionError, match='got a dict'):
    tx.update(None, state._asdict(), PARAMS, batch=BATCH)


def test_metrics_wants_exactly_one_state() -> None:
  with pytest.raises(gt.errors.OptionError, match='got 0'):
    gt.metrics(optax.sgd(0.1).init(PARAMS))
