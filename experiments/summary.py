"""results.md: one run on one page."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from configs import default
from experiments import cli, folders, loop, report, runs


def text(
  config: ml_collections.ConfigDict,
  folder: runs.RunFolder,
  result: Mapping[str, Any],
  rows: Sequence[loop.Row],
) -> str:
  """Returns the report of a run that has finished.

  Args:
    config: of the run.
    folder: of the run; has its versions and its curves.
    result: what result.json holds.
    rows: logged.
  """
  best = loop.best(rows)
  chosen = [('last', rows[-1]), *([('best', best)] if best else [])]
  columns = [
    report.Column('checkpoint', '', [name for name, _ in chosen]),
    *(
      report.Column(head, unit, [form.format(row[key]) for _, row in chosen])
      for head, unit, key, form in (
        ('step', '', 'step', '{}'),
        ('epoch', '', 'epoch', '{:.2f}'),
        ('train loss', 'nats', 'train_loss', '{:.4g}'),
        ('test loss', 'nats', 'test_loss', '{:.4g}'),
        ('test accuracy', '0 to 1', 'test_accuracy', '{:.4f}'),
      )
    ),
  ]
  caption = (
    'The best checkpoint was chosen by its test accuracy, which is therefore '
    'an optimistic estimate; the last was not.'
  )
  seconds = report.number(result.get('seconds_per_step'), '.3g')
  return '\n'.join(
    [
      f'# {result["optimizer"]} on {config.dataset.name}',
      '',
      report.markdown(columns, caption),
      f'A step took {seconds} s (median, without evaluation).',
      '',
      '![Loss and error against epochs](curves.png)',
      '',
      appendix(config, folder),
    ]
  )


def ending(
  name: str, config: ml_collections.ConfigDict, folder: runs.RunFolder
) -> str:
  """Returns the end of a study's report: its command and its ``appendix``.

  Args:
    name: of the entry point.
    config: of the study.
    folder: of the study.
  """
  command = cli.command(name, sys.argv[1:], folder.path)
  return '\n'.join(
    [
      '## The command',
      '',
      f'```sh\n{command}\n```',
      '',
      appendix(config, folder),
    ]
  )


def appendix(config: ml_collections.ConfigDict, folder: runs.RunFolder) -> str:
  """Returns on what a report rests: its configuration and its versions."""
  text = folder.file('versions.json').read_text(encoding='utf-8')
  return '\n'.join(
    [
      '## Configuration, where it is not the default',
      '',
      report.markdown(_changes(config), 'Every key is in config.json.'),
      '## Versions',
      '',
      report.markdown(_versions(json.loads(text)), 'More is in versions.json.'),
    ]
  )


def _changes(config: ml_collections.ConfigDict) -> list[report.Column]:
  """The keys that differ from those of configs/default.py."""
  ours, usual = (
    folders.flat(folders.plain(c.to_dict()))
    for c in (config, default.get_config())
  )
  keys = [key for key in ours if ours[key] != usual.get(key)]
  return [
    report.Column('key', '', keys),
    report.Column('value', '', [str(ours[key]) for key in keys]),
    report.Column('default', '', [str(usual.get(key)) for key in keys]),
  ]


def _versions(held: Mapping[str, Any]) -> list[report.Column]:
  found = {
    'python': held['python'],
    **{name: version for name, version in held['packages'].items() if version},
    'platform': held['platform'],
    'devices': ', '.join(held['devices']),
    'git commit': held['git_commit'],
  }
  return [
    report.Column('of', '', list(found)),
    report.Column('version', '', list(map(str, found.values()))),
  ]
