"""The parts of `experiments.reproduce` as commands, records and one page."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from configs import reproduce as plans
from experiments import refusals
from experiments.data import catalog
from experiments.runs import provenance

MARK = '<!-- written by experiments.reproduce; changes are lost -->'
_WORDS = (
  '*Significantly* lower or higher: the 95 % interval of the difference by '
  'seed leaves out zero. *Tuned*: each method at the best of as '
  'many rates; *equal*: at those of the base.'
)
DONE, FAILED, UNPREPARED, LEFT = 'done', 'failed', 'not run', 'not yet run'
_HOW = '\n## How\n'
_IMAGE = re.compile(r'!\[[^\]]*\]\((?P<file>[^)]+)\)')
# A path from the root of a file system, but for those that any machine has.
_MACHINE_PATH = re.compile(
  r"""(?:^|(?<=[\s'"`(=:]))/(?!(?:bin|dev|etc|usr)/)[A-Za-z0-9._-]+/[\w.-]"""
)


class Entry(NamedTuple):
  """What the page says of a part."""

  part: plans.Part  # of the plan
  status: str  # DONE, FAILED, UNPREPARED or LEFT
  note: str  # why it is not done
  command: Sequence[str]  # its words
  text: str = ''  # its results.md.
  seconds: float = 0.0  # that it took, in all sessions
  # of its run, see ``versions.versions``.
  versions: Mapping[str, Any] | None = None


def chosen(budget: str, only: Sequence[str]) -> Sequence[plans.Part]:
  """Returns the parts that are asked for and what they read, in their order.

  All if none is named. Raises ConfigError if the budget has no part of a name.
  """
  parts = plans.get_plan(budget)
  known = [part.name for part in parts]
  elsewhere = {part.name: [*part.budgets] for part in plans.PARTS}
  for name in only:
    if name in known:
      continue
    remedy = 'correct the name'
    if name in elsewhere:
      remedy = f'add --budget={" or --budget=".join(elsewhere[name])}'
    raise refusals.ConfigError(
      '--only',
      f'some of {", ".join(known)} (budget {budget})',
      repr(name),
      remedy,
    )
  read = {part.source for part in parts if part.name in only}
  return [p for p in parts if not only or p.name in only or p.name in read]


def command(part: plans.Part, budget: str, workdir: str) -> list[str]:
  """Returns the words of a part's command, from ``-m`` on."""
  source = [f'--run={workdir}/{part.source}'] if part.source else []
  return [
    '-m',
    part.module,
    *source,
    *part.arguments,
    *part.budgets[budget].arguments,
    f'--workdir={workdir}/{part.name}',
  ]


def digest(part: plans.Part, budget: str) -> str:
  """Returns what changes with the part's command, or its source's.

  It does not depend on where the folders lie.
  """
  sources = [one for one in plans.PARTS if one.name == part.source]
  words = [
    *command(part, budget, ''),
    *(digest(one, budget) for one in sources),
  ]
  return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]


def how_to_prepare(dataset: str) -> str:
  """Returns why a part without its data is not run, for every machine."""
  return (
    f'needs prepared {dataset}: put {catalog.files(dataset)} in a folder, and '
    f'run `python -m experiments.prepare --dataset={dataset} '
    f'--manual_dir=FOLDER --data_dir=SETS`, then give --data_dir=SETS here'
  )


def reason(code: int, said: str, missing: Sequence[str]) -> str:
  """Returns why a part failed, without folders of this machine.

  Args:
    code: of its exit.
    said: the last line that it printed.
    missing: figures that it should have made.
  """
  if not code:
    return f'it made no {", ".join(missing)}'
  shown = re.sub(rf'{_MACHINE_PATH.pattern}[^\s\'"`),:;]*', 'FOLDER', said)
  return f'exit code {code}: {shown.rstrip(".") or "nothing was printed"}'


def page(entries: Sequence[Entry], budget: str, hidden: Sequence[str]) -> str:
  """Returns the page of all parts; its figures lie beside it, see ``picture``.

  Args:
    entries: one per part, in the plan's order.
    budget: of the plan.
    hidden: paths of this machine, which are called FOLDER.

  Raises:
    ConfigError: if a path of this machine would stand in it.
  """
  sections = [_section(entry, budget) for entry in entries]
  text = '\n'.join([_head(entries, budget), *sections])
  for path in sorted({*hidden}, key=len, reverse=True):
    text = re.sub(rf'{re.escape(path)}(?=[/\s\'"`|),;:]|$)', 'FOLDER', text)
  for number, line in enumerate(text.splitlines(), 1):
    if _MACHINE_PATH.search(line):
      raise refusals.ConfigError(
        '--report',
        'no folder of this machine in its text',
        f'line {number}: {line.strip()}',
        'remove it from what the part writes',
      )
  return text


def picture(part: plans.Part, figure: str) -> str:
  """Returns the name of a part's figure beside the page."""
  return f'{part.name}-{figure}'


def _head(entries: Sequence[Entry], budget: str) -> str:
  done = [entry for entry in entries if entry.status == DONE]
  devices = dict.fromkeys(_device(entry) for entry in done)
  minutes = sum(entry.seconds for entry in done) / 60
  planned = sum(e.part.budgets[budget].minutes for e in entries)
  where = f' on {" and ".join(devices)}' if devices else ''
  given = '' if budget == plans.DEFAULT else f' --budget={budget}'
  lines = [
    MARK,
    '# Results',
    '',
    '## In short',
    '',
    *_short(entries, budget),
    '',
    '## What was run',
    '',
    f'Budget `{budget}` ({plans.BUDGETS[budget]}): {len(done)} of '
    f'{len(entries)} parts in {minutes:.0f} minutes{where}; about '
    f'{planned:.0f} minutes for all. Made by',
    '',
    '```sh',
    f'./scripts/reproduce --budget={budget}',
    '```',
    '',
    'Each section ends with its command, and with what it ran on; '
    f'`./scripts/reproduce{given} --only=PART` makes it, after what it reads, '
    f'with a report of its own. Data sets other than DIGITS are found by '
    f'`--data_dir=FOLDER` or the environment variable `TFDS_DATA_DIR`.',
    '',
    '| section | of the paper | part | | minutes |',
    '| :-- | :-- | :-- | :-- | --: |',
  ]
  for entry in entries:
    took = f'{entry.seconds / 60:.1f}' if entry.status == DONE else '-'
    part = entry.part
    # Of what in the paper a part is stands before the colon, if anything is.
    shown, colon, _ = part.shows.partition(':')
    lines.append(
      f'| {_link(part)} | {shown if colon else ""} | `{part.name}` | '
      f'{entry.status} | {took} |'
    )
  return '\n'.join([*lines, ''])


def _short(entries: Sequence[Entry], budget: str) -> list[str]:
  """What the parts say of themselves, and what was not run."""
  lines = []
  for entry in entries:
    sentences, _ = provenance.parted(entry.text)
    if entry.status == DONE and sentences:
      lines += [
        f'- {_link(entry.part)}',
        *(f'  - {sentence}' for sentence in sentences),
      ]
  missing = [
    f'{entry.part.title} ({entry.status})'
    for entry in entries
    if entry.status != DONE
  ]
  missing += [
    f'{part.title} (budget {" or ".join(f"`{b}`" for b in part.budgets)})'
    for part in plans.PARTS
    if budget not in part.budgets
  ]
  if missing:
    lines.append(f'- Not run here: {", ".join(missing)}.')
  return [_WORDS, '', *lines] if lines else ['No part says anything of itself.']


def _link(part: plans.Part) -> str:
  # What GitHub makes of a heading.
  anchor = re.sub(r'[^\w\- ]', '', part.title.lower()).replace(' ', '-')
  return f'[{part.title}](#{anchor})'


def _section(entry: Entry, budget: str) -> str:
  part = entry.part
  lines = [f'## {part.title}', '', part.shows, '']
  if entry.status != DONE:
    return '\n'.join([*lines, f'**{entry.status}**: {entry.note}.', ''])
  found, _, made = provenance.parted(entry.text)[1].partition(_HOW)
  if not made:
    own = shlex.join(['python', *entry.command])
    made = provenance.section(own, (), _held(entry), {}).partition('## How\n')[
      2
    ]
  inline = {match['file'] for match in _IMAGE.finditer(found)}
  if body := _embedded(found, entry, budget):
    lines += [body, '']
  for figure in part.figures:
    if figure not in inline:
      lines += [_figure(figure, entry, budget), '']
  time = f'- wall time: {entry.seconds / 60:.1f} minutes\n- device:'
  made = made.replace('- device:', time, 1).rstrip()
  return '\n'.join([*lines, '### How', made, ''])


def _embedded(text: str, entry: Entry, budget: str) -> str:
  """A page of a study within this one: deeper heads, figures by their names."""

  def image(match: re.Match[str]) -> str:
    if match['file'] not in entry.part.figures:
      return ''
    return _figure(match['file'], entry, budget)

  deeper = re.sub(r'^(#{1,4}) ', r'##\1 ', text, flags=re.MULTILINE)
  return re.sub(r'\n{3,}', '\n\n', _IMAGE.sub(image, deeper)).strip()


def _figure(name: str, entry: Entry, budget: str) -> str:
  """A figure, what it shows and what it was run on."""
  caption = entry.part.figures[name]
  shown = f'![{caption}]({picture(entry.part, name)})'
  return f'{shown}\n\n*{caption}. {_device(entry)}, budget `{budget}`.*'


def _held(entry: Entry) -> Mapping[str, Any]:
  if entry.versions is None:
    raise ValueError(f'{entry.part.name}: a part that is done has versions.')
  return entry.versions


def _device(entry: Entry) -> str:
  return provenance.device(_held(entry))
