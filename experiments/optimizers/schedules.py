"""Learning rates over the updates of a run; optax's schedules."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

import optax

from configs.schema import Config

Build = Callable[[Config, float, int], Any]


def _cosine(section: Config, rate: float, updates: int) -> Any:
  return optax.cosine_decay_schedule(rate, updates, section.final)


def _warmup_cosine(section: Config, rate: float, updates: int) -> Any:
  return optax.warmup_cosine_decay_schedule(
    init_value=0.0,
    peak_value=rate,
    warmup_steps=min(round(section.warmup * updates), updates - 1),
    decay_steps=updates,
    end_value=section.final * rate,
  )


def _piecewise(section: Config, rate: float, updates: int) -> Any:
  places = collections.Counter(
    round(share * updates) for share in section.boundaries
  )
  return optax.piecewise_constant_schedule(
    rate, {place: section.factor**n for place, n in places.items()}
  )


SCHEDULES: dict[str, Build] = {
  'constant': lambda section, rate, updates: rate,
  'cosine': _cosine,
  'warmup_cosine': _warmup_cosine,
  'piecewise': _piecewise,
}


def build(section: Config, rate: float, updates: int) -> Any:
  """Returns a rate, or a function from the number of the update to one.

  Args:
    section: ``optimizer.schedule`` of a config.
    rate: the learning rate that the schedule scales.
    updates: how many the run has.
  """
  return SCHEDULES[section.name](section, rate, updates)
