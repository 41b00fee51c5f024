"""What Kronecker curvature refuses: one error each, that says what to do."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import kronecker_games as games
import optax
import pytest
from kronecker_cases import LOSSES, draw, graph_of

import gtddp_jax as gt
from gtddp_jax import errors

LOSS = gt.losses.squared_error
BASES = {'kfac': gt.kfac, 'ekfac': gt.ekfac}
either = pytest.mark.parametrize('name', BASES)


def scaled(params: Any, x: jax.Array) -> jax.Array:
  h = x @ params['dense']['w']
  return h * params['norm']['scale'][None]


@either
@pytest.mark.parametrize('rate', [0, -0.03, float('nan'), '0.03', None])
def test_rates_are_positive_numbers_or_schedules(name: str, rate: Any) -> None:
  with pytest.raises(errors.OptionError, match=f'{name}: learning_rate'):
    BASES[name](rate)


PARAMS = {'dense': {'w': draw(3, 3)}, 'norm': {'scale': draw(3)}}


@either
def test_a_scale_needs_a_diagonal(name: str) -> None:
  graph = gt.trace(scaled, PARAMS, draw(4, 3))
  with pytest.raises(errors.OptionError) as caught:
    gt.gt_ddp(graph, LOSS, BASES[name](0.1), trust_region=None)
  message = str(caught.value)
  assert message.startswith(f'{name} has no Kronecker rule')
  assert "'norm/scale'" in message and 'dense/w' not in message
  assert f'{name}(lr, diagonal=adam(1e-3))' in message
  gt.gt_ddp(
    graph, LOSS, BASES[name](0.1, diagonal=gt.adam(1e-3)), trust_region=None
  )


def test_tied_kernels_need_a_diagonal() -> None:
  def tied(params: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ params['kernel']) @ params['kernel']

  def attended(params: Any, x: jax.Array) -> jax.Array:
    h = jnp.take(params['kernel'], x, axis=0).mean(axis=1)
    return h @ params['kernel'].T

  for function, x in (
    (tied, draw(4, 3)),
    (attended, jnp.asarray([[0, 1], [2, 2]])),
  ):
    graph = gt.trace(function, {'kernel': draw(3, 3)}, x)
    with pytest.raises(errors.OptionError, match="'kernel'"):
      gt.gt_ddp(graph, LOSS, gt.kfac(0.1), trust_region=None)


@either
@pytest.mark.parametrize('value', ['bellman', 'coupled', gt.Bellman()])
def test_a_norm_constraint_needs_frozen_values(value: Any, name: str) -> None:
  case, graph = graph_of(games.dense)
  base = BASES[name](0.1, norm_constraint=1e-3)
  with pytest.raises(errors.OptionError, match=r'norm_constraint.*frozen'):
    gt.gt_ddp(graph, LOSSES[case.phi], base, value=value, trust_region=None)
  gt.gt_ddp(graph, LOSSES[case.phi], base, value=value, feedback=False)
  gt.gt_ddp(graph, LOSSES[case.phi], base, trust_region=None)


@pytest.mark.parametrize(
  ('name', 'values'),
  [
    ('decay', [1, 1.0, -0.1, 2, float('nan')]),
    ('every', [0, -1, 1.5, True, None]),
    ('basis_every', [0, '10']),
    ('largest', [0, None]),
    ('source', ['slopes', None]),
    ('positions', ['', 'mean']),
  ],
)
def test_statistics_that_have_no_meaning(name: str, values: list[Any]) -> None:
  for value in values:
    with pytest.raises(errors.OptionError, match=f'Statistics: {name}'):
      gt.Statistics(**{name: value})


@either
@pytest.mark.parametrize(
  ('option', 'value'),
  [
    ('damping', 0.0),
    ('damping', -1),
    ('norm_constraint', 0),
    ('diagonal', optax.adam(1e-3)),
    ('diagonal', gt.adam),
    ('statistics', {'every': 1}),
    ('statistics', None),
  ],
)
def test_options_that_have_no_meaning(
  option: str, value: Any, name: str
) -> None:
  with pytest.raises(errors.OptionError, match=f'Invalid {name}: {option}'):
    BASES[name](0.1, **{option: value})


@either
def test_it_cannot_step_by_itself(name: str) -> None:
  base = BASES[name](0.1)
  with pytest.raises(errors.OptionError, match='base of gt_ddp'):
    base.init(PARAMS)
  with pytest.raises(errors.OptionError, match='base of gt_ddp'):
    base.update(PARAMS, None, PARAMS)
  with pytest.raises(errors.OptionError, match='base of gt_ddp'):
    optax.chain(optax.clip(1.0), base).init(PARAMS)


@either
def test_it_is_not_a_part_of_a_base(name: str) -> None:
  case, graph = graph_of(games.dense)
  for base in (
    optax.chain(BASES[name](0.1), optax.clip(1.0)),
    optax.masked(BASES[name](0.1), jax.tree.map(lambda _: True, case.params)),
  ):
    tx = gt.gt_ddp(graph, LOSSES[case.phi], base, trust_region=None)
    with pytest.raises(errors.OptionError) as caught:
      tx.init(case.params)
    assert str(caught.value).startswith('Invalid base: expected kfac or ekfac')
    assert 'optax.chain(gt_ddp(graph' in str(caught.value)
    with pytest.raises(errors.OptionError, match='chain around gt_ddp'):
      gt.gt_ddp(
        graph, LOSSES[case.phi], base, value='bellman', trust_region=None
      )


@either
@pytest.mark.parametrize('cooperation', ['kronecker', 'schur'])
def test_joint_sides_are_at_most_the_largest(
  cooperation: str, name: str
) -> None:
  """main has 5 rows of inputs and side 2."""
  case, graph = graph_of(games.dense)
  for largest, fine in (6, False), (7, True):
    base = BASES[name](0.1, statistics=gt.Statistics(largest=largest))
    if fine:
      gt.gt_ddp(
        graph,
        LOSSES[case.phi],
        base,
        cooperation=cooperation,
        trust_region=None,
      )
      continue
    with pytest.raises(errors.OptionError, match=r"'main', 'side'.*7.*'none'"):
      gt.gt_ddp(
        graph,
        LOSSES[case.phi],
        base,
        cooperation=cooperation,
        trust_region=None,
      )
    gt.gt_ddp(graph, LOSSES[case.phi], base, trust_region=None)


def test_a_cooperation_that_is_none() -> None:
  case, graph = graph_of(games.dense)
  with pytest.raises(errors.OptionError, match='cooperation'):
    gt.gt_ddp(
      graph,
      LOSSES[case.phi],
      gt.kfac(0.1),
      cooperation='nash',
      trust_region=None,
    )
