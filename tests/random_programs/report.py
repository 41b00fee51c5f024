"""The report of many programs: `python report.py FILE ...` joins several.

A file holds one line for each program, as JSON: its number and its outcome.
"""

from __future__ import annotations

import collections
import json
import pathlib
import sys
from collections.abc import Iterable
from typing import Any

KINDS = 'equal', 'refused', 'wrong', 'crash', 'unclear'
MOST_REFUSED = 0.05
MOST_UNCLEAR = 0.02


def line(number: int, outcome: Any) -> str:
  """One program for a file."""
  return json.dumps({'number': number, **outcome._asdict()})


def read(lines: Iterable[str]) -> list[dict[str, Any]]:
  """The programs of some lines, each once."""
  found = map(json.loads, lines)
  return list({record['number']: record for record in found}.values())


def too_many(records: list[dict[str, Any]], slack: int = 0) -> list[str]:
  """What is not as it should be, in words."""
  counts = collections.Counter(record['kind'] for record in records)
  total = len(records)
  found = [f'{counts[kind]} {kind}' for kind in ('wrong', 'crash')]
  found = [text for text in found if not text.startswith('0 ')]
  for kind, most in ('refused', MOST_REFUSED), ('unclear', MOST_UNCLEAR):
    if counts[kind] > most * total + slack:
      found.append(f'{counts[kind]} {kind} of {total}')
  return found


def table(records: list[dict[str, Any]]) -> str:
  """Outcomes by primitive, then those of all programs and why."""
  counts: dict[str, collections.Counter[str]] = {}
  for record in records:
    for name in (*record['primitives'], '(programs)'):
      counts.setdefault(name, collections.Counter())[record['kind']] += 1
  width = max(map(len, counts), default=0)
  lines = [' '.join(['primitive'.ljust(width), *(k.rjust(7) for k in KINDS)])]
  for name in sorted(counts):
    cells = (str(counts[name][kind]).rjust(7) for kind in KINDS)
    lines.append(' '.join([name.ljust(width), *cells]))
  cases = sum(record['cases'] for record in records)
  part = sum(record['refused_in_part'] > 0 for record in records)
  lines.append(
    f'{cases} steps compared; {part} programs whose samples meet are refused '
    f'by some recursions and agree for the others'
  )
  for record in records:
    if record['kind'] != 'equal':
      why = ' '.join(record['why'].split())
      lines.append(f'{record["number"]}: {record["kind"]}: {why[:160]}')
  return '\n'.join(lines)


if __name__ == '__main__':
  texts = [pathlib.Path(name).read_text() for name in sys.argv[1:]]
  programs = read(line for text in texts for line in text.splitlines())
  print(table(programs))
  bad = too_many(programs)
  print('; '.join(bad) or 'as it should be')
  sys.exit(bool(bad))
