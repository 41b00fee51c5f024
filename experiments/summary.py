"""results.md: one run on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from experiments import loop, report


def text(
  config: ml_collections.ConfigDict,
  result: Mapping[str, Any],
  rows: Sequence[loop.Row],
) -> str:
  """Returns the report of a run that has finished.

  Args:
    config: of the run.
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
    ]
  )
