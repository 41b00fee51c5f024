r"""Takes one step of a network apart, stage by stage, and draws it.

  python -m experiments.studies.anatomy --run=runs/x --workdir=runs/y
  python -m experiments.studies.anatomy --config=configs/digits.py:adam

--run is the folder of a training: its last checkpoint and the batch that would
come next, not augmented, are used, with the optimizer of its config or as
--config.optimizer.KEY=VALUE says. Without it, the parameters are fresh.

  analysis.json   all numbers
  updates.png     norms of the updates, with and without feedback
  spectra.png     eigenvalues of the value Hessian at each stage
  gains.png       feedback gains of each stage
  results.md      the stages, and the pairs of classes
  pairs.png       of the same convolutions: the three leading eigenvectors on
                  the network's input, and the two classes of test samples that
                  are farthest apart along each (see ``class_pairs``)
  feedback.png    of each convolution with a stage before it: the leading
                  eigenvector of the mean over samples of S P P^T at its input
                  (root mean square over channels), and below its projection
                  on the network's input, J^T v, mean over samples
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

import gtddp_jax as gt
from configs import held
from configs.schema import Config, Key, Section
from experiments import refusals
from experiments.data import preprocessing, splits
from experiments.optimizers import registry
from experiments.report import tables
from experiments.runs import cli, run_folder
from experiments.studies import trainings
from experiments.studies.anatomy import class_pairs, figures
from experiments.training import earlier, loop, programs

SECTION: Section = {
  'run': Key(None, 'folder of a training; None: fresh parameters', kind=str)
}
FILES = (
  'analysis.json',
  'updates.png',
  'spectra.png',
  'gains.png',
  'feedback.png',
  'pairs.png',
)

_LOSS = gt.losses.softmax_cross_entropy
_TESTED = 1000  # test samples that are projected at once
_PAIRS = (
  'The two classes whose test samples are farthest apart along each leading '
  'eigenvector at the input of a convolution (the first thousand samples; '
  "batch statistics are their own). d′: difference of the classes' means over "
  'the root of the mean of their variances. Chance: the largest d′ over all '
  'pairs that 95 % of shuffled labels stay below.'
)
_STAGES = (
  'Update: its norm, with and without feedback. Feedback: norm of the '
  'difference of these two updates, in % of that without. λ₁: largest '
  'eigenvalue of the value Hessian f_xᵀ V_xx f_x over the states before the '
  'stage, in nats per squared unit of the state: how much the expected loss '
  'bends where it bends most. Gain: Frobenius norm of the part of K = -Q_uu⁻¹ '
  'Q_ux that belongs to a sample: how far the update moves, at most, per unit '
  'that the state of this sample has moved. The first stage has no state '
  'before it, and no feedback.'
)


def work(config: Config, folder: run_folder.RunFolder) -> None:
  """Analyses and fills the folder."""
  source = config.anatomy.run
  analyse(config, folder, None if source is None else pathlib.Path(source))


def analyse(
  config: Config,
  folder: run_folder.RunFolder,
  source: pathlib.Path | None = None,
) -> list[gt.analysis.Decision]:
  """Analyses a step, fills a folder, and returns the stages.

  Args:
    config: validated; says what step to take.
    folder: new.
    source: the folder of a training with the same network; None for fresh
      parameters.

  Raises:
    ConfigError: for a base without ``Q_uu``, or a folder without checkpoint.
    CheckpointError: if the last checkpoint is damaged.
  """
  trainings.check_explicit(
    registry.base_name(config.optimizer),
    'choose one with --config.optimizer.name=gt_ddp',
  )
  dataset = splits.from_config(config.dataset)
  network = programs.build_network(config, dataset)
  at = _position(config, network, dataset, source)
  found = _taken_apart(config, network, dataset, at)
  separated = _separated(network, dataset, at, found)
  _write(folder, found, source, at.step)
  figures.pairs(folder.file('pairs.png'), found, separated)
  rate = config.optimizer.base.learning_rate  # a schedule may have ended at 0
  samples = len(found[0].gains)
  caption = f'Step {at.step + 1}, {samples} samples, learning rate {rate:g}.'
  text = tables.markdown(_columns(found), f'{caption} {_STAGES}')
  if separated:
    columns = _pair_columns(found, separated)
    text += '\n' + tables.markdown(columns, _PAIRS)
  folder.write_report(text, [config.seed], _short(found))
  tables.show(_columns(found), caption)
  return found


def _taken_apart(
  config: Config,
  network: programs.Network,
  dataset: splits.Dataset,
  at: loop.Position,
) -> list[gt.analysis.Decision]:
  """The step from a position, as NumPy's arrays."""
  samples = splits.batch(dataset.train, config.batch_size, config.seed, at.step)
  images = preprocessing.prepare(samples.images, dataset.scale)
  base = registry.unscheduled_base(config.optimizer)
  options = registry.options(config.optimizer)

  @jax.jit
  def stages(params: Any, state: Any, batch: Any) -> Any:
    return gt.analysis.stages(
      network.graph, _LOSS, params, batch, state, base=base, **options
    )

  found: list[gt.analysis.Decision] = jax.device_get(
    stages(at.params, at.state, (images, samples.labels))
  )
  return found


