"""Every key of an experiment, with its default, meaning, unit and readers.

The other configurations change values and add no key, so this is the whole
list, but for the section of its own that a study brings. A key is changed on
the command line by its path:

  python -m experiments.train --config=configs/digits.py --config.seed=1
"""

from __future__ import annotations

from configs import schema, sweeps
from configs.schema import Config, Key, Section

BASES = ('sgd', 'rmsprop', 'adam', 'kfac', 'ekfac', 'adamw', 'lion', 'muon')
NORMS = ('none', 'layer', 'group', 'batch')
DIAGONALS = ('none', 'sgd', 'rmsprop', 'adam')
_KRONECKER = ('kfac', 'ekfac')
_ADAMS = ('adam', 'adamw')

DATASET: Section = {
  'name': Key(
    'digits',
    'digits needs no files; the others are made by `experiments.prepare`',
    schema.one_of(
      'digits', 'mnist', 'fashion_mnist', 'svhn_cropped', 'cifar10', 'cifar100'
    ),
  ),
  'data_dir': Key(
    None,
    'folder of the prepared sets; None for that of tensorflow-datasets: the '
    'environment variable TFDS_DATA_DIR, or else ~/tensorflow_datasets',
    kind=str,
  ),
  'train_samples': Key(
    None,
    'how many samples make the training split, from the first on; None: all',
    schema.whole(1),
    kind=int,
  ),
  'test_samples': Key(
    None,
    'how many samples of the test split are evaluated, as above',
    schema.whole(1),
    kind=int,
  ),
  'scaling': Key(
    'standard',
    'unit: pixels from 0 to 1; standard: each channel with mean 0 and standard '
    'deviation 1 over the training split',
    schema.one_of('unit', 'standard'),
  ),
  'augment': Key(
    False,
    'shift training images by up to 4 pixels (digits: 1, fashion_mnist: 0) '
    'along each axis and, for cifar10, cifar100 and fashion_mnist, mirror them '
    'or not',
  ),
}

MODEL: Section = {
  'name': Key(
    'resnet',
    'the network; the second word after --config=FILE:BASE,NETWORK sets a '
    'published size',
    schema.one_of(
      'resnet', 'resnet18', 'resnet34', 'resnet50', 'cgb', 'mlp', 'vit', 'mixer'
    ),
  ),
  'widths': Key(
    (32,),
    'resnet: channels of each block; the stem has the width of the first, and '
    'where the width changes, the block halves the image and its shortcut is a '
    'projection. resnet18, 34, 50: channels of the four stages, the last three '
    'of which halve the image. cgb: channels of each convolutional block, all '
    'but the first of which halve the image. mlp: units of each hidden layer. '
    'vit, mixer: one number, the features of a token',
    schema.SIZES,
  ),
  'activation': Key(
    'relu', 'of every layer', schema.one_of('relu', 'tanh', 'gelu')
  ),
  'compute_dtype': Key(
    'float32',
    'of activations; parameters stay float32',
    schema.one_of('float32', 'bfloat16'),
  ),
  'norm': Key(
    'none',
    'normalization: layer (over features), group (over places and groups of '
    'features) or batch (over places and samples: it alone mixes samples)',
    schema.one_of(*NORMS),
  ),
  'groups': Key(8, 'groups of features', schema.whole(1), ('norm group',)),
  'decay': Key(
    0.9, 'of the running statistics, per step', schema.FRACTION, ('norm batch',)
  ),
  'projection': Key(
    'merge',
    'whether a block computes the projection of its shortcut after (merge) or '
    'before (fork) its main path, and so where its parameters are a control',
    schema.one_of('merge', 'fork'),
    ('resnet', 'resnet18', 'resnet34'),
  ),
  'units': Key(64, 'of the fully connected block', schema.whole(1), ('cgb',)),
  'kernels': Key(
    (3, 3), 'pixels, of the one and the other player', schema.SIZES, ('cgb',)
  ),
  'depth': Key(4, 'blocks', schema.whole(1), ('vit', 'mixer')),
  'heads': Key(4, 'of the attention', schema.whole(1), ('vit',)),
  'patch': Key(
    4,
    'pixels along each side of a patch',
    schema.whole(1),
    ('vit', 'mixer'),
  ),
}

