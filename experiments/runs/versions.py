"""What the numbers of a run may depend on, beside its config."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

import jax

_PACKAGES = (
  'gtddp-jax',
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'orbax-checkpoint',
  'numpy',
  'scikit-learn',
  'ml_collections',
)
# Of the whole repository, but for its report.
_STATUS = (
  'status', '--porcelain', '--', ':(top)', ':(top,exclude)docs/results',
)  # fmt: skip


def versions() -> dict[str, Any]:
  """Returns what the numbers of a run may depend on, beside its config.

  The report kept in the repository and its figures (``docs/results``) are made
  of numbers and make none: that they changed is not counted as a change.
  """
  devices = jax.devices()
  return {
    'python': platform.python_version(),
    'packages': {name: _version(name) for name in _PACKAGES},
    'platform': platform.platform(),
    'cpus': os.cpu_count(),
    'devices': [device.device_kind for device in devices],
    'backend': devices[0].platform,
    'git_commit': _git('rev-parse', 'HEAD'),
    'git_changed_files': (_git(*_STATUS) or '').splitlines(),
  }


def _version(package: str) -> str | None:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def _git(*arguments: str) -> str | None:
  """The output of a git command here, or None where there is no git."""
  root = pathlib.Path(__file__).parent
  try:
    done = subprocess.run(
      # A run that is stopped must leave no lock in the repository.
      ['git', '--no-optional-locks', *arguments],
      cwd=root,
      capture_output=True,
      text=True,
      check=True,
    )
  except (OSError, subprocess.CalledProcessError):
    return None
  return done.stdout.strip()