def _separated(
  network: programs.Network,
  dataset: splits.Dataset,
  at: loop.Position,
  found: Sequence[gt.analysis.Decision],
) -> dict[int, list[class_pairs.Pair]]:
  """By stage, the classes that each eigenvector separates in the test split."""
  if not any(d.eigenvectors is not None for d in found[1:]):
    return {}
  images = preprocessing.prepare(dataset.test.images[:_TESTED], dataset.scale)

  @jax.jit
  def project(params: Any, state: Any, images: Any) -> Any:
    return gt.analysis.projections(
      network.graph, params, images, found, gt.collections(state)
    )

  values = jax.device_get(project(at.params, at.state, images))
  labels = dataset.test.labels[:_TESTED]
  return {
    n: [class_pairs.best(column, labels) for column in rows.T]
    for n, rows in enumerate(values)
    if n and rows is not None
  }


def _write(
  folder: run_folder.RunFolder,
  found: Sequence[gt.analysis.Decision],
  source: pathlib.Path | None,
  step: int,
) -> None:
  """The files of the folder."""
  folder.write_json(
    'analysis.json',
    {
      'run': None if source is None else str(source),
      'step': step,
      'samples': len(found[0].gains),
      'stages': [_numbers(decision) for decision in found],
    },
  )
  for draw in (
    figures.updates,
    figures.spectra,
    figures.gains,
    figures.feedback,
  ):
    draw(folder.file(f'{draw.__name__}.png'), found)


def _short(found: Sequence[gt.analysis.Decision]) -> list[str]:
  """How much feedback does, in a sentence."""
  shares = [100 * figures.share(decision) for decision in found[1:]]
  return (
    [
      f'In this step feedback changes the update of a stage by '
      f'{min(shares):.2g} to {max(shares):.2g} %.'
    ]
    if shares
    else []
  )


def _position(
  config: Config,
  network: programs.Network,
  dataset: splits.Dataset,
  source: pathlib.Path | None,
) -> loop.Position:
  """The last checkpoint of a run, or fresh parameters; on one device."""
  if source is None:
    params = network.init(config.seed)
    return loop.Position(params, _fresh(config, network, dataset, params))
  own = held.get_config(str(source / 'config.json'))
  found = earlier.last_position(source, own, network, dataset)
  if found is None:
    raise _without_checkpoint(source)
  if _base(own) != _base(config):
    state = _fresh(config, network, dataset, found.params)
    return found._replace(state=state)
  return found


def _fresh(
  config: Config,
  network: programs.Network,
  dataset: splits.Dataset,
  params: Any,
) -> Any:
  """The state of a config's optimizer before its first step."""
  steps = programs.step_count(config, dataset)
  tx = registry.build(config.optimizer, network.graph, _LOSS, steps)
  return tx.init(params)


