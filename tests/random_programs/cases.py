"""Which steps of a program are compared, and with what."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import oracle
from reference import TERMINALS

import gtddp_jax as gt

VALUES = 'frozen', 'bellman', 'coupled'

BASES: dict[str, tuple[Any, Any]] = {
  'sgd': (gt.sgd, oracle.sgd),
  'adam': (
    lambda rate: gt.adam(rate, eps=0.3),
    lambda rate: oracle.adam(rate, eps=0.3),
  ),
  'rmsprop': (
    lambda rate: gt.rmsprop(rate, eps=0.1),
    lambda rate: oracle.rmsprop(rate, eps=0.1),
  ),
}


class Case(NamedTuple):
  """One step that is compared.

  Attributes:
    value: the recursion.
    terminal: the expansion of the loss.
    base: a name in `BASES`.
    how: 'oracle', also with so little memory that it works in 'blocks';
      'bounded' or 'open', which must be the base's own step;
      'permuted', 'doubled', which must change nothing; 'halved', which must
      equal the oracle.
  """

  value: str
  terminal: str
  base: str = 'sgd'
  how: str = 'oracle'


def all_cases(number: int) -> list[Case]:
  """Every recursion and expansion, and the rest in turn: the long run."""
  pairs = list(itertools.product(VALUES, TERMINALS))
  one, two = pairs[number % 6], pairs[(number // 6 + 3 * number) % 6]
  terminal = TERMINALS[number // 2 % 2]
  resized = [
    Case(*two, how='halved'),
    Case(('frozen', 'coupled')[number // 4 % 2], terminal, how='doubled'),
  ]
  return [
    *(Case(*pair) for pair in pairs),
    Case(*one, ('adam', 'rmsprop')[number // 6 % 2]),
    Case(('frozen', 'bellman')[number % 2], terminal, how='bounded'),
    [Case(*two, how='open'), Case(*_with_memory(two), how='blocks')][
      number % 2
    ],
    *(Case(*pair, how='permuted') for pair in pairs),
    resized[number % 2],
  ]


def _with_memory(pair: tuple[str, str]) -> tuple[str, str]:
  """A recursion whose memory can be bounded."""
  value, terminal = pair
  return ('bellman' if value == 'frozen' else value), terminal


def few_cases(number: int) -> list[Case]:
  """A selection that goes round with the number."""
  pairs = list(itertools.product(VALUES, TERMINALS))
  first, second = pairs[number % 6], pairs[(number // 6 + number + 3) % 6]
  terminal = TERMINALS[number // 6 % 2]
  more: list[list[Case]] = [
    [Case(*second)],
    [Case('frozen', terminal, how='bounded')],
    [Case(*first, how='permuted')],
    [Case('bellman', terminal, how='bounded')],
    [Case(*first, ('adam', 'rmsprop')[number // 6 % 2])],
    [Case(*first, how='halved')],
    [Case(*_with_memory(second), how='blocks')],
    [Case(('frozen', 'coupled')[number // 8 % 2], terminal, how='doubled')],
  ]
  extra = more[number // 2 % len(more)] if number % 2 else []
  return list(dict.fromkeys([Case(*first), *extra]))
