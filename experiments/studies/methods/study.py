r"""The methods side by side: the paper's Table 2, and a fair benchmark.

  python -m experiments.studies.methods --config=configs/digits.py \
    --workdir=runs/m
  python -m experiments.studies.methods --preset=compare --workdir=runs/demo
  python -m experiments.studies.methods --config=configs/mnist.py:ekfac \
    --config.dataset.train_samples=4000 --config.dataset.test_samples=2000 \
    --config.methods.bases='("sgd","adam")' --config.methods.seeds='(0,1,2)'

Trains every base of ``config.methods.bases`` alone and in each of
``config.methods.variants``, at every rate of ``config.methods.rates``, on each
seed. What else a base reads is in ``config.optimizer.base``: to change what
only some read, such as the damping, name one of them after the colon of
--config. Writes into the run folder

  results.md    each variant against its base at equal hyper-parameters (Table
                2) and each tuned; steps and time to ``target_loss``; standard
                deviations over seeds; where GT-DDP loses
  result.json   the same as numbers
  curves.png    training curves (Fig. 6a)
  variance.png  standard deviations over seeds (Figs. 6b and 8)
  targets.png   steps and time to the target
  accuracy.png  with ``target_accuracy``: loss and error against epochs

--preset=compare is a short comparison: SGD, RMSprop and Adam at their usual
learning rates, alone and with the options of ``config.optimizer``, evaluated
every ``eval_every`` steps. What is given on the command line stays.

A variant is compiled once, with the rate as an argument. The variants take
turns, so that whatever else the machine does slows all alike. A finished run is
one line of metrics.jsonl, and the same command goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

from configs import schema
from configs.schema import Config, Key, Section
from experiments import refusals
from experiments.optimizers import registry
from experiments.report import tables
from experiments.runs import cli, run_folder
from experiments.studies import outcomes, trainings
from experiments.studies.methods import (
  accuracy,
  figures,
  page,
  rankings,
  standings,
)

OWN = 'own'  # a variant: the options of ``config.optimizer``
# Test accuracies (0 to 1) whose first step the short comparison reports.
TARGETS = {
  'digits': 0.97,
  'mnist': 0.98,
  'fashion_mnist': 0.9,
  'svhn_cropped': 0.9,
  'cifar10': 0.7,
  'cifar100': 0.3,
}
SECTION: Section = {
  'seeds': Key(tuple(range(10)), 'of the trainings', schema.SEEDS),
  'bases': Key(
    ('sgd', 'rmsprop', 'adam', 'ekfac', 'adamw', 'lion', 'muon'),
    'those without an explicit curvature (adamw, lion, muon) run alone',
    schema.some_of(*registry.BASES),
  ),
  'variants': Key(
    tuple(registry.VARIANTS),
    "frozen, bellman, coupled (terminal 'gradient', trust region 0.3), and "
    'gauss_newton (that terminal, frozen)',
    schema.some_of(*registry.VARIANTS, OWN),
  ),
  'target_loss': schema.TARGET_LOSS,
  'target_accuracy': Key(
    None,
    'test accuracy to reach; None: no evaluation but at the end',
    schema.FRACTION,
    kind=float,
  ),
  'preset': Key('none', 'see --help', schema.one_of('none', 'compare')),
  # As many for each base: what tuning may cost.
  'rates': {
    base: Key(
      rates, f'per step, of every variant of {base}', schema.positives('rates')
    )
    for base, rates in (
      ('sgd', (0.03, 0.1, 0.3)),
      ('rmsprop', (0.0005, 0.0015, 0.005)),
      ('adam', (0.001, 0.003, 0.01)),
      ('adamw', (0.001, 0.003, 0.01)),
      ('kfac', (0.01, 0.03, 0.1)),
      ('ekfac', (0.001, 0.003, 0.01)),
      ('lion', (0.0001, 0.0003, 0.001)),
      ('muon', (0.003, 0.01, 0.03)),
    )
  },
}
FILES = ('curves.png', 'variance.png', 'targets.png', 'accuracy.png')


def variants(config: Config) -> list[trainings.Variant]:
  """Returns the methods; each base alone stands before its variants."""
  found = []
  own = registry.options(config.optimizer)
  for name in config.methods.bases:
    title = registry.BASES[name].title
    found.append(trainings.Variant(title, base=name))
    for variant in config.methods.variants:
      if variant == OWN:
        found.append(trainings.Variant(f'GT-DDP {title}', **own, base=name))
      elif name in registry.EXPLICIT:
        options = registry.VARIANTS[variant]
        found.append(
          trainings.Variant(f'GT-DDP {title}, {variant}', **options, base=name)
        )
  return found


def preset(config: Config) -> Config:
  """Returns the config with the values of its preset where it has defaults."""
  made = Config(config.to_dict())
  if made.methods.preset == 'none':
    return made
  usual = schema.build(SECTION)
  values: dict[str, Any] = {
    'seeds': (0, 1, 2),
    'bases': ('sgd', 'rmsprop', 'adam'),
    'variants': (OWN,),
    'target_accuracy': TARGETS[made.dataset.name],
  }
  for key, value in values.items():
    if made.methods[key] == usual[key]:
      made.methods[key] = value
  for base, rate in made.learning_rates.items():
    if made.methods.rates[base] == usual.rates[base]:
      made.methods.rates[base] = (rate,)
  return made


def check(config: Config) -> None:
  """Raises ConfigError for bases, or keys, that the study cannot use."""
  trainings.check(config)
  own, able = preset(config).methods, registry.EXPLICIT
  if OWN not in own.variants and not {*own.bases} & {*able}:
    raise refusals.ConfigError(
      'config.methods.bases',
      f'at least one that has variants with feedback ({", ".join(able)})',
      own.bases,
      'add one',
    )
  value = config.optimizer.value
  if OWN in own.variants and value != 'frozen' and not {*own.bases} <= {*able}:
    raise refusals.ConfigError(
      'config.methods.bases',
      f'some of {", ".join(able)} for optimizer.value={value!r}',
      own.bases,
      'remove the others',
    )


def work(config: Config, folder: run_folder.RunFolder) -> None:
  """Runs what is left of the study and writes the report."""
  check(config)
  config = preset(config)
  own = config.methods
  sparse = own.target_accuracy is None
  study = trainings.Study(config, variants(config), own.target_loss, sparse)
  asked = plan(config, study.variants)
  total = len(trainings.left(asked, folder.rows()))
  cli.say(f'{total} of {len(asked)} runs left, {study.steps} steps each')
  begin = time.monotonic()

  def note(row: outcomes.Row, rest: Sequence[trainings.Run]) -> str:
    """Where a seed is done, how long the others take."""
    if rest and rest[0].seed == row['seed']:
      return ''
    seconds = time.monotonic() - begin - sum(study.compile_seconds.values())
    left = seconds / (total - len(rest)) * len(rest)
    return f'seed {row["seed"]} is done; about {left / 60:.1f} min to go'

  rows = trainings.finish(
    folder, asked, lambda run: study, note, lambda run: _advice(config, run)
  )
  _conclude(study, folder, rows)


def _advice(config: Config, run: trainings.Run) -> str:
  """Which keys to change where a run diverges."""
  made = Config(config.optimizer.to_dict())
  made.name = 'gt_ddp' if run.variant.terminal is not None else run.variant.base
  made.base.name = run.variant.base
  key = 'methods.rates' if config.methods.preset == 'none' else 'learning_rates'
  return registry.advice(made, f'{key}.{run.variant.base}')


def plan(
  config: Config, methods: list[trainings.Variant]
) -> list[trainings.Run]:
  """Returns all runs: the variants take turns, and seed by seed."""
  rates = config.methods.rates
  turns = [
    *itertools.zip_longest(*(rates[variant.base] for variant in methods))
  ]
  return [
    trainings.Run(variant, seed, {'rate': rate})
    for seed in config.methods.seeds
    for turn in turns
    for variant, rate in zip(methods, turn, strict=True)
    if rate is not None
  ]


def _conclude(
  study: trainings.Study, folder: run_folder.RunFolder, rows: list[outcomes.Row]
) -> None:
  """Writes the tables and the figures."""
  config = study.config
  alone = {f.base: f.title for f in study.variants if f.terminal is None}
  found = rankings.summaries(
    rows,
    {variant.title: alone[variant.base] for variant in study.variants},
    study.dataset.classes,
  )
  against = rankings.champions(found)
  folder.write_json('result.json', {'methods': found, 'champions': against})
  shown, below = standings.standings(found, 'equal'), standings.caption(config)
  text = page.text(config, found, against)
  if not study.sparse:
    shown = accuracy.columns(found, rows, config.methods.target_accuracy)
    below = accuracy.caption(config)
    text += accuracy.section(shown, below)
    accuracy.draw(folder.file('accuracy.png'), found, rows)
  folder.write_report(
    text,
    config.methods.seeds,
    page.short(found, against),
  )
  figures.curves(folder.file('curves.png'), found, rows, config.log_every)
  figures.deviations(folder.file('variance.png'), found)
  figures.targets(folder.file('targets.png'), found, config.methods.target_loss)
  tables.show(shown, below)


COMMAND = cli.Command(
  'studies.methods',
  work,
  SECTION,
  check=check,
  files=FILES,
  unread=(*registry.CHOSEN, 'optimizer.base.name'),
  resumes=True,
)


def main() -> None:
  """Does what the command line says."""
  short = re.compile(r'^--?preset(?==|$)')
  argv = [short.sub('--config.methods.preset', word) for word in sys.argv]
  command = COMMAND
  if any(word.startswith('--config.methods.preset') for word in argv):
    command = dataclasses.replace(COMMAND, unread=registry.COMPARED)
  cli.launch(command, argv)
