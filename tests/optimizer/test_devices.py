"""Samples spread over devices change nothing but the order of sums."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from typing import Any

import devices_case
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOLERANCE = {'float32': 1e-5, 'float64': 1e-12}


@pytest.fixture(scope='module')
def found() -> dict[str, Any]:
  """What a process with four devices has printed."""
  done = subprocess.run(
    [sys.executable, '-W', 'error', devices_case.__file__, str(ROOT)],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


@pytest.mark.parametrize('form', devices_case.FORMS)
@pytest.mark.parametrize('dtype', TOLERANCE)
def test_the_same_parameters_on_any_number_of_devices(
  dtype: str, form: str, found: dict[str, Any]
) -> None:
  one, *others = (
    found[f'{dtype} {form} {devices}'] for devices in devices_case.DEVICES
  )
  expected = np.array(one['params'])
  for other in others:
    apart = np.linalg.norm(np.array(other['params']) - expected)
    assert apart < TOLERANCE[dtype] * np.linalg.norm(expected)
  for run in (one, *others):
    assert run['skipped'] == 0
    assert run['feedback'] > 1e-3


@pytest.mark.parametrize('form', ['bellman', 'ekfac'])
def test_every_device_goes_through_its_own_samples(
  form: str, found: dict[str, Any]
) -> None:
  for devices in devices_case.DEVICES:
    rounds = found[f'float32 {form} {devices}']['rounds']
    assert rounds
    assert set(rounds) == {devices_case.BATCH // devices}


@pytest.mark.parametrize('form', ['frozen', 'ekfac'])
def test_no_samples_are_gathered(form: str, found: dict[str, Any]) -> None:
  for devices in devices_case.DEVICES:
    assert found[f'float32 {form} {devices}']['gathers'] == 0
