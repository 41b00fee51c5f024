r"""What joint updates of players gain: EKFAC, GT-EKFAC, GT-DDP-EKFAC.

  python -m experiments.studies.games --config=configs/cgb.py:ekfac \
    --workdir=runs/g

Trains every variant of a Kronecker base (``config.optimizer.base``: ekfac or
kfac) at every rate and damping of ``config.games`` and on each of its seeds,
and compares them each at its own best setting and all at the base's
(results.md, result.json, games.png). Differences are paired by seed, with 95 %
intervals. The variants take turns, so that whatever else the machine does slows
all alike.

A finished run is one line of metrics.jsonl, and the same command goes on where
it stopped: --workdir may hold a study of the same configuration.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import ml_collections

from configs import schema
from configs.schema import Key, Section
from experiments import refusals
from experiments.optimizers import registry
from experiments.report import charts, intervals, tables
from experiments.runs import cli, run_folder
from experiments.studies import outcomes, trainings

SECTION: Section = {
  'seeds': Key((0, 1, 2, 3, 4), 'of the trainings', schema.SEEDS),
  'rates': Key((0.003, 0.01, 0.03, 0.1), 'per step', schema.positives('rates')),
  'dampings': Key(
    (0.001, 0.01, 0.1), 'added to the curvature', schema.positives('dampings')
  ),
  'target_loss': schema.TARGET_LOSS,
}
FILES = ('games.png',)

Row = outcomes.Row
Setting = tuple[float, float]  # rate, damping

_TUNED = (
  'Each variant at its own best setting against the first at its. Settings '
  'were chosen on the same seeds, so these intervals are rather too narrow. Of '
  'all comparisons here and above, each has an error of 5 % of its own.'
)
_GRID = 'Mean train loss (nats) over the last epoch, by rate / damping.'


def variants(title: str) -> list[trainings.Variant]:
  """Returns what is compared; the first is the base alone.

  Args:
    title: of the base.

  Returns:
    The variants.
  """
  ddp = f'GT-DDP-{title}'
  feedback: dict[str, Any] = registry.VARIANTS['frozen']
  return [
    trainings.Variant(title),
    trainings.Variant(f'GT-{title}, kronecker', cooperation='kronecker'),
    trainings.Variant(f'GT-{title}, schur', cooperation='schur'),
    trainings.Variant(ddp, **feedback),
    trainings.Variant(f'{ddp}, kronecker', **feedback, cooperation='kronecker'),
    trainings.Variant(f'{ddp}, schur', **feedback, cooperation='schur'),
    trainings.Variant(
      f'{ddp}, bellman, schur',
      **registry.VARIANTS['bellman'],
      cooperation='schur',
    ),
  ]


def check(config: ml_collections.ConfigDict) -> None:
  """Raises ConfigError for a base, or a key, that the study cannot use."""
  name = config.optimizer.base.name
  if name not in registry.KRONECKER:
    raise refusals.ConfigError(
      'config.optimizer.base.name',
      "'kfac' or 'ekfac'",
      repr(name),
      'choose one after the colon of --config',
    )
  trainings.check(config)


def work(
  config: ml_collections.ConfigDict, folder: run_folder.RunFolder
) -> None:
  """Runs what is left of the study and prints the table."""
  check(config)
  title = registry.BASES[config.optimizer.base.name].title
  study = trainings.Study(config, variants(title), config.games.target_loss)
  if not study.network.graph.games:
    study.variants = [
      form for form in study.variants if form.cooperation == 'none'
    ]
  asked = [
    trainings.Run(form, seed, {'rate': rate, 'damping': damping})
    for seed in config.games.seeds
    for rate in config.games.rates
    for damping in config.games.dampings
    for form in study.variants
  ]
  rows = trainings.finish(folder, asked, lambda run: study)
  found = summaries(rows, [form.title for form in study.variants])
  folder.write_json('result.json', found)
  caption = _caption(config)
  shown = [
    (_standings(found), caption),
    (_tuned(found), _TUNED),
    (_grid(rows, found), _GRID),
  ]
  folder.write_report(
    '\n'.join(itertools.starmap(tables.markdown, shown)),
    config.games.seeds,
    _short(found),
  )
  charts.curves(folder.file('games.png'), *_curves(rows, found, config))
  short = [_standings(found)[place] for place in (0, 1, 2, 6, 7, 10)]
  tables.show(short, caption)


def summaries(rows: Sequence[Row], titles: Sequence[str]) -> list[Row]:
  """Returns how the variants stand.

  Args:
    rows: of all runs; every variant, setting and seed is there.
    titles: of the variants; the first is the base.

  Returns:
    One summary per variant: its best setting, the runs there and at the base's
    best, and the paired differences from the base at both; of the base, none.
  """
  best = {title: _best(rows, title) for title in titles}
  base = titles[0]
  reference = outcomes.at(rows, base, *best[base])

  def gain(own: Sequence[Row], key: str) -> Row | None:
    if own[0]['form'] == base:
      return None
    values = (intervals.of_runs(part, key) for part in (own, reference))
    return intervals.compared(*values)

  found = []
  for title in titles:
    own, equal = (
      outcomes.at(rows, title, *setting)
      for setting in (best[title], best[base])
    )
    found.append(
      {
        'form': title,
        'best': best[title],
        'base_best': best[base],
        'own': own,
        'equal': equal,
        'loss_gain': gain(equal, 'final_loss'),
        'accuracy_gain': gain(equal, 'test_accuracy'),
        'tuned_loss_gain': gain(own, 'final_loss'),
        'tuned_accuracy_gain': gain(own, 'test_accuracy'),
        'step_ratio': outcomes.step_ratio(rows, title, base),
      }
    )
  return found


def _best(rows: Sequence[Row], title: str) -> Setting:
  """The setting with the least mean loss over all seeds."""
  settings = sorted({(row['rate'], row['damping']) for row in rows})
  return min(
    settings, key=lambda s: outcomes.mean_loss(outcomes.at(rows, title, *s))
  )


def _standings(found: Sequence[Row]) -> list[tables.Column]:
  def losses(rows: Sequence[Row]) -> str:
    return tables.losses(intervals.of_runs(rows, 'final_loss'))

  def accuracies(rows: Sequence[Row]) -> str:
    return tables.accuracies(intervals.of_runs(rows, 'test_accuracy'))

  return [
    tables.Column('variant', '', [s['form'] for s in found]),
    tables.Column(
      'best', 'rate / damping', [f'{r:g} / {d:g}' for r, d in _bests(found)]
    ),
    tables.Column('train loss', 'nats', [losses(s['own']) for s in found]),
    tables.Column('accuracy', '%', [accuracies(s['own']) for s in found]),
    tables.Column(
      'train loss, equal', 'nats', [losses(s['equal']) for s in found]
    ),
    tables.Column(
      'accuracy, equal', '%', [accuracies(s['equal']) for s in found]
    ),
    *_differences(found, '', ', equal'),
    tables.Column('step', '× base', [f'{s["step_ratio"]:.2f}' for s in found]),
  ]


def _tuned(found: Sequence[Row]) -> list[tables.Column]:
  others = found[1:]
  return [
    tables.Column('variant', '', [s['form'] for s in others]),
    *_differences(others, 'tuned_', ''),
  ]


def _differences(
  found: Sequence[Row], kind: str, where: str
) -> list[tables.Column]:
  loss, accuracy = f'{kind}loss_gain', f'{kind}accuracy_gain'
  return [
    tables.Column(
      f'difference of loss{where}',
      'nats',
      [intervals.text(s[loss], 1, '.2g') for s in found],
    ),
    tables.Column('significance', '', _words(found, loss)),
    tables.Column(
      f'difference of accuracy{where}',
      'points',
      [intervals.text(s[accuracy], 100, '.2f') for s in found],
    ),
    tables.Column('significance', '', _words(found, accuracy)),
  ]


def _words(found: Sequence[Row], key: str) -> list[str]:
  return [intervals.word(s[key]) for s in found]


def _short(found: Sequence[Row]) -> list[str]:
  """What came out, in a few sentences."""
  base, *others = found
  best, tuned = (
    min(others, key=lambda s: outcomes.mean_loss(s[part]))
    for part in ('equal', 'own')
  )
  losses, accuracies = (
    intervals.counts(_words(others, key))
    for key in ('loss_gain', 'accuracy_gain')
  )
  return [
    f'The {len(others)} variants against {base["form"]}, all at the best rate '
    f'and damping of {base["form"]}, train loss: {losses}; accuracy: '
    f'{accuracies}.',
    f'The best of them there is {_named(best, "loss_gain")}.',
    f'Each at its own best, it is {_named(tuned, "tuned_loss_gain")}.',
  ]


def _named(form: Row, key: str) -> str:
  """A variant, its difference of loss and its step."""
  return (
    f'{form["form"]}, with a difference of loss of '
    f'{intervals.text(form[key], 1, ".2g")} nats ({_words([form], key)[0]}) '
    f'and a step of {form["step_ratio"]:.2f} × that of the base'
  )


def _caption(config: ml_collections.ConfigDict) -> str:
  seeds = len(config.games.seeds)
  return (
    f'{config.dataset.name}, {config.model.name}, {config.epochs} epochs, '
    f'batch {config.batch_size}, {seeds} seeds. Train loss: mean over the last '
    f'epoch, ± sample standard deviation over seeds. Best: least mean loss. '
    f'Equal: at the best setting of the first variant; differences from it are '
    f'paired by seed, with 95 % intervals over seeds, for one test split; '
    f'significant where the interval leaves out zero. The equal '
    f'setting is the best of the first variant, which is in its favour. GT-DDP '
    f'variants have the terminal `gradient`, the value `frozen` unless another '
    f'is named, and the trust region {registry.BOUND}.'
  )


def _bests(found: Sequence[Row]) -> list[Setting]:
  return [s['best'] for s in found]


def _grid(rows: Sequence[Row], found: Sequence[Row]) -> list[tables.Column]:
  settings = sorted({(row['rate'], row['damping']) for row in rows})
  titles = [s['form'] for s in found]
  columns = [tables.Column('variant', '', titles)]
  for setting in settings:
    means = [
      outcomes.mean_loss(outcomes.at(rows, title, *setting)) for title in titles
    ]
    cells = [tables.number(mean, '.3g') for mean in means]
    columns.append(tables.Column(f'{setting[0]:g} / {setting[1]:g}', '', cells))
  return columns


def _curves(
  rows: Sequence[Row],
  found: Sequence[Row],
  config: ml_collections.ConfigDict,
) -> tuple[list[str], list[str], list[list[Any]], int, str]:
  """What ``charts.curves`` draws: losses over the base's, seed by seed."""
  rate, damping = found[0]['best']
  panels = [
    f'all at rate {rate:g}, damping {damping:g}',
    'each at its own best',
  ]
  series = [
    [
      [
        _over(row['smoothed_losses'], base['smoothed_losses'])
        for row, base in zip(s[key], found[0]['own'], strict=True)
      ]
      for s in found
    ]
    for key in ('equal', 'own')
  ]
  label = f'train loss, smoothed, over\nthat of {found[0]["form"]} at its best'
  return panels, [s['form'] for s in found], series, config.log_every, label


def _over(
  own: Sequence[float | None], base: Sequence[float | None]
) -> list[float | None]:
  """Ratios, as far as both got; what is not finite is None in JSON."""
  return [a / b if a and b else None for a, b in zip(own, base, strict=False)]


COMMAND = cli.Command(
  'studies.games',
  work,
  SECTION,
  check=check,
  files=FILES,
  unread=(*registry.CHOSEN, 'optimizer.base.damping'),
  resumes=True,
)


if __name__ == '__main__':
  cli.launch(COMMAND)
