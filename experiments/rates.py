"""How each form of GT-DDP stands high learning rates.

  python -m experiments.rates --config=configs/digits.py:sgd --config.epochs=5

Trains every form of one base (``config.optimizer.base``) at every rate on the
seeds of ``config.compare``, and writes the mean train loss after the last epoch
as a table (results.md, result.json) and a figure (rates.png). A run whose loss
stops being finite counts as diverged.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_collections
import rich.console

from experiments import cli, data, programs, progress, report, runs, training

RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


class Form(NamedTuple):
  """What differs between the forms; terminal None is the base alone."""

  terminal: str | None = None
  value: str = 'frozen'
  trust_region: float | None = None

  def title(self) -> str:
    """Returns the name of the form in tables."""
    if self.terminal is None:
      return 'base alone'
    bound = self.trust_region
    return f'{self.value}, {self.terminal}' + (f', {bound:g}' if bound else '')


FORMS = (
  Form(),
  Form('gradient'),
  Form('gradient', trust_region=0.3),
  Form('gauss_newton'),
  Form('gradient', 'bellman'),
  Form('gradient', 'bellman', 0.3),
  Form('gauss_newton', 'bellman'),
  Form('gradient', 'coupled'),
)


def final_losses(
  config: ml_collections.ConfigDict,
  network: programs.Network,
  dataset: data.Dataset,
  form: Form,
  rate: float,
) -> list[float | None]:
  """Trains one form at one rate; train losses (nats), None where diverged."""
  own = config.copy_and_resolve_references()
  section = own.optimizer
  section.base.learning_rate = rate
  section.name = section.base.name if form.terminal is None else 'gt_ddp'
  section.terminal = form.terminal or 'gradient'
  section.value = form.value
  section.trust_region = form.trust_region
  program = programs.build(network, own, dataset)
  losses: list[float | None] = []
  for seed in config.compare.seeds:
    try:
      *_, last = training.intervals(program, own, dataset, seed)
      losses.append(float(last['train_loss']))
    except training.NonFiniteError:
      losses.append(None)
  return losses


def work(config: ml_collections.ConfigDict, folder: runs.RunFolder) -> None:
  """Runs the study and prints the table."""
  dataset = data.load(config.dataset.name, config.dataset.scaling)
  network = programs.build_network(config, dataset)
  config.eval_every = config.log_every * 10**6  # at the end only
  rows: list[dict[str, Any]] = []
  with progress.Progress(len(FORMS) * len(RATES)) as bar:
    for form in FORMS:
      for rate in RATES:
        losses = final_losses(config, network, dataset, form, rate)
        row = {'form': form.title(), 'rate': rate, 'train_losses': losses}
        folder.log(row)
        rows.append(row)
        bar.say(f'{form.title()}, rate {rate:g}: {_cell(losses)}')
        bar.advance(1)
  folder.write_json('result.json', rows)
  columns = _columns(rows)
  caption = (
    f'{config.dataset.name}, {config.optimizer.base.name}, {config.epochs} '
    f'epochs, batch {config.batch_size}: mean train loss (nats) over '
    f'{len(config.compare.seeds)} seeds; the number after a form is its trust '
    f'region.'
  )
  folder.write_text('results.md', report.markdown(columns, caption))
  report.heat(
    folder.file('rates.png'),
    [form.title() for form in FORMS],
    [f'{rate:g}' for rate in RATES],
    [
      [_mean(r['train_losses']) for r in rows if r['form'] == form.title()]
      for form in FORMS
    ],
  )
  rich.console.Console(width=100).print(report.table(columns, caption))


def _columns(rows: Sequence[dict[str, Any]]) -> list[report.Column]:
  columns = [report.Column('form', '', [form.title() for form in FORMS])]
  for rate in RATES:
    cells = [_cell(r['train_losses']) for r in rows if r['rate'] == rate]
    columns.append(report.Column(f'{rate:g}', '', cells))
  return columns


def _mean(losses: Sequence[float | None]) -> float | None:
  kept = [loss for loss in losses if loss is not None]
  return statistics.fmean(kept) if len(kept) == len(losses) else None


def _cell(losses: Sequence[float | None]) -> str:
  mean = _mean(losses)
  if mean is None:
    return f'diverged {losses.count(None)}/{len(losses)}'
  return report.number(mean, '.3g')


if __name__ == '__main__':
  cli.launch('rates', work)
