r"""The methods side by side: the paper's Table 2, and a fair benchmark.

  python -m experiments.methods --config=configs/digits.py --workdir=runs/m
  python -m experiments.methods --config=configs/mnist.py:ekfac \
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

from experiments import (
  cli,
  method_charts,
  method_report,
  method_tables,
  optimizers,
  outcomes,
  rankings,
  report,
  runs,
  studies,
)


def forms(config: ml_collections.ConfigDict) -> list[studies.Form]:
  """Returns the methods; each base alone stands before its forms."""
  found = []
  for name in config.methods.bases:
    kind = optimizers.BASES[name]
    found.append(studies.Form(kind.title, base=name))
    if name in optimizers.EXPLICIT:
      found += [
        studies.Form(
          f'GT-DDP {kind.title}, {form}', **optimizers.FORMS[form], base=name
        )
        for form in config.methods.forms
      ]
  return found


def work(config: ml_collections.ConfigDict, folder: runs.RunFolder) -> None:
  """Runs what is left of the study and writes the report."""
  studies.check(config)
  study = studies.Study(config, forms(config), config.methods.target_loss)
  asked = plan(config, study.forms)
  total = len(studies.left(asked, folder.rows()))
  cli.say(f'{total} of {len(asked)} runs left, {study.steps} steps each')
  begin = time.monotonic()

  def note(row: outcomes.Row, rest: Sequence[studies.Run]) -> str:
    """Where a seed is done, how long the others take."""
    if rest and rest[0].seed == row['seed']:
      return ''
    seconds = time.monotonic() - begin - sum(study.compile_seconds.values())
    left = seconds / (total - len(rest)) * len(rest)
    return f'seed {row["seed"]} is done; about {left / 60:.1f} min to go'

  _conclude(
    study, folder, studies.finish(folder, asked, lambda run: study, note)
  )


def plan(
  config: ml_collections.ConfigDict, methods: list[studies.Form]
) -> list[studies.Run]:
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
    studies.Run(form, seed, {'rate': rate})
    for seed in config.methods.seeds
    for turn in turns
    for form, rate in zip(methods, turn, strict=True)
    if rate is not None
  ]


def _conclude(
  study: studies.Study, folder: runs.RunFolder, rows: list[outcomes.Row]
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
    method_report.text(config, found, against),
    config.methods.seeds,
    method_report.short(found, against),
  )
  method_charts.curves(folder.file('curves.png'), found, rows, config.log_every)
  method_charts.deviations(folder.file('variance.png'), found)
  method_charts.targets(
    folder.file('targets.png'), found, config.methods.target_loss
  )
  rich.console.Console(width=140).print(
    report.table(
      method_tables.standings(found, 'equal'), method_tables.caption(config)
    )
  )


if __name__ == '__main__':
  cli.launch(
    'methods',
    work,
    resume=True,
    unread=(*optimizers.CHOSEN, 'optimizer.base.name'),
  )
