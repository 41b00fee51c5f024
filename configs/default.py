"""Every key of an experiment, with unit and meaning.

The other configurations change values and add no key, so this is the whole
list. A key is changed on the command line by its path:

  python -m experiments.train --config=configs/digits.py --config.seed=1
"""

from __future__ import annotations

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
  """Returns the defaults, from which the other configurations start."""
  config = ml_collections.ConfigDict()
  # Of the initial parameters, the order of the samples and their augmentation.
  config.seed = 0
  config.batch_size = 64  # samples per step
  # How many devices share every batch, a part of its samples each; 0 for all
  # (in all processes). A divisor of the batch size.
  config.devices = 1
  config.epochs = 20  # passes over the training split
  config.log_every = 23  # steps between lines of metrics.jsonl
  config.eval_every = 46  # steps between evaluations; multiple of log_every
  config.eval_batch_size = 2048  # samples at once; does not change results
  # Least time between checkpoints of `experiments.train` (s). There is one
  # also for the best so far, at the end, and where a signal stops the run.
  config.checkpoint_seconds = 60.0
  # Folder of another run of this network: its last checkpoint gives the initial
  # parameters and batch statistics; None for fresh ones. `experiments.train`.
  config.start_from = config_dict.placeholder(str)
  config.dataset = _dataset()
  config.model = _model()
  config.optimizer = _optimizer()
  for name, section in STUDIES.items():
    config[name] = section()
  return config


def _dataset() -> ml_collections.ConfigDict:
  dataset = ml_collections.ConfigDict()
  # 'digits' (needs nothing), or one that `experiments.prepare` has prepared:
  # 'mnist', 'fashion_mnist', 'svhn_cropped', 'cifar10', 'cifar100'.
  dataset.name = 'digits'
  # Folder of the prepared sets; None for that of tensorflow-datasets: the
  # environment variable TFDS_DATA_DIR, or else ~/tensorflow_datasets.
  dataset.data_dir = config_dict.placeholder(str)
  # How many samples make the training split, from the first on; None for all.
  dataset.train_samples = config_dict.placeholder(int)
  # How many samples of the test split are evaluated, as above.
  dataset.test_samples = config_dict.placeholder(int)
  # 'unit' (pixels from 0 to 1) or 'standard' (each channel with mean 0 and
  # standard deviation 1 over the training split).
  dataset.scaling = 'standard'
  # Training images are shifted by up to 4 pixels (digits: 1, fashion_mnist: 0)
  # along each axis and, for cifar10, cifar100 and fashion_mnist, mirrored or
  # not.
  dataset.augment = False
  return dataset


def _model() -> ml_collections.ConfigDict:
  model = ml_collections.ConfigDict()
  # 'resnet', 'resnet18', 'resnet34', 'resnet50', 'cgb', 'mlp', 'vit', 'mixer'.
  # The word after --config=FILE:BASE, sets a published size; see NETWORKS.
  model.name = 'resnet'
  # resnet: channels of each block. The stem has the width of the first; where
  # the width changes, the block halves the image and its shortcut is a
  # projection. resnet18, 34, 50: channels of the four stages, the last three of
  # which halve the image. cgb: channels of each convolutional block, all but
  # the first of which halve the image. mlp: units of each hidden layer.
  # vit, mixer: one number, the features of a token.
  model.widths = (32,)
  model.activation = 'relu'  # 'relu', 'tanh' or 'gelu'
  model.compute_dtype = 'float32'  # or 'bfloat16'; parameters stay float32
  # 'none', 'layer' (over features), 'group' (over places and groups of
  # features), or 'batch' (over places and samples: it alone mixes samples).
  model.norm = 'none'
  model.groups = 8  # groups of features; norm 'group'
  model.decay = 0.9  # of the running statistics, per step; norm 'batch'
  # 'merge' or 'fork': whether a block computes the projection of its shortcut
  # after or before its main path, and so where its parameters are decided;
  # resnet, resnet18, resnet34.
  model.projection = 'merge'
  model.units = 64  # of the fully connected block; cgb
  model.kernels = (3, 3)  # pixels, of the one and the other player; cgb
  model.depth = 4  # blocks; vit, mixer
  model.heads = 4  # of the attention; vit
  model.patch = 4  # pixels along each side of a patch; vit, mixer
  return model


