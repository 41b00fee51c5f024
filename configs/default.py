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
  config.seed = 0  # of the initial parameters and the order of the samples
  config.batch_size = 64  # samples per step
  config.epochs = 20  # passes over the training split
  config.log_every = 23  # steps between lines of metrics.jsonl
  config.eval_every = 46  # steps between evaluations; multiple of log_every
  config.eval_batch_size = 2048  # samples at once; does not change results
  config.dataset = _dataset()
  config.model = _model()
  config.optimizer = _optimizer()
  config.compare = _compare()
  return config


def _dataset() -> ml_collections.ConfigDict:
  dataset = ml_collections.ConfigDict()
  dataset.name = 'digits'
  # 'unit' (pixels from 0 to 1) or 'standard' (mean 0, standard deviation 1
  # over all pixels of the training split).
  dataset.scaling = 'standard'
  return dataset


def _model() -> ml_collections.ConfigDict:
  model = ml_collections.ConfigDict()
  model.name = 'resnet'  # 'resnet' or 'mlp'
  # One residual block (resnet) or hidden layer (mlp) each: channels or units.
  # The resnet's stem has the width of its first block; where the width
  # changes, the block halves the image and its shortcut is a projection.
  model.widths = (32,)
  model.activation = 'relu'  # 'relu' or 'tanh'
  model.norm = 'none'  # 'none' or 'layer' (over features; mixes no samples)
  return model


def _optimizer() -> ml_collections.ConfigDict:
  optimizer = ml_collections.ConfigDict()
  # 'gt_ddp', or a base alone: 'sgd', 'rmsprop', 'adam', 'adamw'.
  optimizer.name = 'adam'

  optimizer.base = ml_collections.ConfigDict()
  # What gt_ddp is built on, as above; a base alone is named by the line above.
  optimizer.base.name = 'adam'
  optimizer.base.learning_rate = 0.002  # per step
  optimizer.base.momentum = 0.0  # decay, 0 for none; sgd, rmsprop
  optimizer.base.nesterov = False  # sgd, rmsprop
  optimizer.base.decay = 0.9  # of the second moment; rmsprop
  optimizer.base.b1 = 0.9  # decay of the first moment; adam, adamw
  optimizer.base.b2 = 0.999  # decay of the second moment; adam, adamw
  optimizer.base.eps = 1e-8  # added to the curvature; rmsprop, adam, adamw
  optimizer.base.weight_decay = 1e-4  # per unit of learning rate; adamw

  # Only gt_ddp reads what follows.
  optimizer.terminal = 'gradient'  # 'gradient' or 'gauss_newton'
  optimizer.value = 'frozen'  # 'frozen', 'bellman' or 'coupled'
  optimizer.cooperation = 'none'  # 'none'
  optimizer.feedback = True  # False: the step of the base alone
  # Largest feedback weight of a sample, in units of the batch's root mean
  # square open-loop weight; None for no bound.
  optimizer.trust_region = config_dict.placeholder(float)
  return optimizer


def _compare() -> ml_collections.ConfigDict:
  """What `experiments.compare` runs: each base alone, then under gt_ddp."""
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
  return compare