BASE: Section = {
  'name': Key(
    'adam',
    'what gt_ddp is built on; a base alone is named by optimizer.name',
    schema.one_of(*BASES),
  ),
  'learning_rate': Key(0.002, 'per step', schema.POSITIVE),
  'momentum': Key(
    0.0,
    'decay, 0 for none',
    schema.FRACTION,
    ('sgd', 'rmsprop', *_KRONECKER),
  ),
  'nesterov': Key(False, "Nesterov's momentum", None, ('sgd', 'rmsprop')),
  'decay': Key(0.9, 'of the second moment', schema.FRACTION, ('rmsprop',)),
  'b1': Key(0.9, 'decay of the first moment', schema.FRACTION, _ADAMS),
  'b2': Key(0.999, 'decay of the second moment', schema.FRACTION, _ADAMS),
  'eps': Key(
    1e-8, 'added to the curvature', schema.POSITIVE, ('rmsprop', *_ADAMS)
  ),
  'weight_decay': Key(
    1e-4,
    'per unit of learning rate',
    schema.FROM_ZERO,
    ('adamw', 'lion', 'muon'),
  ),
  'damping': Key(0.01, 'added to the curvature', schema.POSITIVE, _KRONECKER),
  'norm_constraint': Key(
    None,
    'bound on the squared length of a step in the curvature; None for none',
    schema.POSITIVE,
    _KRONECKER,
    float,
  ),
  'diagonal': Key(
    'adam',
    'what controls without a Kronecker rule (scales of norms) take, at a '
    'learning rate of its own, which no schedule changes; none: they are '
    'refused',
    schema.one_of(*DIAGONALS),
    _KRONECKER,
  ),
  'diagonal_rate': Key(0.002, 'per step', schema.POSITIVE, _KRONECKER),
  'statistics_decay': Key(
    0.95, 'of running averages, per renewal', schema.FRACTION, _KRONECKER
  ),
  'statistics_every': Key(
    10, 'steps between renewals of the factors', schema.whole(1), _KRONECKER
  ),
  'basis_every': Key(
    50, 'steps between renewals of eigenvectors', schema.whole(1), _KRONECKER
  ),
  'source': Key(
    'slope',
    'of the second factor: d or S of the terminal cost expansion',
    schema.one_of('slope', 'curvature'),
    _KRONECKER,
  ),
  'positions': Key(
    'expand',
    'pixels or tokens as rows of their own, or averaged',
    schema.one_of('expand', 'reduce'),
    _KRONECKER,
  ),
  'largest': Key(
    4096,
    'rows; larger factors keep their diagonal',
    schema.whole(1),
    _KRONECKER,
  ),
}

SCHEDULE: Section = {
  'name': Key(
    'constant',
    'cosine: falls from the first update to the last; warmup_cosine: rises '
    'from 0 before; piecewise: falls at once',
    schema.one_of('constant', 'cosine', 'warmup_cosine', 'piecewise'),
  ),
  'warmup': Key(
    0.05,
    'part of the run in which it rises',
    schema.FRACTION,
    ('warmup_cosine',),
  ),
  'final': Key(
    0.0,
    'at the end, in units of base.learning_rate',
    schema.FROM_ZERO,
    ('cosine', 'warmup_cosine'),
  ),
  'boundaries': Key(
    (0.5, 0.75),
    'parts of the run',
    schema.rising('between 0 and 1', lambda v: 0 < v < 1),
    ('piecewise',),
  ),
  'factor': Key(
    0.1, 'of the rate at each boundary', schema.POSITIVE, ('piecewise',)
  ),
}