def _optimizer() -> ml_collections.ConfigDict:
  optimizer = ml_collections.ConfigDict()
  # 'gt_ddp', or a base alone: 'sgd', 'rmsprop', 'adam', 'kfac', 'ekfac',
  # 'adamw', 'lion', 'muon'.
  optimizer.name = 'adam'

  optimizer.base = ml_collections.ConfigDict()
  # What gt_ddp is built on, as above; a base alone is named by the line above.
  optimizer.base.name = 'adam'
  optimizer.base.learning_rate = 0.002  # per step
  optimizer.base.momentum = 0.0  # decay, 0 for none; sgd, rmsprop, (e)kfac
  optimizer.base.nesterov = False  # sgd, rmsprop
  optimizer.base.decay = 0.9  # of the second moment; rmsprop
  optimizer.base.b1 = 0.9  # decay of the first moment; adam, adamw
  optimizer.base.b2 = 0.999  # decay of the second moment; adam, adamw
  optimizer.base.eps = 1e-8  # added to the curvature; rmsprop, adam, adamw
  # Per unit of learning rate; adamw, lion, muon.
  optimizer.base.weight_decay = 1e-4

  # Only kfac and ekfac read these.
  optimizer.base.damping = 0.01  # added to the curvature
  # Bound on the squared length of a step in the curvature; None for none.
  optimizer.base.norm_constraint = config_dict.placeholder(float)
  # What controls without a Kronecker rule (scales of norms) take: 'none' (they
  # are refused), 'sgd', 'rmsprop' or 'adam', at a rate of its own, which no
  # schedule changes.
  optimizer.base.diagonal = 'adam'
  optimizer.base.diagonal_rate = 0.002  # per step
  optimizer.base.statistics_decay = 0.95  # of running averages, per renewal
  optimizer.base.statistics_every = 10  # steps between renewals of the factors
  optimizer.base.basis_every = 50  # steps between renewals of eigenvectors
  optimizer.base.source = 'slope'  # or 'curvature', of the terminal
  optimizer.base.positions = 'expand'  # or 'reduce', over pixels or tokens
  optimizer.base.largest = 4096  # rows; larger factors keep their diagonal

  optimizer.schedule = _schedule()
  # Batches per update. Their gradients are averaged; feedback is of the last.
  optimizer.accumulate = 1

  # Only gt_ddp reads what follows.
  optimizer.terminal = 'gradient'  # 'gradient' or 'gauss_newton'
  optimizer.value = 'frozen'  # 'frozen', 'bellman' or 'coupled'
  # 'none', 'kronecker' or 'schur': how layers that meet in one add decide.
  optimizer.cooperation = 'none'
  optimizer.feedback = True  # False: the step of the base alone
  # Largest feedback weight of a sample, in units of the batch's root mean
  # square open-loop weight; None for no bound.
  optimizer.trust_region = config_dict.placeholder(float)
  return optimizer


def _schedule() -> ml_collections.ConfigDict:
  """How the learning rate changes from update to update."""
  schedule = ml_collections.ConfigDict()
  # 'constant'; 'cosine' (falls from the first update to the last);
  # 'warmup_cosine' (rises from 0 before); 'piecewise' (falls at once).
  schedule.name = 'constant'
  schedule.warmup = 0.05  # part of the run in which it rises; warmup_cosine
  # At the end, in units of base.learning_rate; cosine, warmup_cosine.
  schedule.final = 0.0
  schedule.boundaries = (0.5, 0.75)  # parts of the run; piecewise
  schedule.factor = 0.1  # of the rate at each boundary; piecewise
  return schedule


def _compare() -> ml_collections.ConfigDict:
  """What `studies.compare` runs: each base alone, then under gt_ddp."""
  compare = ml_collections.ConfigDict()
  compare.bases = ('sgd', 'rmsprop', 'adam')
  compare.seeds = (0, 1, 2)
  compare.target = 0.97  # test accuracy (0 to 1) whose first step is reported
  # Both members of a pair use the rate of their base, in place of
  # optimizer.base.learning_rate.
  compare.learning_rate = ml_collections.ConfigDict()
  compare.learning_rate.sgd = 0.1
  compare.learning_rate.rmsprop = 0.001
  compare.learning_rate.adam = 0.002
  compare.learning_rate.adamw = 0.002
  compare.learning_rate.kfac = 0.03
  compare.learning_rate.ekfac = 0.01
  compare.learning_rate.lion = 0.0003
  compare.learning_rate.muon = 0.01
  return compare


def _value_recursions() -> ml_collections.ConfigDict:
  """What `studies.value_recursions` runs: every form, at every rate."""
  recursions = ml_collections.ConfigDict()
  recursions.seeds = (0, 1, 2, 3, 4)
  # Per step; of the base, in place of optimizer.base.learning_rate.
  recursions.rates = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
  recursions.target_loss = 0.1  # nats; smoothed train loss to reach
  return recursions


def _games() -> ml_collections.ConfigDict:
  """What `studies.games` runs: every form at every rate and damping."""
  games = ml_collections.ConfigDict()
  games.seeds = (0, 1, 2, 3, 4)
  games.rates = (0.003, 0.01, 0.03, 0.1)  # per step
  games.dampings = (0.001, 0.01, 0.1)  # added to the curvature
  games.target_loss = 0.1  # nats; smoothed train loss to reach
  return games


def _scaling() -> ml_collections.ConfigDict:
  """What `studies.scaling` measures: every form at every batch size."""
  scaling = ml_collections.ConfigDict()
  # 'mlp' (64-32-32-10) or 'resnet' (28x28x1, 16 and 32 channels).
  scaling.network = 'mlp'
  scaling.batches = (32, 64, 128, 256, 512, 1024)  # samples per step
  scaling.rounds = 5  # of timed steps; the median counts
  scaling.most_memory = 8.0  # of a compiled step (GB); above, it is not run
  return scaling


