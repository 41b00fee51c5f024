r"""Trains one network on one data set.

  python -m experiments.train --config=configs/digits.py:adam --workdir=runs/x
  python -m experiments.train --config=configs/digits.py:adam \
    --config.optimizer.name=gt_ddp --config.seed=1

--workdir must be new, empty, or hold a run of this config, which the same
command goes on with: after Ctrl-C, SIGTERM, SIGKILL or a full disk it ends with
the same files as if nothing had happened. --overwrite starts again. Without
--workdir, a dated folder is made in runs/.

With --config.devices=0 all devices share every batch; several hosts train one
network together by --distributed (Slurm, Open MPI, GKE; docs/devices.md).

--dry_run prints the graph, the memory and the cost of a step, and trains
nothing. Every key of a config is in configs/default.py.
"""

from __future__ import annotations

from configs.schema import Config
from experiments.report import tables
from experiments.runs import cli, hosts, run_folder
from experiments.training import dry_run, session


def work(
  config: Config,
  folder: run_folder.RunFolder,
  built: session.Built | None,
) -> None:
  """Trains and prints the outcome."""
  before = folder.result()
  if before is not None and before['status'] == session.FINISHED:
    cli.say('this run has finished; --overwrite would start it again')
  result = session.train(config, folder, built)
  if not hosts.is_first():
    return
  columns = [
    tables.Column('optimizer', '', [result['optimizer']]),
    tables.Column('train loss', 'nats', [f'{result["train_loss"]:.1e}']),
    tables.Column(
      'test accuracy', '%', [f'{100 * result["test_accuracy"]:.2f}']
    ),
    tables.Column('step', 'ms', [f'{1e3 * result["seconds_per_step"]:.2f}']),
    tables.Column('compile', 's', [f'{result["compile_seconds"]:.1f}']),
  ]
  caption = f'After {config.epochs} epochs; times are of this machine.'
  tables.show(columns, caption)


COMMAND = cli.Command(
  'train',
  work,
  resumes=True,
  plan=dry_run.describe,
  build=session.build,
)


def main() -> None:
  """Does what the command line says."""
  cli.launch(COMMAND)


if __name__ == '__main__':
  main()
