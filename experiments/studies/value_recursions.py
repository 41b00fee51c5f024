r"""What the value recursions buy: steps, seconds and learning rates.

  python -m experiments.studies.value_recursions \
    --config=configs/digits.py:sgd --workdir=runs/a

Trains every variant of one base (``config.optimizer.base``) at every rate of
``config.value_recursions``, on each of its seeds, and writes the steps and the
time to a train loss, the largest stable rate and the cost of a step
(results.md, result.json, value_recursions.png). A variant is compiled once,
with the rate as an argument.
The base alone is there with clipped gradients too, the usual bound on a step
(but for kfac and ekfac, which have one of their own). The variants take turns,
so that whatever else the machine does slows all alike.
"""

from __future__ import annotations

import gtddp_jax as gt
from configs import schema
from configs.schema import Config, Key, Section
from experiments.optimizers import registry
from experiments.report import charts, tables
from experiments.runs import cli, run_folder
from experiments.studies import outcomes, trainings

SECTION: Section = {
  'seeds': Key((0, 1, 2, 3, 4), 'of the trainings', schema.SEEDS),
  'rates': Key(
    (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
    'per step; of the base, in place of optimizer.base.learning_rate',
    schema.positives('rates'),
  ),
  'target_loss': schema.TARGET_LOSS,
}
FILES = ('value_recursions.png',)

VARIANTS = (
  trainings.Variant('base alone'),
  trainings.Variant('base alone, clipped at 1', clip=1.0),
  trainings.Variant('base alone, clipped at 0.1', clip=0.1),
  trainings.Variant('frozen, gradient', 'gradient'),
  trainings.Variant('frozen, gradient, 0.3', 'gradient', trust_region=0.3),
  trainings.Variant('frozen, gauss_newton', 'gauss_newton'),
  trainings.Variant('frozen, sampled 1', gt.sampled(1)),
  trainings.Variant('bellman, gradient, 0.3', 'gradient', 'bellman', 0.3),
  trainings.Variant('bellman, gauss_newton', 'gauss_newton', 'bellman'),
  trainings.Variant('coupled, gradient', 'gradient', 'coupled'),
  trainings.Variant(
    'coupled, gauss_newton on 32', gt.subset('gauss_newton', 32), 'coupled'
  ),
  trainings.Variant('coupled, gauss_newton', 'gauss_newton', 'coupled'),
  trainings.Variant('coupled, sampled 1', gt.sampled(1), 'coupled'),
)


def check(config: Config) -> None:
  """Raises ConfigError for a base, or a key, that the study cannot use."""
  trainings.check_explicit(
    config.optimizer.base.name, 'choose one after the colon of --config'
  )
  trainings.check(config)


def work(config: Config, folder: run_folder.RunFolder) -> None:
  """Runs what is left of the study and prints the table."""
  check(config)
  clips = config.optimizer.base.name not in registry.KRONECKER
  variants = [variant for variant in VARIANTS if clips or variant.clip is None]
  study = trainings.Study(config, variants, config.value_recursions.target_loss)
  asked = [
    trainings.Run(variant, seed, {'rate': rate})
    for seed in config.value_recursions.seeds
    for rate in config.value_recursions.rates
    for variant in study.variants
  ]
  rows = trainings.finish(
    folder, asked, lambda run: study, lambda row, rest: _line(row)
  )
  _conclude(study, folder, rows)


def _line(row: outcomes.Row) -> str:
  head = f'{row["form"]}, rate {row["rate"]:g}, seed {row["seed"]}: '
  if row['final_loss'] is None:
    return f'{head}stopped after {row["steps"]} steps'
  reached = row['steps_to_target'] or 'never'
  return f'{head}train loss {row["final_loss"]:.3g}, target: {reached}'


def _conclude(
  study: trainings.Study, folder: run_folder.RunFolder, rows: list[outcomes.Row]
) -> None:
  """Writes the tables and the figure."""
  config, titles = study.config, [variant.title for variant in study.variants]
  section = config.value_recursions
  rates, target = section.rates, section.target_loss
  found = outcomes.summaries(rows, titles, rates, study.dataset.classes)
  folder.write_json('result.json', found)
  columns, losses = outcomes.standings(found), outcomes.final_losses(found)
  caption = outcomes.caption(config)
  alone = [
    variant.title for variant in study.variants if variant.terminal is None
  ]
  second = 'Mean train loss (nats) over the last epoch, by learning rate.'
  folder.write_tables(
    [(columns, caption), (losses, second)],
    section.seeds,
    outcomes.short(found, alone),
  )
  charts.losses_by_rate(
    folder.file('value_recursions.png'),
    titles,
    [f'{rate:g}' for rate in rates],
    [[part['final_loss'] for part in s['rates']] for s in found],
    outcomes.bars(found, target, alone),
  )
  tables.show(columns, caption)
  tables.show(losses, second)


COMMAND = cli.Command(
  'studies.value_recursions',
  work,
  SECTION,
  check=check,
  files=FILES,
  unread=registry.CHOSEN,
  resumes=True,
)


if __name__ == '__main__':
  cli.launch(COMMAND)
