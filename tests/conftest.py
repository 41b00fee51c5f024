"""Settings every test runs under: float64, no silent rank promotion.

The compiler runs at its lowest effort: the programs of the tests are tiny and
compiling them is what takes the time. LAPACK keeps to one thread, since its
threads and XLA's stand in each other's way.
"""

from __future__ import annotations

import importlib.metadata
import os

_EFFORT = [
  '--xla_backend_optimization_level=0',
  '--xla_llvm_disable_expensive_passes=true',
]
_JAXLIB = importlib.metadata.version('jaxlib').split('.')
if tuple(map(int, _JAXLIB[:2])) < (0, 11):  # later ones do not know the flag
  _EFFORT.append('--xla_cpu_use_fusion_emitters=false')
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
os.environ['XLA_FLAGS'] = ' '.join([*_EFFORT, os.environ.get('XLA_FLAGS', '')])

import jax  # noqa: E402 (the flags must be in place first)
import pytest  # noqa: E402

jax.config.update('jax_enable_x64', True)
jax.config.update('jax_numpy_rank_promotion', 'raise')


def pytest_addoption(parser: pytest.Parser) -> None:
  """Adds `--slow`, which also runs the tests marked slow."""
  parser.addoption(
    '--slow', action='store_true', help='also run the tests marked slow'
  )


def pytest_configure(config: pytest.Config) -> None:
  """Declares the markers, so that strict markers accept them."""
  config.addinivalue_line('markers', 'slow: minutes long; needs --slow')
  config.addinivalue_line(
    'markers', 'once: of what no version changes; CI runs it with one set'
  )


def pytest_collection_modifyitems(
  config: pytest.Config, items: list[pytest.Item]
) -> None:
  """Skips slow tests unless they were asked for."""
  if config.getoption('--slow'):
    return
  for item in items:
    if 'slow' in item.keywords:
      item.add_marker(pytest.mark.skip(reason='slow: run with --slow'))
