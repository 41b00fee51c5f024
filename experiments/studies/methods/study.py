r"""The methods side by side: the paper's Table 2, and a fair benchmark.

  python -m experiments.studies.methods --config=configs/digits.py \
    --workdir=runs/m
  python -m experiments.studies.methods --config=configs/mnist.py:ekfac \
    --config.dataset.train_samples=4000 --config.dataset.test_samples=2000 \
    --config.methods.bases='("sgd","adam")' --config.methods.seeds='(0,1,2)'

Trains every base of ``config.methods.bases`` alone and in each of
``config.methods.forms``, at every rate of ``config.methods.rates``, on each
seed. What else a base reads is in ``config.optimizer.base``: to change what
only some read, such as the damping, name one of them after the colon of
--config. Writes into the run folder

  results.md    each form against its base at equal hyper-parameters (Table 2)
                and each tuned; steps and time to ``target_loss``; standard
                deviations over seeds; where GT-DDP loses
  result.json   the same as numbers
  curves.png    training curves (Fig. 6a)
  variance.png  standard deviations over seeds (Figs. 6b and 8)
  targets.png   steps and time to the target

A form is compiled once, with the rate as an argument. The forms take turns, so
that whatever else the machine does slows all alike. A finished run is one line
of metrics.jsonl, and the same command goes on where it stopped.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import ml_collections
import rich.console

from experiments.optimizers import registry
from experiments.report import tables
from experiments.runs import cli, run_folder
from experiments.studies import outcomes, trainings
from experiments.studies.methods import figures, page, rankings, standings


def forms(config: ml_collections.ConfigDict) -> list[trainings.Form]:
  """Returns the methods; each base alone stands before its forms."""
  found = []
  for name in config.methods.bases:
    kind = registry.BASES[name]
    found.append(trainings.Form(kind.title, base=name))
    if name in registry.EXPLICIT:
      found += [
        trainings.Form(
          f'GT-DDP {kind.title}, {form}', **registry.FORMS[form], base=name
        )
        for form in config.methods.forms
      ]
  return found


def work(
  config: ml_collections.ConfigDict, folder: run_folder.RunFolder
) -> None:
  """Runs what is left of the study and writes the report."""
  trainings.check(config)
  study = trainings.Study(config, forms(config), config.methods.target_loss)
  asked = plan(config, study.forms)
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

  _conclude(
    study, folder, trainings.finish(folder, asked, lambda run: study, note)
  )


def plan(
  config: ml_collections.ConfigDict, methods: list[trainings.Form]
) -> list[trainings.Run]:
  """Returns all runs in their order: the forms take turns, and seed by seed.

  Args:
    config: of the study.
    methods: of ``forms``.

  Returns:
    The runs.
  """
  rates = config.methods.rates
  turns = [*itertools.zip_longest(*(rates[form.base] for form in methods))]
  return [
    trainings.Run(form, seed, {'rate': rate})
    for seed in config.methods.seeds
    for turn in turns
    for form, rate in zip(methods, turn, strict=True)
    if rate is not None
  ]


def _conclude(
  study: trainings.Study, folder: run_folder.RunFolder, rows: list[outcomes.Row]
) -> None:
  """Writes the tables and the figures."""
  config = study.config
  alone = {f.base: f.title for f in study.forms if f.terminal is None}
  found = rankings.summaries(
    rows,
    {form.title: alone[form.base] for form in study.forms},
    study.dataset.classes,
  )
  against = rankings.champions(found)
  folder.write_json('result.json', {'methods': found, 'champions': against})
  folder.write_report(
    page.text(config, found, against),
    config.methods.seeds,
    page.short(found, against),
  )
  figures.curves(folder.file('curves.png'), found, rows, config.log_every)
  figures.deviations(folder.file('variance.png'), found)
  figures.targets(folder.file('targets.png'), found, config.methods.target_loss)
  rich.console.Console(width=140).print(
    tables.table(standings.standings(found, 'equal'), standings.caption(config))
  )


def main() -> None:
  """Does what the command line says."""
  cli.launch(
    'studies.methods',
    work,
    resume=True,
    unread=(*registry.CHOSEN, 'optimizer.base.name'),
  )
