"""What frames a report: what came out in short, and how numbers came to be.

A report is read on other machines, so it names no folder of this one: what lies
outside the working directory is called FOLDER or FILE.
"""

from __future__ import annotations

import collections
import os
import pathlib
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from configs import default, schema
from experiments.report import tables
from experiments.runs import comparison

_TITLE = re.compile(r'# .*\n\n')
_SHORT = re.compile(r'^## In short\n\n((?:- .*\n)+)\n', re.MULTILINE)
_FOLDERS = ('data_dir', 'start_from', 'anatomy.run')
_PLACE = re.compile(r'(?<![^=:])(?:/|~|\.\.)[^:]*')
_DATA_DIR = re.compile(r'(.*data_dir)=.*')


def with_short(text: str, sentences: Sequence[str]) -> str:
  """Returns a report that says first, under its title, what came out.

  In sentences without line breaks; if there are none, nothing is added.
  """
  if not sentences:
    return text
  title = _TITLE.match(text)
  end = title.end() if title else 0
  lines = ''.join(f'- {sentence}\n' for sentence in sentences)
  return f'{text[:end]}## In short\n\n{lines}\n{text[end:]}'


def parted(text: str) -> tuple[list[str], str]:
  """Returns the sentences of ``with_short``, and the report without them."""
  match = _SHORT.search(text)
  if match is None:
    return [], text
  sentences = [line.removeprefix('- ') for line in match[1].splitlines()]
  return sentences, text[: match.start()] + text[match.end() :]


def section(
  command: str | None,
  seeds: Sequence[int],
  held: Mapping[str, Any],
  config: Mapping[str, Any],
  sections: Mapping[str, schema.Section] | None = None,
) -> str:
  """Returns the section: command, seeds, device, versions, configuration.

  Args:
    command: as typed; None where a study was called from Python.
    seeds: of the runs; empty where nothing is random.
    held: what ``versions.versions`` returned.
    config: in JSON's types; only what is not the default is shown.
    sections: of the config that the command brings, by their names.
  """
  lines = ['## How', '']
  if command is not None:
    lines += ['```sh', shareable(command), '```', '']
  if seeds:
    lines.append(f'- seeds: {", ".join(map(str, seeds))}')
  lines += [f'- device: {device(held)}', f'- versions: {versions(held)}', '']
  if columns := _changes(config, sections or {}):
    caption = 'The configuration, where it is not that of configs/default.py.'
    lines.append(tables.markdown(columns, caption))
  return '\n'.join(lines)


def _changes(
  config: Mapping[str, Any], sections: Mapping[str, schema.Section]
) -> list[tables.Column]:
  ours = comparison.flat(config)
  known = default.get_config(**sections).to_dict()
  usual = comparison.flat(comparison.plain(known))
  keys = [key for key in ours if ours[key] != usual.get(key)]
  if not keys:
    return []

  def value(key: str) -> str:
    return 'FOLDER' if key.endswith(_FOLDERS) else str(ours[key])

  return tables.columns(
    keys,
    ('key', '', str),
    ('value', '', value),
    ('default', '', lambda key: str(usual.get(key))),
  )


def device(held: Mapping[str, Any]) -> str:
  """Returns on what it ran, such as ``2 CPU cores``."""
  if held['backend'] == 'cpu':
    return f'{held["cpus"]} CPU core{"s" if held["cpus"] != 1 else ""}'
  counts = collections.Counter(held['devices'])
  return ', '.join(f'{count} × {kind}' for kind, count in counts.items())


def versions(held: Mapping[str, Any]) -> str:
  """Returns Python, packages and commit in one line."""
  packages = [f'{n} {v}' for n, v in held['packages'].items() if v]
  found = [f'Python {held["python"]}', *packages]
  if held['git_commit'] is not None:
    changed = len(held['git_changed_files'])
    plural = 's' if changed > 1 else ''
    note = f' and changes in {changed} file{plural}' if changed else ''
    found.append(f'commit {held["git_commit"][:12]}{note}')
  return ', '.join(found)


def shareable(command: str) -> str:
  """Returns a command without the folders of this machine."""
  words = [_without_place(word) for word in shlex.split(command)]
  return shlex.join(words)


def _without_place(word: str) -> str:
  if match := _DATA_DIR.fullmatch(word):
    return f'{match[1]}=FOLDER'
  return _PLACE.sub(lambda found: _place(found[0]), word)


def _place(path: str) -> str:
  """A path from the working directory, if it lies within."""
  here = pathlib.Path(os.path.abspath(path))
  if here.is_relative_to(pathlib.Path.cwd()):
    return str(here.relative_to(pathlib.Path.cwd()))
  return f'FILE{here.suffix}' if here.suffix else 'FOLDER'
