"""``verify_step``: a report on one step, right and with a fault put in."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax
import pytest
from two_layers import LOSS, PARAMS, X, Y, network

import gtddp_jax as gt
from gtddp_jax.gradients import control, operator
from gtddp_jax.optimizer import rollout

GRAPH = gt.trace(network, PARAMS, X)


@pytest.mark.parametrize('value', ['frozen', 'bellman', 'coupled'])
@pytest.mark.parametrize('base', [gt.sgd(0.3), gt.adam(0.01)])
def test_a_right_step_holds_in_every_way(value: str, base: Any) -> None:
  tx = gt.gt_ddp(GRAPH, LOSS, base, 'gauss_newton', value)
  report = gt.verify_step(tx, PARAMS, (X, Y))
  assert report.ok, str(report)
  dense = report.checks[-1]
  assert dense.ok and float(dense.detail.split()[-1]) < 1e-9
  assert str(report).endswith('all hold')


def test_what_does_not_apply_says_why() -> None:
  tx = gt.gt_ddp(GRAPH, LOSS, gt.ekfac(0.1, 1e-2), value='coupled')
  report = gt.verify_step(tx, PARAMS, (X, Y))
  assert report.ok
  skipped = {c.name: c.detail for c in report.checks if c.ok is None}
  assert 'Q_uu' in skipped['dense matrices in float64']
  with pytest.raises(gt.errors.OptionError, match='inside a chain'):
    gt.verify_step(optax.chain(tx), PARAMS, (X, Y))


def test_a_later_state_is_taken() -> None:
  tx = gt.gt_ddp(GRAPH, LOSS, gt.adam(0.01), value='bellman')
  _, state = tx.update(None, tx.init(PARAMS), PARAMS, batch=(X, Y))
  assert gt.verify_step(tx, PARAMS, (X, Y), state=state).ok


def test_complex_parameters_are_checked() -> None:
  params = {**PARAMS, 'last': {'w': PARAMS['last']['w'] * (1 + 0.5j)}}

  def real(p: Any, x: jax.Array) -> jax.Array:
    return network(p, x).real

  tx = gt.gt_ddp(gt.trace(real, params, X), LOSS, gt.sgd(0.1), value='bellman')
  assert gt.verify_step(tx, params, (X, Y)).ok


def failing(tx: Any) -> set[str]:
  report = gt.verify_step(tx, PARAMS, (X, Y))
  assert not report.ok and 'FAIL' in str(report)
  return {check.name.split()[0] for check in report.checks if check.ok is False}


def test_faults_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
  tx = gt.gt_ddp(GRAPH, LOSS, gt.sgd(0.3), 'gauss_newton', 'bellman')
  with monkeypatch.context() as patch:
    combine = control.Player.combine
    patch.setattr(
      control.Player,
      'combine',
      lambda self, w: tuple(1.1 * g for g in combine(self, w)),
    )
    assert failing(tx) >= {'gradients', 'feedback', 'dense'}
  with monkeypatch.context() as patch:
    change = operator.Sensitivity.directional
    patch.setattr(
      operator.Sensitivity, 'directional', lambda *a: 1.1 * change(*a)
    )
    assert failing(tx) == {'dense'}
  with monkeypatch.context() as patch:
    outcome = rollout._ForwardPass.outcome
    patch.setattr(rollout._ForwardPass, 'outcome', lambda *a: -outcome(*a))
    assert failing(tx) == {'dense'}


def test_a_step_that_is_not_finite_is_told() -> None:
  tx = gt.gt_ddp(GRAPH, LOSS, gt.sgd(np.inf))
  assert 'the' in failing(tx)
