"""Arguments of ``levenberg_marquardt``, checked, and its metrics ``M``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax

from gtddp_jax import checks, errors
from gtddp_jax.curvature import diagonal

Array = jax.Array

METRICS: Mapping[str, diagonal.Base] = MappingProxyType(
  {
    'identity': diagonal.sgd(1.0),
    'rmsprop': diagonal.rmsprop(1.0),
    'adam': diagonal.adam(1.0),
  }
)


@dataclasses.dataclass(frozen=True)
class Settings:
  """Arguments of ``levenberg_marquardt``."""

  damping: diagonal.ScalarOrSchedule
  learning_rate: diagonal.ScalarOrSchedule
  momentum: float | Array
  max_norm: float | Array | None
  adaptive: bool
  metric: str
  min_damping: float
  max_damping: float

  def __post_init__(self) -> None:
    """Raises ``OptionError`` for a value that has no meaning."""
    if not isinstance(self.adaptive, bool):
      raise _invalid('adaptive', self.adaptive, 'True or False')
    checks.check_option(
      'levenberg_marquardt: metric', self.metric, tuple(METRICS)
    )
    schedules = {'damping': not self.adaptive, 'learning_rate': True}
    for name, schedule in schedules.items():
      value: Any = getattr(self, name)
      if not (_is_positive(value) or (schedule and callable(value))):
        wanted = 'a positive number' + (' or a schedule' if schedule else '')
        if callable(value):
          wanted += ' to start from, since adaptive=True changes it'
        raise _invalid(name, value, wanted)
    if not isinstance(self.momentum, Array):
      checks.check_fraction('levenberg_marquardt: momentum', self.momentum)
    if self.max_norm is not None and not _is_positive(self.max_norm):
      raise _invalid('max_norm', self.max_norm, 'a positive number or None')
    for name in ('min_damping', 'max_damping'):
      if not _is_positive(getattr(self, name)):
        raise _invalid(name, getattr(self, name), 'a positive number')
    if self.min_damping > self.max_damping:
      wanted = f'at most max_damping, {self.max_damping!r}'
      raise _invalid('min_damping', self.min_damping, wanted)

  @property
  def has_momentum(self) -> bool:
    """Whether the last step is kept; a traced number may be any."""
    return isinstance(self.momentum, Array) or self.momentum > 0


def _is_positive(value: object) -> bool:
  # An array may be traced: a hyperparameter in a state.
  return isinstance(value, Array) or (checks.is_number(value) and value > 0)


def _invalid(name: str, got: object, expected: str) -> errors.OptionError:
  return errors.OptionError(
    f'Invalid levenberg_marquardt: {name}: got {got!r}, expected {expected}.',
    name,
  )
