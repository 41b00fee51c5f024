"""Random programs equal their dense reference, or are refused by name.

60 small ones in the ordinary run. With `--slow` 1,000 with all cases, or those
of a range: `PROGRAMS=250:500 pytest --slow tests/random_programs`. A failure
says the number of the program, which `minimise.py` makes small.
"""

from __future__ import annotations

import collections
import os
import types
from collections.abc import Callable
from typing import Any

import hypothesis
import jax
import numpy as np
import oracle
import pytest
import report
from cases import Case, all_cases, few_cases
from ops import TABLE
from ops_patterns import PATTERNS
from outcomes import RATE, Outcome, examine
from programs import (
  FEW,
  Network,
  Program,
  assembled,
  flat,
  numbered,
  programs,
)
from reference import Reference, order_of_controls

import gtddp_jax as gt

pytestmark = pytest.mark.once

PIECE, LARGE_PIECE = 10, 50
MANY = range(*map(int, os.environ.get('PROGRAMS', '0:1000').split(':')))
# Programs with complex values, loops, other batch axes and tied leaves.
SOME = (0, 3, 16, 23, 39, 57)


def pieces(numbers: range, length: int) -> list[range]:
  return [numbers[i : i + length] for i in range(0, len(numbers), length)]


def run(
  numbers: range,
  cases: Callable[[int], list[Case]],
  record: Callable[[str, object], None],
) -> None:
  """Examines programs; fails for what is wrong, and says which it was."""
  outcomes = {}
  for number in numbers:
    outcomes[number] = examine(numbered(number), cases(number))
    record('program', report.line(number, outcomes[number]))
  jax.clear_caches()  # no program is run twice
  said = [report.line(*pair) for pair in outcomes.items()]
  bad = report.too_many(report.read(said), slack=1)
  assert not bad, '\n'.join([*bad, *map(described, outcomes.items())])


def described(pair: tuple[int, Outcome]) -> str:
  """A program that does not agree, with its text."""
  number, outcome = pair
  if outcome.kind == 'equal':
    return ''
  text = assembled(numbered(number))
  return f'\nprogram {number}, {outcome.kind}: {outcome.why}\n{text}'


@pytest.mark.parametrize('numbers', pieces(range(FEW), PIECE), ids=str)
def test_random_programs(numbers: range, record_property: Any) -> None:
  run(numbers, few_cases, record_property)


@pytest.mark.slow
@pytest.mark.parametrize('numbers', pieces(MANY, LARGE_PIECE), ids=str)
def test_many_random_programs(numbers: range, record_property: Any) -> None:
  run(numbers, all_cases, record_property)


@pytest.mark.slow
@hypothesis.given(programs())
@hypothesis.settings(
  max_examples=50,
  deadline=None,
  derandomize=True,
  database=None,
  suppress_health_check=list(hypothesis.HealthCheck),
)
def test_programs_that_shrink(program: Program) -> None:
  outcome = examine(program, all_cases(program.seed))
  network = assembled(program)
  assert outcome.kind not in ('wrong', 'crash'), f'{outcome.why}\n{network}'


def test_every_operation_is_met() -> None:
  """Also as something that the outputs need."""
  found = collections.Counter(
    atom.kind
    for number in range(500)
    for atom in assembled(numbered(number)).atoms
  )
  rows = {build.__name__ for build in TABLE.values()} - PATTERNS
  assert not {kind: found[kind] for kind in rows if found[kind] < 3}


def gradient_of(network: Network) -> oracle.Leaves:
  """By jax alone."""

  @jax.jit
  def of(params: Any) -> Any:
    def mean_loss(params: Any) -> jax.Array:
      outputs = network.apply(params, network.inputs())
      return jax.vmap(network.loss.phi)(outputs, network.targets()).mean()

    return jax.grad(mean_loss)(params)

  return flat(of(network.params()))


@pytest.mark.parametrize('number', SOME)
def test_reference_without_feedback_is_back_propagation(number: int) -> None:
  network = assembled(numbered(number))
  reference = Reference(network, order_of_controls(network))
  linear = reference.linear(
    network.params(), network.inputs(), network.targets()
  )
  base = oracle.sgd(RATE)
  updates = linear.solve('gradient', 'frozen', base, feedback=False)
  gradients = gradient_of(network)
  assert updates.keys() == gradients.keys()
  for path, gradient in gradients.items():
    np.testing.assert_allclose(
      updates[path], -RATE * np.conj(gradient), atol=1e-12
    )


def depth(number: int) -> int:
  return len(order_of_controls(assembled(numbered(number))))


@pytest.mark.parametrize(
  'change',
  [
    {'value': 'frozen'},
    {'terminal': 'gradient'},
    {'feedback': False},
    {'trust_region': 0.01},
  ],
  ids=str,
)
def test_another_step_is_found_wrong(change: dict[str, Any]) -> None:
  """A library that does not do what it is asked for is not equal."""

  def altered(*args: Any, **options: Any) -> Any:
    return gt.gt_ddp(*args, **options | change)

  library = types.SimpleNamespace(trace=gt.trace, gt_ddp=altered)
  cases = [Case('bellman', 'gauss_newton')]
  deep = [n for n in range(FEW) if depth(n) >= 4]
  assert any(
    examine(numbered(n), cases, library).kind == 'wrong' for n in deep[:5]
  )
