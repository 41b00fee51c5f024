"""results.md: one run on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scipy import stats

from configs.schema import Config
from experiments.data import catalog
from experiments.report import tables
from experiments.training import loop

# What GT-DDP should reach, of the whole test split (0 to 1).
GOALS = {'digits': 0.985, 'mnist': 0.993, 'fashion_mnist': 0.925}


def short(
  config: Config,
  result: Mapping[str, Any],
  rows: Sequence[loop.Row],
) -> list[str]:
  """Returns what was reached, and the goal of GT-DDP where there is one."""
  accuracy, best = rows[-1]['test_accuracy'], loop.best(rows)
  said = (
    f'{result["optimizer"]} has {100 * accuracy:.2f} % of the test samples '
    f'right after {config.epochs} epochs'
  )
  if best:
    said += f' (at the best checkpoint {100 * best["test_accuracy"]:.2f} %)'
  goal = GOALS.get(config.dataset.name)
  whole = config.dataset.test_samples is None
  if goal and whole and config.optimizer.name == 'gt_ddp':
    word = 'reached' if accuracy >= goal else 'missed'
    samples = catalog.SPECS[config.dataset.name].test
    right = stats.binomtest(round(accuracy * samples), samples)
    low, high = right.proportion_ci(method='wilson')
    said += (
      f'; the goal of {100 * goal:g} % is {word}, by one run, whose test '
      f'samples alone leave {100 * low:.1f} to {100 * high:.1f} %'
    )
  return [f'{said}.']


def text(
  config: Config,
  result: Mapping[str, Any],
  rows: Sequence[loop.Row],
) -> str:
  """Returns the report of a run that has finished."""
  best = loop.best(rows)
  chosen = [('last', rows[-1]), *([('best', best)] if best else [])]
  columns = [
    tables.Column('checkpoint', '', [name for name, _ in chosen]),
    *(
      tables.Column(head, unit, [form.format(row[key]) for _, row in chosen])
      for head, unit, key, form in (
        ('step', '', 'step', '{}'),
        ('epoch', '', 'epoch', '{:.2f}'),
        ('train loss', 'nats', 'train_loss', '{:.4g}'),
        ('train accuracy', '0 to 1', 'train_accuracy', '{:.4f}'),
        ('test loss', 'nats', 'test_loss', '{:.4g}'),
        ('test accuracy', '0 to 1', 'test_accuracy', '{:.4f}'),
      )
    ),
  ]
  caption = (
    'The best checkpoint was chosen by its test accuracy, which is therefore '
    'an optimistic estimate; the last was not.'
  )
  seconds = tables.number(result.get('seconds_per_step'), '.3g')
  return '\n'.join(
    [
      f'# {result["optimizer"]} on {config.dataset.name}',
      '',
      tables.markdown(columns, caption),
      f'A step took {seconds} s (median, without evaluation).',
      '',
      '![Loss and error against epochs](curves.png)',
      '',
    ]
  )
