"""The public surface: what may be imported, and how it is called.

A name that leaves this list breaks other people's code; a name that enters it
is a promise. Both are changes to make on purpose, with a changelog entry.
"""

from __future__ import annotations

import inspect

import pytest

import gtddp_jax as gt

PUBLIC = {
  'Base',
  'Bellman',
  'Coupled',
  'Expansion',
  'GtDdpState',
  'LayerGraph',
  'Stage',
  'Statistics',
  'TerminalValue',
  'adam',
  'analysis',
  'collections',
  'ekfac',
  'errors',
  'gt_ddp',
  'kfac',
  'levenberg_marquardt',
  'losses',
  'metrics',
  'module_of',
  'rmsprop',
  'sampled',
  'sgd',
  'soap',
  'subset',
  'trace',
  'truncated',
  'verify_step',
}
# Aliases of types have no documentation of their own.
CALLABLES = sorted(
  name
  for name in PUBLIC
  if inspect.isroutine(getattr(gt, name, None))
  or inspect.isclass(getattr(gt, name, None))
)


def test_the_public_names_are_these() -> None:
  assert set(gt.__all__) == PUBLIC
  assert len(gt.__all__) == len(PUBLIC) <= 28


def test_every_public_name_exists() -> None:
  missing = [name for name in gt.__all__ if not hasattr(gt, name)]
  assert not missing


@pytest.mark.parametrize('name', CALLABLES)
def test_every_public_callable_is_documented(name: str) -> None:
  documentation = getattr(gt, name).__doc__
  assert documentation and len(documentation.splitlines()[0]) > 10


def test_the_call_of_gt_ddp() -> None:
  parameters = inspect.signature(gt.gt_ddp).parameters
  required = [n for n, p in parameters.items() if p.default is p.empty]
  assert required == ['graph', 'loss', 'base']
  defaults = {n: p.default for n, p in parameters.items() if n not in required}
  assert defaults == {
    'terminal': 'gradient',
    'value': 'frozen',
    'cooperation': 'none',
    'feedback': True,
    'trust_region': 'auto',
  }


def test_the_call_of_trace() -> None:
  parameters = list(inspect.signature(gt.trace).parameters)
  assert parameters[:3] == ['apply_fn', 'params', 'inputs']
