r"""Compares base optimizers with their GT-DDP forms on one data set.

  python -m experiments.studies.compare --config=configs/digits.py \
    --workdir=runs/demo

Members of a pair share all hyper-parameters, seeds and samples. Each optimizer
is compiled once; then all runs advance in turns, one logged interval each, so
that whatever else the machine does slows all of them alike.

--workdir must be new or empty unless --overwrite is given; without it, a dated
folder is made in runs/. Every key of a config is in configs/default.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import ml_collections

from experiments.data import splits
from experiments.optimizers import registry
from experiments.report import tables
from experiments.runs import cli, progress, run_folder
from experiments.studies import compare_table
from experiments.training import loop, programs


def optimizer_config(
  config: ml_collections.ConfigDict, base: str, name: str
) -> ml_collections.ConfigDict:
  """Returns the ``optimizer`` section of a contender.

  Args:
    config: of the comparison.
    base: the base.
    name: ``base`` or 'gt_ddp'.

  Returns:
    A copy of the section, with the learning rate of the base.
  """
  section = config.optimizer.copy_and_resolve_references()
  section.name = name
  section.base.name = base
  section.base.learning_rate = config.compare.learning_rate[base]
  return section


def compare(
  config: ml_collections.ConfigDict, folder: run_folder.RunFolder
) -> list[dict[str, Any]]:
  """Trains all contenders on all seeds and fills the folder.

  Args:
    config: validated.
    folder: new.

  Returns:
    One summary per contender, as in result.json.
  """
  dataset = splits.from_config(config.dataset)
  tracks: list[compare_table.Track] = []
  try:
    contenders = list(_contenders(config, dataset))
    tracks += [
      compare_table.Track(
        contender,
        seed,
        loop.Loop(
          contender.program, config, dataset, seed, advice=contender.advice
        ).rows(),
      )
      for contender in contenders
      for seed in config.compare.seeds
    ]
    _advance_all(tracks, folder)
  finally:
    summaries = compare_table.summaries(tracks, config.compare.target)
    folder.write_json('result.json', summaries)
  caption = compare_table.caption(config)
  columns = compare_table.columns(summaries, config.compare.target)
  folder.write_report(
    tables.markdown(columns, caption), seeds=config.compare.seeds
  )
  tables.curves(
    folder.file('curves.png'),
    [
      tables.Curve(
        contender.title,
        [t.logged for t in tracks if t.contender is contender],
      )
      for contender in contenders
    ],
  )
  tables.show(columns, caption)
  return summaries


def _contenders(
  config: ml_collections.ConfigDict, dataset: splits.Dataset
) -> Iterator[compare_table.Contender]:
  """Compiles each base alone and under gt_ddp."""
  network = programs.build_network(config, dataset)
  for base in config.compare.bases:
    for name in (base, 'gt_ddp'):
      own = config.copy_and_resolve_references()
      own.optimizer = optimizer_config(config, base, name)
      program = programs.build(network, own, dataset)
      title = registry.title(own.optimizer)
      cli.say(f'compiled {title} in {program.compile_seconds:.1f} s')
      alone = registry.BASES[base].title
      key = f'compare.learning_rate.{base}'
      advice = registry.advice(own.optimizer, key)
      yield compare_table.Contender(title, alone, program, advice)


def _advance_all(
  tracks: Sequence[compare_table.Track], folder: run_folder.RunFolder
) -> None:
  """Advances all runs in turns, each round in another order, and logs."""
  live = list(tracks)
  total = sum(track.contender.program.steps for track in tracks)
  with progress.Progress(total) as bar:
    while live:
      ended = []
      for track in live:
        before = track.logged[-1]['step'] if track.logged else 0
        row = track.advance()
        if row is None:
          ended.append(track)
          bar.say(_farewell(track))
          continue
        bar.advance(row['step'] - before)
        identity = {'optimizer': track.contender.title, 'seed': track.seed}
        folder.log({**identity, **row})
      live = [track for track in live[1:] + live[:1] if track not in ended]


def _farewell(track: compare_table.Track) -> str:
  head = f'{track.contender.title}, seed {track.seed}: '
  if track.status != 'finished':
    return head + track.status
  return head + tables.line(track.logged[-1])


def work(
  config: ml_collections.ConfigDict, folder: run_folder.RunFolder
) -> None:
  """Compares and prints the table."""
  compare(config, folder)


if __name__ == '__main__':
  cli.launch('studies.compare', work, unread=registry.COMPARED)
