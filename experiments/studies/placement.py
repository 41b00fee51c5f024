"""The control of a projection shortcut at the fork, or next to the merge.

  python -m experiments.studies.placement --config=configs/digits.py:sgd

The two are one network with the same parameters, but two chains of stages, and
the solution is not unique (paper, Sec. 3.2). Trains the base alone (``config.
optimizer.base``) and under ``frozen``, ``bellman`` and ``coupled`` at both
places, at every rate of ``config.placement`` and on each of its seeds, and
compares the places: differences, fork less merge, paired by seed with 95 %
intervals (results.md, result.json, placement.png). The base knows no places:
what differs there is rounding. The places take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from configs import schema
from configs.schema import Config, Key, Section
from experiments import refusals
from experiments.networks import layers, models
from experiments.optimizers import registry
from experiments.report import charts, intervals, tables
from experiments.runs import cli, run_folder, validation
from experiments.studies import outcomes, trainings

SECTION: Section = {
  'seeds': Key((0, 1, 2, 3, 4), 'of the trainings', schema.SEEDS),
  'rates': Key(
    (0.01, 0.03, 0.1),
    'per step; the same at both places',
    schema.positives('rates'),
  ),
  'target_loss': schema.TARGET_LOSS,
}
FILES = ('placement.png',)

Row = outcomes.Row
PLACES = layers.PROJECTIONS
VARIANTS = (
  trainings.Variant('base alone'),
  trainings.Variant('frozen', **registry.VARIANTS['frozen']),
  trainings.Variant('bellman', **registry.VARIANTS['bellman']),
  trainings.Variant('coupled', 'gauss_newton', 'coupled'),
)

_PLACED = {intervals.LOWER: 'fork lower', intervals.HIGHER: 'fork higher'}


class _Measure(NamedTuple):
  """What is compared: its key in a row, its name and its unit."""

  key: str
  head: str
  unit: str

  def difference(self, summary: Row) -> Row | None:
    """The paired difference in a summary."""
    found: Row | None = summary[self.key]['difference']
    return found


_MEASURES = (
  _Measure('final_loss', 'train loss', 'nats'),
  _Measure('test_accuracy', 'accuracy', 'points'),
  _Measure('steps_to_target', 'to target', 'steps'),
)


def work(config: Config, folder: run_folder.RunFolder) -> None:
  """Runs what is left of the study and prints the table."""
  check(config)
  section = config.placement
  built = {
    place: trainings.Study(at(config, place), VARIANTS, section.target_loss)
    for place in PLACES
  }
  asked = [
    trainings.Run(variant, seed, {'place': place, 'rate': rate})
    for seed in section.seeds
    for rate in section.rates
    for variant in VARIANTS
    for place in PLACES
  ]
  rows = trainings.finish(folder, asked, lambda run: built[run.labels['place']])
  _conclude(config, folder, rows)


def check(config: Config) -> None:
  """Raises ConfigError for a base, or a key, that the study cannot use."""
  trainings.check(config)
  trainings.check_explicit(
    config.optimizer.base.name, 'choose one after the colon of --config'
  )
  if config.model.projection != PLACES[0]:
    raise refusals.ConfigError(
      'config.model.projection',
      f'{PLACES[0]!r}, because this study runs both',
      repr(config.model.projection),
      'leave it',
    )
  able = [n for n in models.MODELS if validation.reads('model.projection', n)]
  if config.model.name not in able:
    raise refusals.ConfigError(
      'config.model.name',
      f'a network with projection shortcuts ({", ".join(able)})',
      repr(config.model.name),
      'choose one of them',
    )
  if config.model.name == 'resnet' and len({*config.model.widths}) == 1:
    raise refusals.ConfigError(
      'config.model.widths',
      'widths that change, so that there is a projection to place',
      config.model.widths,
      'write it as --config.model.widths="(16, 32)"',
    )


def at(config: Config, place: str) -> Config:
  """Returns the config with the projection at a place."""
  made = Config(config.to_dict())
  made.model.projection = place
  return made


def summaries(rows: Sequence[Row], rates: Sequence[float]) -> list[Row]:
  """Returns how the places differ, by variant and rate.

  The numbers of both places by seed, and of each the paired difference, fork
  less merge. A run that diverged has none.
  """
  found = []
  for variant in dict.fromkeys(row['form'] for row in rows):
    for rate in rates:
      part: Row = {'form': variant, 'rate': rate}
      for measure in _MEASURES:
        merge, fork = (
          intervals.of_runs(
            outcomes.at(rows, form=variant, rate=rate, place=place), measure.key
          )
          for place in PLACES
        )
        part[measure.key] = {
          PLACES[0]: merge,
          PLACES[1]: fork,
          'difference': intervals.difference(fork, merge),
        }
      found.append(part)
  return found


def _conclude(
  config: Config,
  folder: run_folder.RunFolder,
  rows: list[Row],
) -> None:
  """Writes the table and the figure."""
  found = summaries(rows, config.placement.rates)
  folder.write_json('result.json', found)
  columns, caption = _standings(found), _caption(config)
  folder.write_tables(
    [(columns, caption)], config.placement.seeds, _short(found)
  )
  charts.intervals(
    folder.file('placement.png'),
    [f'{s["form"]}, {s["rate"]:g}' for s in found],
    [
      charts.Intervals(
        f'{m.head}, fork − merge',
        m.unit,
        [
          _scaled(m.difference(s), 100 if m.unit == 'points' else 1)
          for s in found
        ],
      )
      for m in _MEASURES
    ],
  )
  tables.show(columns, caption)


def _scaled(part: Row | None, scale: float) -> tuple[float, float] | None:
  if part is None:
    return None
  return scale * part['mean'], scale * part['half_width']


def _standings(found: Sequence[Row]) -> list[tables.Column]:
  def losses(place: str) -> Callable[[Row], str]:
    return lambda s: tables.losses(s['final_loss'][place])

  def differences(m: _Measure) -> list[tables.Spec]:
    return [
      (
        f'{m.head}, fork − merge',
        m.unit,
        lambda s: intervals.text(m.difference(s), m.unit),
      ),
      ('significance', '', lambda s: _word(m.difference(s))),
    ]

  return tables.columns(
    found,
    ('variant', '', lambda s: s['form']),
    ('rate', '', lambda s: f'{s["rate"]:g}'),
    *((f'train loss, {place}', 'nats', losses(place)) for place in PLACES),
    *(column for m in _MEASURES for column in differences(m)),
  )


def _word(part: Row | None) -> str:
  """Whether the fork differs significantly from the merge."""
  word = intervals.of_difference(part)
  return _PLACED.get(word, word)


def _short(found: Sequence[Row]) -> list[str]:
  """What came out, in a sentence."""
  ours = [s for s in found if s['form'] != VARIANTS[0].title]
  counts = [
    f'{m.head}: '
    + ', '.join(
      f'{words.count(word)} {word}'
      for word in (*_PLACED.values(), intervals.OPEN)
    )
    for m in _MEASURES[:2]
    for words in [[_word(m.difference(s)) for s in ours]]
  ]
  return [
    f'The fork against the merge in {len(ours)} pairs of a variant with '
    f'feedback and a rate, {"; ".join(counts)}.'
  ]


def _caption(config: Config) -> str:
  section = config.placement
  base = registry.BASES[config.optimizer.base.name].title
  return (
    f'{config.dataset.name}, {config.model.name}, {base}, {config.epochs} '
    f'epochs, batch {config.batch_size}, {len(section.seeds)} seeds. Train '
    f'loss: mean over the last epoch, ± sample standard deviation over seeds. '
    f'Differences are paired by seed, with 95 % intervals over seeds, for one '
    f'test split; the fork is called lower or higher only where the interval '
    f'leaves out zero, which of 20 differences of nothing one does; there is a '
    f'dash where a run diverged or did not reach the target of '
    f'{section.target_loss:g} nats (smoothed), or all '
    f'differences are equal. The base knows no places. '
    f'`frozen` and `bellman` have the terminal cost expansion `gradient` '
    f'and the trust region {registry.BOUND}; `coupled` has the terminal cost '
    f'expansion `gauss_newton` here, where the study of methods has `gradient`.'
  )


COMMAND = cli.Command(
  'studies.placement',
  work,
  SECTION,
  check=check,
  files=FILES,
  unread=registry.CHOSEN,
  resumes=True,
)


if __name__ == '__main__':
  cli.launch(COMMAND)
