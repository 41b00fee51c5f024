"""The axes of a sweep: what is tried, and what it is called."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np

from configs.schema import Config
from experiments import refusals

KINDS = ('log', 'linear', 'integer')

Values = dict[str, Any]


class Axis(NamedTuple):
  """Keys of a config that change together, and their values."""

  keys: tuple[str, ...]  # paths, such as ``optimizer.name``.
  # one tuple for each point of the axis, with a value for each key
  values: tuple[tuple[Any, ...], ...]


def combinations(sweep: Config) -> Iterator[Values]:
  """Yields the values of the keys of every setting: the grid, times the draws.

  Raises ConfigError if an axis cannot be used.
  """
  axes = [*map(_grid_axis, sweep.grid)]
  drawn = [*map(_random_axis, sweep.random)]
  keys = [key for axis in axes for key in axis.keys]
  keys += [key for key, *_ in drawn] + ['seed']
  for key in keys:
    if keys.count(key) > 1:
      where = 'seeds' if key == 'seed' else 'grid'
      _refuse(where, 'each key on one axis', repr(key), 'remove it from others')
  if bool(drawn) != bool(sweep.draws):
    _refuse(
      'draws',
      'a number from 1 with random axes, and 0 without',
      sweep.draws,
      'change it, or sweep.random',
    )
  draws = [_draw(drawn, sweep.draw_seed, i) for i in range(sweep.draws)]
  for points in itertools.product(*(axis.values for axis in axes)):
    fixed: Values = {}
    for axis, values in zip(axes, points, strict=True):
      fixed |= zip(axis.keys, values, strict=True)
    for draw in draws or [{}]:
      yield fixed | draw


def names(keys: Sequence[str]) -> dict[str, str]:
  """Returns the shortest ends of paths that differ, such as ``base.name``."""
  found = {}
  for key in keys:
    parts = key.split('.')
    for count in range(1, len(parts) + 1):
      found[key] = '.'.join(parts[-count:])
      same = [k for k in keys if f'.{k}'.endswith(f'.{found[key]}')]
      if len(same) == 1:
        break
  return found


def _grid_axis(entry: Any) -> Axis:
  match entry:
    case (str(key), (_, *_) as values):
      axis = Axis((key,), tuple((value,) for value in values))
    case ((str(), *_) as keys, ((_, *_), *_) as values) if all(
      isinstance(value, tuple) and len(value) == len(keys) for value in values
    ):
      axis = Axis(tuple(keys), tuple(values))
    case _:
      _refuse(
        'grid',
        'axes (key, (value, ...)), or of several keys ((key, key), ((value, '
        'value), ...))',
        repr(entry),
        'write it so; a tuple of one item ends with a comma',
      )
  for place, value in enumerate(axis.values):
    if value in axis.values[:place]:
      _refuse('grid', 'no value twice', repr(entry), 'remove one')
  return axis


def _random_axis(entry: Any) -> tuple[str, str, float, float]:
  match entry:
    case (str(key), str(kind), float() | int() as low, float() | int() as high):
      pass
    case _:
      _refuse(
        'random', 'axes (key, kind, low, high)', repr(entry), 'write it so'
      )
  positive = low > 0 or kind != 'log'
  whole = kind != 'integer' or (isinstance(low, int) and isinstance(high, int))
  fine = kind in KINDS and positive and whole and low < high < math.inf
  if not fine or not math.isfinite(low):
    _refuse(
      'random',
      f'a kind of {", ".join(KINDS)} with finite low < high (log: above 0; '
      f'integer: whole)',
      repr(entry),
      'change it',
    )
  return key, kind, low, high


def _draw(
  axes: Sequence[tuple[str, str, float, float]], seed: int, number: int
) -> Values:
  """Draw ``number``, whichever others there are; four digits are enough."""
  values: Values = {}
  for place, (key, kind, low, high) in enumerate(axes):
    generator = np.random.default_rng((seed, number, place))
    match kind:
      case 'integer':
        values[key] = int(generator.integers(int(low), int(high) + 1))
      case 'linear':
        values[key] = float(f'{generator.uniform(low, high):.4g}')
      case _:
        power = generator.uniform(math.log(low), math.log(high))
        values[key] = float(f'{math.exp(power):.4g}')
  return values


def _refuse(key: str, expected: str, got: object, remedy: str) -> NoReturn:
  raise refusals.ConfigError(f'sweep.{key}', expected, got, remedy)