def _base(config: Config) -> tuple[Any, ...]:
  """What the state of an optimizer depends on."""
  section = config.optimizer
  name = registry.base_name(section)
  return name, section.base.to_dict() | {'name': name}, section.cooperation


def _without_checkpoint(source: pathlib.Path | str) -> refusals.ConfigError:
  return refusals.ConfigError(
    '--run',
    'the folder of a training with config.json and a checkpoint',
    source,
    'give the --workdir of experiments.train',
  )


def _numbers(decision: gt.analysis.Decision) -> dict[str, Any]:
  """A stage for JSON; images stay pictures."""
  return {
    'name': decision.name,
    'kind': decision.kind,
    'update_norm': float(decision.update),
    'open_update_norm': float(decision.open_update),
    'feedback_norm': float(decision.feedback),
    'feedback_share': figures.share(decision),
    'curvature_eigenvalues': np.asarray(decision.curvature).tolist(),
    'value_eigenvalues': np.asarray(decision.spectrum).tolist(),
    'gain_norms': np.asarray(decision.gains).tolist(),
  }


def _pair_columns(
  found: Sequence[gt.analysis.Decision],
  separated: Mapping[int, Sequence[class_pairs.Pair]],
) -> list[tables.Column]:
  rows = [
    (found[n].name, number, pair)
    for n, own in separated.items()
    for number, pair in enumerate(own, start=1)
  ]
  return tables.columns(
    rows,
    ('stage', '', lambda row: row[0]),
    ('eigenvector', '', lambda row: str(row[1])),
    ('classes', '', lambda row: row[2].text()),
    ('d′', '', lambda row: f'{row[2].distance:.2f}'),
    ('chance', '', lambda row: f'{row[2].chance:.2f}'),
  )


def _columns(found: Sequence[gt.analysis.Decision]) -> list[tables.Column]:
  def cell(of: Callable[[gt.analysis.Decision], Any]) -> Callable[[Any], str]:
    return lambda decision: tables.number(of(decision), '.2e')

  def later(cell: Callable[[Any], str]) -> Callable[[Any], str]:
    """The first stage has no state before it."""
    return lambda decision: '-' if decision is found[0] else cell(decision)

  return tables.columns(
    found,
    ('stage', '', lambda decision: decision.name),
    ('update', '', cell(lambda d: d.update)),
    ('without feedback', '', cell(lambda d: d.open_update)),
    ('feedback', '%', later(lambda d: _percent(100 * figures.share(d)))),
    ('λ₁', '', later(cell(lambda d: d.spectrum[0]))),
    ('median gain', '', later(cell(lambda d: np.median(d.gains)))),
    ('largest gain', '', later(cell(lambda d: d.gains.max()))),
  )


def _percent(share: float) -> str:
  return '< 0.01' if share < 0.01 else tables.number(share, '.2f')


def arguments(argv: Sequence[str]) -> list[str]:
  """Returns a command line with the config of its --run, if it has one.

  Raises ConfigError if --run is not the folder of a training.
  """
  words = iter(argv)
  found = [next(words)]
  for word in words:
    flag, equals, value = word.partition('=')
    if flag.lstrip('-') != 'run' or flag == 'run':
      found.append(word)
      continue
    source = value if equals else next(words, '')
    config = pathlib.Path(source) / 'config.json'
    if not source or not config.is_file():
      raise _without_checkpoint(source or "''")
    found.insert(1, f'--config=configs/held.py:{config}')
    found.append(f'--config.anatomy.run={source}')
  return found


COMMAND = cli.Command(
  'studies.anatomy',
  work,
  SECTION,
  files=FILES,
)


def main() -> None:
  """Does what the command line says."""
  with cli.refusing():
    argv = arguments(sys.argv)
  cli.launch(COMMAND, argv)