def _benchmark() -> ml_collections.ConfigDict:
  """What `studies.benchmark` measures: every form of one base."""
  benchmark = ml_collections.ConfigDict()
  benchmark.base = 'sgd'  # or 'rmsprop', 'adam', 'kfac', 'ekfac'
  benchmark.batch = 128  # samples per step
  benchmark.rounds = 15  # timed steps of each form; from 3
  benchmark.rate = 0.01  # learning rate, per step
  benchmark.every = 50  # steps between renewals of the curvature; kfac, ekfac
  return benchmark


def _blocks() -> ml_collections.ConfigDict:
  """What `studies.blocks` runs: each normalisation on each seed."""
  blocks = ml_collections.ConfigDict()
  blocks.seeds = (0, 1, 2)
  # In place of model.norm: 'none', 'layer', 'group' or 'batch'.
  blocks.norms = ('none', 'batch', 'group')
  # After which epochs of the training the value Hessian is looked at; rising,
  # 0 for fresh parameters, up to config.epochs.
  blocks.epochs = (0, 1, 10)
  blocks.samples = 16  # in a batch that is looked at; from 2
  blocks.batches = 2  # how many batches, each time
  return blocks


def _placement() -> ml_collections.ConfigDict:
  """What `studies.placement` runs: every form at both places."""
  placement = ml_collections.ConfigDict()
  placement.seeds = (0, 1, 2, 3, 4)
  placement.rates = (0.01, 0.03, 0.1)  # per step; the same at both places
  placement.target_loss = 0.1  # nats; smoothed train loss to reach
  return placement


def _methods() -> ml_collections.ConfigDict:
  """What `studies.methods` runs: each base alone and under gt_ddp."""
  methods = ml_collections.ConfigDict()
  methods.seeds = tuple(range(10))
  # Those without an explicit curvature (adamw, lion, muon) run alone.
  methods.bases = (
    'sgd', 'rmsprop', 'adam', 'ekfac', 'adamw', 'lion', 'muon',
  )  # fmt: skip
  # 'frozen', 'bellman', 'coupled' (terminal 'gradient', trust region 0.3), and
  # 'gauss_newton' (that terminal, frozen; exact).
  methods.forms = ('frozen', 'bellman', 'coupled', 'gauss_newton')
  methods.target_loss = 0.1  # nats; smoothed train loss to reach
  # Per step, of every form of the base, in place of
  # optimizer.base.learning_rate. As many for each base: what tuning may cost.
  methods.rates = ml_collections.ConfigDict()
  methods.rates.sgd = (0.03, 0.1, 0.3)
  methods.rates.rmsprop = (0.0005, 0.0015, 0.005)
  methods.rates.adam = (0.001, 0.003, 0.01)
  methods.rates.adamw = (0.001, 0.003, 0.01)
  methods.rates.kfac = (0.01, 0.03, 0.1)
  methods.rates.ekfac = (0.001, 0.003, 0.01)
  methods.rates.lion = (0.0001, 0.0003, 0.001)
  methods.rates.muon = (0.003, 0.01, 0.03)
  return methods


# Sections that one command alone reads: `experiments.NAME`.
STUDIES = {
  'compare': _compare,
  'value_recursions': _value_recursions,
  'games': _games,
  'scaling': _scaling,
  'benchmark': _benchmark,
  'blocks': _blocks,
  'placement': _placement,
  'methods': _methods,
}


def get_sweep() -> ml_collections.ConfigDict:
  """Returns the defaults of `experiments.sweep`: a config of configs."""
  sweep = ml_collections.ConfigDict()
  # Configuration of every run, as after --config of `experiments.train`.
  sweep.config = 'configs/digits.py:adam'
  # Keys with the same value in every run: ((key, value), ...).
  sweep.fixed = ()
  # Axes that are tried in all combinations: ((key, (value, ...)), ...). Keys
  # that change together are a tuple, and each of their values one, too. The
  # key 'config' stands for the configuration of the run.
  sweep.grid = ()
  # Axes to draw from: ((key, kind, low, high), ...); kind is 'log', 'linear' or
  # 'integer'. Each draw is tried with every combination of the grid.
  sweep.random = ()
  sweep.draws = 0  # how many; more of them leave the earlier ones as they are
  sweep.draw_seed = 0
  sweep.seeds = (0, 1, 2)  # values of the key `seed`: the last axis
  sweep.workers = 1  # runs at once, each a process with its part of the CPUs
  # Columns of the table; names as in sweeps/outcomes.py.
  sweep.metrics = ('test_accuracy', 'train_loss', 'seconds_per_step')
  sweep.plot = ml_collections.ConfigDict()
  sweep.plot.metric = 'test_accuracy'
  # Axes, by the last word of their key (more of it where two end alike); '' for
  # the next one that is free. The median is over those left, and the seeds.
  sweep.plot.x = ''
  sweep.plot.lines = ''
  sweep.plot.panels = ''
  return sweep
