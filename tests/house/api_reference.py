"""The reference of the public names, from their docstrings.

`python tests/house/api_reference.py` writes it into docs/api.md, between the
markers.
"""

from __future__ import annotations

import inspect
import pathlib
import re
import textwrap
import types
from collections.abc import Iterator
from typing import Any

import gtddp_jax as gt

PAGE = pathlib.Path(__file__).resolve().parents[2] / 'docs' / 'api.md'
BEGIN = '<!-- reference: written by tests/house/api_reference.py -->'
END = '<!-- end of the reference -->'

GROUPS = {
  'The network as a chain': ('trace', 'LayerGraph', 'Stage', 'module_of'),
  'The optimizer': ('gt_ddp', 'metrics', 'collections', 'GtDdpState',
    'verify_step'),
  'Base optimizers': ('sgd', 'rmsprop', 'adam', 'soap', 'kfac', 'ekfac',
    'levenberg_marquardt', 'Statistics', 'Base'),
  'Terminal value functions': ('sampled', 'truncated', 'subset',
    'TerminalValue', 'Expansion'),
  'Value recursions': ('Bellman', 'Coupled'),
  'Modules': ('losses', 'analysis', 'errors'),
}  # fmt: skip

# Of the graph, what a user calls.
_METHODS = ('__call__', 'run', 'summary', 'in_order', 'for_batch')
_SECTIONS = ('Args', 'Attributes', 'Returns', 'Raises')
_WIDTH = 80


def section() -> str:
  """The reference between its markers."""
  lines = [BEGIN, '']
  for title, names in GROUPS.items():
    lines += [f'## {title}', '']
    for name in names:
      lines += _entry(name, getattr(gt, name), '###')
  return '\n'.join([*lines, END])


def _entry(name: str, item: Any, heading: str) -> Iterator[str]:
  """Heading, signature and documentation of one name, and of what it has."""
  kind = 'module ' if isinstance(item, types.ModuleType) else ''
  yield from (f'{heading} {kind}`gt.{name}`', '')
  if _has_signature(item):
    yield from ('```python', _signature(f'gt.{name}', item), '```', '')
  yield from _documentation(item)
  for member, part in _members(item):
    yield from _entry(f'{name}.{member}', part, heading + '#')


def _has_signature(item: Any) -> bool:
  protocol = getattr(item, '_is_protocol', False)
  return callable(item) and not _is_error(item) and not protocol


def _is_error(item: Any) -> bool:
  return inspect.isclass(item) and issubclass(item, Exception)


def _members(item: Any) -> list[tuple[str, Any]]:
  """The parts of a module, or of the graph, that have an entry."""
  if item is gt.LayerGraph:
    return [(name, getattr(item, name)) for name in _METHODS]
  if not isinstance(item, types.ModuleType):
    return []
  own = [
    (name, part)
    for name, part in vars(item).items()
    if not name.startswith('_')
    and getattr(part, '__module__', None) == item.__name__
  ]
  return [(n, p) for n, p in own if item is not gt.errors or _is_error(p)]


def _signature(name: str, item: Any) -> str:
  """The call; an argument a line if there is no room."""
  signature = inspect.signature(item)
  parts: list[str] = []
  keyword_only = False
  for p in signature.parameters.values():
    if p.name == 'self':
      continue
    if p.kind is p.KEYWORD_ONLY and not keyword_only:
      keyword_only = True
      parts.append('*')
    keyword_only |= p.kind is p.VAR_POSITIONAL
    stars = {p.VAR_POSITIONAL: '*', p.VAR_KEYWORD: '**'}.get(p.kind, '')
    parts.append(stars + p.name + _type(p.annotation, ': ') + _default(p))
  result = _type(signature.return_annotation, ' -> ')
  result = '' if inspect.isclass(item) else result
  whole = f'{name}({", ".join(parts)}){result}'
  if len(whole) <= _WIDTH:
    return whole
  lines = [f'{name}(', *(f'  {part},' for part in parts), f'){result}']
  return '\n'.join(lines)


def _type(annotation: Any, before: str) -> str:
  """An annotation, without the modules of the library."""
  if annotation is inspect.Parameter.empty or annotation is None:
    return ''
  text = getattr(annotation, '__forward_arg__', annotation)
  if not isinstance(text, str):
    text = getattr(text, '__name__', str(text))
  return before + re.sub(r'\b(?!optax|jax)[a-z_]+\.(?=[A-Z])', '', text)


def _default(parameter: inspect.Parameter) -> str:
  value = parameter.default
  if value is parameter.empty:
    return ''
  if isinstance(value, gt.Statistics):
    return ' = Statistics()'
  if isinstance(value, types.MappingProxyType):
    return f' = {dict(value)}'
  plain = isinstance(value, bool | int | float | str | None)
  return f' = {value!r}' if plain else f' = {getattr(value, "__name__", "...")}'


def _documentation(item: Any) -> Iterator[str]:
  """A docstring as Markdown."""
  text = inspect.cleandoc(item.__doc__ or '').replace('``', '`')
  block: list[str] = []
  head = ''
  for line in [*text.splitlines(), 'Args:']:
    if line.rstrip(':') in _SECTIONS and line.endswith(':'):
      yield from _items(head, block) if head else _paragraphs(block)
      head, block = line, []
    else:
      block.append(line)


def _paragraphs(lines: list[str]) -> Iterator[str]:
  """Text; what is indented after `::` is a block of it."""
  text = '\n'.join(lines).strip()
  pieces = re.split(r'::\n\n((?:  .*\n?|\n)+)', text)
  for place, piece in enumerate(pieces):
    if place % 2:
      yield from ('```text', textwrap.dedent(piece).strip(), '```', '')
    elif piece.strip():
      more = place + 1 < len(pieces)
      more &= not piece.endswith('\n')  # a `::` on a line of its own
      yield from (piece.strip() + ':' * more, '')


def _items(head: str, lines: list[str]) -> Iterator[str]:
  """A section: a list of names, or text."""
  yield from (f'**{head}**', '')
  for line in lines:
    name, colon, text = line.strip().partition(': ')
    named = re.fullmatch(r'\*{0,2}\w+', name) and head != 'Returns:'
    if named and colon and not line.startswith('    '):
      yield f'- `{name}`: {text}'
    elif line:
      yield line[2:] if head == 'Returns:' else line.strip().join(['  ', ''])
  yield ''


if __name__ == '__main__':
  page = PAGE.read_text()
  before, _, rest = page.partition(BEGIN)
  _, _, after = rest.partition(END)
  PAGE.write_text(before + section() + after)
