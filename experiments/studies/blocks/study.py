r"""What the block-diagonal approximation drops: the paper's Fig. 4.

  python -m experiments.studies.blocks --config=configs/digits.py \
    --workdir=runs/b

Trains the network of a config with each normalization of ``config.blocks`` on
each of its seeds, by ``config.optimizer``. After each of its epochs it solves,
for a few batches and both terminals, the exact problem of a step of the base
over the whole batch as one state (``gtddp_jax.augmented``), and measures

  mass     of the true V_XX before a layer: squared Frobenius norm of the blocks
           V_{x_i x_j} with i != j, over that of all blocks (%)
  dropped  how far the update moves if every stage hands on a value function
           whose S has no blocks between samples: norm of the difference over
           the norm of the exact update (%). With batch normalization this keeps
           what goes from sample to sample through the batch's statistics
  coupled  how far the update of value='coupled' is from the exact one (%): zero
           up to rounding but for batch statistics, through which its weights
           stay per sample

Files: results.md, result.json, blocks.png (heat maps of the first seed's first
batch after the last epoch, gauss_newton) and masses.png (masses by layer).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import gtddp_jax as gt
from configs import default, schema
from configs.schema import Config, Key, Section
from experiments import refusals
from experiments.data import catalog, preprocessing, splits
from experiments.optimizers import registry
from experiments.report import tables
from experiments.runs import cli, progress, run_folder, validation
from experiments.studies import outcomes, trainings
from experiments.studies.blocks import figures, page
from experiments.training import loop, programs
from gtddp_jax import augmented

SECTION: Section = {
  'seeds': Key((0, 1, 2), 'of the trainings', schema.SEEDS),
  'norms': Key(
    ('none', 'batch', 'group'),
    'in place of model.norm',
    schema.some_of(*default.NORMS),
  ),
  'epochs': Key(
    (0, 1, 10),
    'after which epochs of the training the value Hessian is looked at; 0 '
    'for fresh parameters; up to config.epochs',
    schema.rising('from 0', lambda v: v >= 0),
  ),
  'samples': Key(16, 'in a batch that is looked at', schema.whole(2)),
  'batches': Key(2, 'how many batches, each time', schema.whole(1)),
}
FILES = ('blocks.png', 'masses.png')

Row = outcomes.Row
_LOSS = gt.losses.softmax_cross_entropy
_APART = 2**20  # from the seeds of trainings to those of batches looked at
_BASES = ('sgd', 'rmsprop', 'adam')  # with a diagonal M / eta


def work(config: Config, folder: run_folder.RunFolder) -> None:
  """Runs what is left of the study and prints the table."""
  check(config)
  dataset = splits.from_config(config.dataset)
  section, rows = config.blocks, folder.rows()
  done = {(row['norm'], row['seed']) for row in rows}
  steps = _step(config, dataset, section.epochs[-1])
  runs_left = len(section.norms) * len(section.seeds) - len(done)
  with progress.bar(runs_left * steps) as bar:
    for norm in section.norms:
      seeds = [seed for seed in section.seeds if (norm, seed) not in done]
      if not seeds:
        continue
      trained = _Trained(with_norm(config, norm), dataset)
      for seed in seeds:
        row = {'norm': norm, 'seed': seed, **trained.run(seed, bar)}
        folder.log(row)
        rows.append(row)
  _conclude(config, folder, rows)


def check(config: Config) -> None:
  """Raises ConfigError for a base, or a key, that the study cannot use."""
  trainings.check(config)
  name = registry.base_name(config.optimizer)
  if name not in _BASES:
    raise refusals.ConfigError(
      'config.optimizer.base.name',
      f'one of {", ".join(_BASES)}, whose curvature is a diagonal',
      repr(name),
      'choose one after the colon of --config',
    )
  if config.model.compute_dtype != 'float32':
    raise refusals.ConfigError(
      'config.model.compute_dtype',
      "'float32', because masses are less than bfloat16 can tell",
      repr(config.model.compute_dtype),
      'leave it',
    )
  train = catalog.SPECS[config.dataset.name].train
  if config.blocks.samples > train:
    raise refusals.ConfigError(
      'config.blocks.samples',
      f'an integer from 2 to {train} (the training split)',
      config.blocks.samples,
      'lower it',
    )
  last = config.blocks.epochs[-1]
  if last > config.epochs:
    raise refusals.ConfigError(
      'config.blocks.epochs',
      f'numbers up to config.epochs ({config.epochs})',
      last,
      'lower them or raise config.epochs',
    )
  for norm in config.blocks.norms:
    validation.validate(with_norm(config, norm), {'blocks': SECTION})


def with_norm(config: Config, norm: str) -> Config:
  """Returns a copy of the config with one of ``default.NORMS``.

  What only another normalization reads is as by default.
  """
  made = Config(config.to_dict())
  reference = default.get_config().model
  made.model.norm = norm
  for key, reader in (('groups', 'group'), ('decay', 'batch')):
    if norm != reader:
      made.model[key] = reference[key]
  return made


def _step(config: Config, dataset: splits.Dataset, epoch: int) -> int:
  return round(epoch * dataset.train.size / config.batch_size)


class _Trained:
  """The trainings of one network, and the programs compiled for them."""

  def __init__(self, config: Config, dataset: splits.Dataset):
    cli.say(f'compiling, norm {config.model.norm}')
    self._config, self._dataset = config, dataset
    self._network = programs.build_network(config, dataset)
    self._program = programs.build(self._network, config, dataset)
    self._base = registry.base(config.optimizer, self._program.steps)
    self._solve = {
      terminal: self._compiled(terminal) for terminal in page.TERMINALS
    }

  def run(self, seed: int, bar: Any) -> Row:
    """Trains on one seed and looks at every moment."""
    config = self._config
    training = loop.Loop(self._program, config, self._dataset, seed)
    done, moments = 0, []
    for epoch in config.blocks.epochs:
      last = _step(config, self._dataset, epoch)
      training.advance(last)
      bar.update(last - done)
      done = last
      at = jax.device_get(training.position[:2])
      found = [
        {'epoch': epoch, 'batch': batch, 'terminal': terminal}
        | self._look(at, terminal, seed, batch)
        for terminal in reversed(page.TERMINALS)
        for batch in reversed(range(config.blocks.batches))
      ]
      moments += found
    # The maps of the last moment's first terminal and batch are drawn.
    layers, maps = found[-1]['layers'], found[-1]['maps']
    for moment in moments:
      del moment['maps'], moment['layers']
    return {'layers': layers, 'moments': moments, 'maps': maps}

  def _look(self, at: Any, terminal: str, seed: int, batch: int) -> Row:
    """What is measured at parameters and state on one batch."""
    samples = splits.batch(
      self._dataset.train, self._config.blocks.samples, _APART + seed, batch
    )
    images = preprocessing.prepare(samples.images, self._dataset.scale)
    found, dropped, coupled = jax.device_get(
      self._solve[terminal](*at, images, samples.labels)
    )
    shown = [t for t, kind in enumerate(found.kinds) if t and kind != 'generic']
    return {
      'layers': [found.names[t].removeprefix('params/') for t in shown],
      'maps': [found.blocks[t].tolist() for t in shown],
      'mass': [mass(found.blocks[t]) for t in shown],
      'dropped': float(dropped),
      'coupled': float(coupled),
    }

  def _compiled(self, terminal: str) -> Callable[..., Any]:
    graph = self._network.graph
    tx = gt.gt_ddp(graph, _LOSS, self._base, terminal, 'coupled')

    @jax.jit
    def solve(params: Any, state: Any, images: Any, labels: Any) -> Any:
      batch = images, labels
      found = augmented.solve(
        graph, _LOSS, params, batch, self._base, terminal, state
      )
      updates, _ = tx.update(None, state, params, batch=batch)
      return (
        found,
        _distance(found.alone, found.updates),
        _distance(updates, found.updates),
      )

    return solve


def mass(blocks: Any) -> float:
  """Returns the off-diagonal mass, 0 to 1, of norms of blocks, ``[B, B]``."""
  squares = np.square(np.asarray(blocks, np.float64))
  between = squares[~np.eye(len(squares), dtype=bool)].sum()
  return float(between / squares.sum()) if between else 0.0


def _conclude(
  config: Config,
  folder: run_folder.RunFolder,
  rows: list[Row],
) -> None:
  """Writes the tables and the figures."""
  norms, seeds = config.blocks.norms, config.blocks.seeds
  rows.sort(key=lambda r: (norms.index(r['norm']), seeds.index(r['seed'])))
  found = page.summaries(rows)
  folder.write_json('result.json', found)
  last = config.blocks.epochs[-1]
  standing = page.standings(found)
  caption = page.caption(config)
  second = f'Off-diagonal mass (%) before each layer after epoch {last}.'
  by_layer = page.by_layer([s for s in found if s['epoch'] == last])
  folder.write_tables(
    [(standing, caption), (by_layer, second)],
    seeds,
    page.short([s for s in found if s['epoch'] == last]),
  )
  figures.maps(
    folder.file('blocks.png'),
    [row for row in rows if row['seed'] == seeds[0]],
    f'Block norms of V_XX before each layer, {page.TERMINALS[0]}, epoch {last}',
  )
  figures.masses(folder.file('masses.png'), found)
  tables.show(standing, caption)


def _distance(one: Any, other: Any) -> jax.Array:
  """Norm of the difference over the norm of the other."""
  gap = jax.tree.map(lambda a, b: a - b, one, other)
  return _norm(gap) / _norm(other)


def _norm(tree: Any) -> jax.Array:
  return sum((leaf**2).sum() for leaf in jax.tree.leaves(tree)) ** 0.5


COMMAND = cli.Command(
  'studies.blocks',
  work,
  SECTION,
  check=check,
  files=FILES,
  unread=(*registry.OF_ONE_RUN, 'model.norm'),
  resumes=True,
)
