"""Configs in JSON's own types, flat, and the first key in which two differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from configs import default

_ABSENT = 'absent'


def difference(held: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
  """Returns the first key in which two configs differ, with both values.

  Args:
    held: of a run that exists, from JSON.
    asked: of the command, made ``plain``.

  Returns:
    Such as ``config.seed 0 (asked for: 1)``; empty if they are equal.
  """
  ours = flat(asked)
  found = flat(held)
  theirs = {default.renamed(key): value for key, value in found.items()}
  theirs |= {key: value for key, value in found.items() if key in theirs}
  # An older program kept the sections of all studies.
  sections = {key.split('.')[1] for key in ours if key.count('.') > 1}
  for key in [*theirs]:
    if key.count('.') > 1 and key.split('.')[1] not in sections:
      del theirs[key]
  for key in sorted({*theirs, *ours}):
    if theirs.get(key, _ABSENT) != ours.get(key, _ABSENT):
      return (
        f'{key} {theirs.get(key, _ABSENT)!r} (asked for: '
        f'{ours.get(key, _ABSENT)!r})'
      )
  return ''


def flat(config: Mapping[str, Any], path: str = 'config') -> dict[str, Any]:
  """The values by path; a tuple is what JSON makes of it."""
  found: dict[str, Any] = {}
  for key, value in config.items():
    if isinstance(value, Mapping):
      found |= flat(value, f'{path}.{key}')
    else:
      found[f'{path}.{key}'] = value
  return found


def plain(value: Any) -> Any:
  """Returns the same in JSON's own types."""
  match value:
    case Mapping():
      return {str(key): plain(item) for key, item in value.items()}
    case list() | tuple():
      return [plain(item) for item in value]
    case float() if not math.isfinite(value):
      return None
    case _:
      return value
