r"""What joint updates of players gain: EKFAC, GT-EKFAC, GT-DDP-EKFAC.

  python -m experiments.studies.games --config=configs/cgb.py:ekfac \
    --workdir=runs/g

Trains every variant of a Kronecker base (``config.optimizer.base``: ekfac or
kfac) at every rate and damping of ``config.games`` and on each of its seeds,
and compares them each at its own best setting and all at the base's
(results.md, result.json, games.png). Differences are paired by seed, with 95 %
intervals. The variants take turns, so that whatever else the machine does slows
all alike.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from configs import schema
from configs.schema import Config, Key, Section
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

_NAME: tables.Spec = ('variant', '', lambda s: s['form'])

_TUNED = (
  'Each variant at its own best setting against the first at its. Settings '
  'were chosen on the same seeds, so these intervals are rather too narrow. Of '
  'all comparisons here and above, each has an error of 5 % of its own.'
)
_GRID = 'Mean train loss (nats) over the last epoch, by rate / damping.'


def variants(title: str) -> list[trainings.Variant]:
  """Returns what is compared, of a base by its title; it alone is the first."""
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


def check(config: Config) -> None:
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


def work(config: Config, folder: run_folder.RunFolder) -> None:
  """Runs what is left of the study and prints the table."""
  check(config)
  title = registry.BASES[config.optimizer.base.name].title
  study = trainings.Study(config, variants(title), config.games.target_loss)
  if not study.network.graph.games:
    study.variants = [
      variant for variant in study.variants if variant.cooperation == 'none'
    ]
  asked = [
    trainings.Run(variant, seed, {'rate': rate, 'damping': damping})
    for seed in config.games.seeds
    for rate in config.games.rates
    for damping in config.games.dampings
    for variant in study.variants
  ]
  rows = trainings.finish(folder, asked, lambda run: study)
  found = summaries(rows, [variant.title for variant in study.variants])
  folder.write_json('result.json', found)
  caption = _caption(config)
  shown = [
    (_standings(found), caption),
    (
      tables.columns(found[1:], _NAME, *_differences('tuned_', '')),
      _TUNED,
    ),
    (_grid(rows, found), _GRID),
  ]
  folder.write_tables(shown, config.games.seeds, _short(found))
  charts.curves(folder.file('games.png'), *_curves(rows, found, config))
  short = [_standings(found)[place] for place in (0, 1, 2, 6, 7, 10)]
  tables.show(short, caption)


def summaries(rows: Sequence[Row], titles: Sequence[str]) -> list[Row]:
  """Returns how the variants stand.

  Of each its best setting, the runs there and at the base's best, and the
  paired differences from the base, which is the first, at both; of the base,
  none.
  """
  keys = ('rate', 'damping')
  best = {title: outcomes.best(rows, title, keys) for title in titles}
  base = titles[0]

  def runs(title: str, setting: Sequence[float]) -> list[Row]:
    return outcomes.at(
      rows, form=title, **dict(zip(keys, setting, strict=True))
    )

  found = []
  for title in titles:
    own, equal = (runs(title, best[other]) for other in (title, base))
    tuned, fair = (
      outcomes.against_baseline(part, runs(base, best[base]), title == base)
      for part in (own, equal)
    )
    found.append(
      {
        'form': title,
        'best': best[title],
        'base_best': best[base],
        'own': own,
        'equal': equal,
        'loss_gain': fair['loss_gain'],
        'accuracy_gain': fair['accuracy_gain'],
        'tuned_loss_gain': tuned['loss_gain'],
        'tuned_accuracy_gain': tuned['accuracy_gain'],
        'step_ratio': outcomes.step_ratio(rows, title, base),
      }
    )
  return found


def _standings(found: Sequence[Row]) -> list[tables.Column]:
  def losses(key: str) -> Callable[[Row], str]:
    return lambda s: tables.losses(intervals.of_runs(s[key], 'final_loss'))

  def accuracies(key: str) -> Callable[[Row], str]:
    return lambda s: tables.accuracies(
      intervals.of_runs(s[key], 'test_accuracy')
    )

  return tables.columns(
    found,
    _NAME,
    ('best', 'rate / damping', lambda s: '{:g} / {:g}'.format(*s['best'])),
    ('train loss', 'nats', losses('own')),
    ('accuracy', '%', accuracies('own')),
    ('train loss, equal', 'nats', losses('equal')),
    ('accuracy, equal', '%', accuracies('equal')),
    *_differences('', ', equal'),
    ('step', '× base', lambda s: f'{s["step_ratio"]:.2f}'),
  )


def _differences(kind: str, where: str) -> list[tables.Spec]:
  return [
    column
    for name, unit in (('loss', 'nats'), ('accuracy', 'points'))
    for column in intervals.columns(
      f'difference of {name}{where}',
      unit,
      operator.itemgetter(f'{kind}{name}_gain'),
    )
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


def _named(variant: Row, key: str) -> str:
  """A variant, its difference of loss and its step."""
  return (
    f'{variant["form"]}, with a difference of loss of '
    f'{intervals.text(variant[key], "nats")} nats '
    f'({_words([variant], key)[0]}) and a step of '
    f'{variant["step_ratio"]:.2f} × that of the base'
  )


def _caption(config: Config) -> str:
  seeds = len(config.games.seeds)
  return (
    f'{config.dataset.name}, {config.model.name}, {config.epochs} epochs, '
    f'batch {config.batch_size}, {seeds} seeds. Train loss: mean over the last '
    f'epoch, ± sample standard deviation over seeds. Best: least mean loss. '
    f'Equal: at the best setting of the first variant; differences from it are '
    f'paired by seed, with 95 % intervals over seeds, for one test split; '
    f'significant where the interval leaves out zero. The equal '
    f'setting is the best of the first variant, which is in its favour. GT-DDP '
    f'variants have the terminal cost expansion `gradient`, the value '
    f'recursion `frozen` unless another is named, and the trust region '
    f'{registry.BOUND}.'
  )


def _grid(rows: Sequence[Row], found: Sequence[Row]) -> list[tables.Column]:
  def mean(title: str, rate: float, damping: float) -> str:
    own = outcomes.at(rows, form=title, rate=rate, damping=damping)
    return tables.number(outcomes.mean_loss(own), '.3g')

  titles = [s['form'] for s in found]
  return [
    tables.Column('variant', '', titles),
    *(
      tables.Column(
        f'{rate:g} / {damping:g}', '', [mean(t, rate, damping) for t in titles]
      )
      for rate, damping in sorted({(r['rate'], r['damping']) for r in rows})
    ),
  ]


def _curves(
  rows: Sequence[Row],
  found: Sequence[Row],
  config: Config,
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
