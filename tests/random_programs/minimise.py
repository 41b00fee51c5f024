"""Makes a failing program small: `python minimise.py NUMBER`.

Leaves out operations and takes smaller numbers for as long as the outcome keeps
its kind (and, of an error, its words but for numbers and names).
"""

from __future__ import annotations

import pathlib
import re
import sys
from collections.abc import Callable, Iterator

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))
sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / 'oracle'))
sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / 'networks'))
import conftest  # noqa: F401 (float64, and a compiler in a hurry)
import jax
from cases import Case, all_cases
from outcomes import Outcome, examine
from programs import Op, Program, assembled, numbered


def smaller(program: Program) -> Iterator[Program]:
  """Programs with one thing less, the greatest step first."""
  ops = program.ops
  for length in (4, 2, 1):
    for i in range(len(ops) - length + 1):
      yield program._replace(ops=ops[:i] + ops[i + length :])
  if program.batch > 2:
    yield program._replace(batch=2)
    yield program._replace(batch=program.batch - 1)
  for name in ('inputs', 'head'):
    for op in simpler(getattr(program, name)):
      yield program._replace(**{name: op})
  for i, op in enumerate(ops):
    for other in simpler(op):
      yield program._replace(ops=(*ops[:i], other, *ops[i + 1 :]))
  if program.seed:
    yield program._replace(seed=0)


def simpler(op: Op) -> Iterator[Op]:
  """With zeros in place of its numbers."""
  if any(op.picks):
    yield op._replace(picks=(0,) * len(op.picks))
  for i, pick in enumerate(op.picks):
    if pick:
      yield op._replace(picks=(*op.picks[:i], 0, *op.picks[i + 1 :]))


def minimised(
  program: Program, fails: Callable[[Program], bool], tries: int = 150
) -> Program:
  """A program that still fails, and none of those that are smaller does."""
  seen = {str(assembled(program))}
  again = True
  while again:
    again = False
    for candidate in smaller(program):
      text = str(assembled(candidate))
      if text in seen or not tries:
        # The same network by smaller numbers is as good.
        if text == str(assembled(program)) and tries:
          program = candidate
        continue
      seen.add(text)
      tries -= 1
      if fails(candidate):
        program, again = candidate, True
        break
  return program


def signature(outcome: Outcome) -> str:
  """What two outcomes of one cause have in common."""
  words = re.sub(r"'[^']*'|\[[^]]*\]|[-+\d.e]+", '_', outcome.why)
  return f'{outcome.kind}: {"" if outcome.kind == "wrong" else words[:80]}'


def minimised_number(number: int) -> tuple[Program, Outcome]:
  """The smallest program that fails as this one does."""
  program = numbered(number)
  outcome = examine(program, all_cases(number))
  if outcome.kind == 'equal':
    return program, outcome
  cases = all_cases(number)
  found = outcome.why.split(':')[0].split(' ')
  if outcome.kind == 'wrong' and len(found) == 4:
    case = Case(*found)
    cases = list(dict.fromkeys([case._replace(how='oracle'), case]))
  wanted = signature(outcome)
  small = minimised(program, lambda p: signature(examine(p, cases)) == wanted)
  return small, examine(small, cases)


if __name__ == '__main__':
  for argument in sys.argv[1:]:
    made, end = minimised_number(int(argument))
    print(f'program {argument}\n{assembled(made)}\n{end.kind}: {end.why}\n')
    jax.clear_caches()