OPTIMIZER: Section = {
  'name': Key(
    'adam', 'gt_ddp, or a base alone', schema.one_of(*BASES, 'gt_ddp')
  ),
  'base': BASE,
  'schedule': SCHEDULE,
  'accumulate': Key(
    1,
    'batches per update; their gradients are averaged, feedback is of the last',
    schema.whole(1),
  ),
  # Only gt_ddp reads what follows.
  'terminal': Key(
    'gradient',
    'terminal cost expansion',
    schema.one_of('gradient', 'gauss_newton'),
  ),
  'value': Key(
    'frozen', 'value recursion', schema.one_of('frozen', 'bellman', 'coupled')
  ),
  'cooperation': Key(
    'none',
    'joint update of layers that meet in one add',
    schema.one_of('none', 'kronecker', 'schur'),
  ),
  'feedback': Key(True, 'false: the step of the base alone'),
  'trust_region': Key(
    None,
    "largest feedback weight of a sample, in units of the batch's root mean "
    'square open-loop weight; None for no bound',
    schema.POSITIVE,
    kind=float,
  ),
}

SCHEMA: Section = {
  'seed': Key(
    0,
    'of the initial parameters, the order of the samples and augmentation',
    schema.whole(0, 2**31 - 1),
  ),
  'batch_size': Key(64, 'samples per step', schema.whole(1)),
  'devices': Key(
    1,
    'how many devices share every batch; 0 for all (in all processes); a '
    'divisor of the batch size',
    schema.whole(0),
  ),
  'epochs': Key(20, 'passes over the training split', schema.whole(1)),
  'log_every': Key(23, 'steps between lines of metrics.jsonl', schema.whole(1)),
  'eval_every': Key(
    46,
    'steps between evaluations; a multiple of log_every',
    schema.whole(1),
  ),
  'eval_batch_size': Key(
    2048, 'samples at once; does not change results', schema.whole(1)
  ),
  'checkpoint_seconds': Key(
    60.0,
    'least time between checkpoints of `experiments.train` (s); there is one '
    'also for the best so far, at the end, and where a signal stops the run',
    schema.FROM_ZERO,
  ),
  'start_from': Key(
    None,
    'folder of another run of this network, whose last checkpoint gives the '
    'initial parameters and batch statistics; `experiments.train`',
    kind=str,
  ),
  'dataset': DATASET,
  'model': MODEL,
  'optimizer': OPTIMIZER,
  # The usual learning rate of each base: what its name after the colon brings.
  'learning_rates': {
    base: Key(rate, f'the usual of {base}, per step', schema.POSITIVE)
    for base, rate in (
      ('sgd', 0.1),
      ('rmsprop', 0.001),
      ('adam', 0.002),
      ('adamw', 0.002),
      ('kfac', 0.03),
      ('ekfac', 0.01),
      ('lion', 0.0003),
      ('muon', 0.01),
    )
  },
}


def get_config(**studies: Section) -> Config:
  """Returns the defaults, with the sections that studies bring."""
  return schema.build({**SCHEMA, **studies})


def get_sweep() -> Config:
  """Returns the defaults of `experiments.sweep`: a config of configs."""
  return schema.build(sweeps.SCHEMA)


# Keys that had another name, as commands and files may still have them.
_RENAMED = {
  'compare.learning_rate': 'learning_rates',
  'compare.bases': 'methods.bases',
  'compare.seeds': 'methods.seeds',
  'compare.target': 'methods.target_accuracy',
  'levels': 'value_recursions',
  'methods.forms': 'methods.variants',
}


def renamed(path: str) -> str:
  """Returns the present name of a key, or of what it is in."""
  start = 'config.' * path.startswith('config.')
  for old, new in _RENAMED.items():
    if f'{path}.'.startswith(f'{start}{old}.'):
      return start + new + path.removeprefix(start + old)
  return path
