"""The plan of `scripts/reproduce`: what is run, and what of it is reported.

A part is one study with its own command; its key in ``budgets`` says what is
added to the command in that budget, and about how long it takes. A part without
a budget's key is not in that budget. Parts run in this order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from experiments import refusals

BUDGETS = {
  'small': 'CPU cores, in minutes: fewer seeds, rates and epochs',
  'accuracy': 'CPU cores, in minutes: long trainings of one GT-DDP variant',
  'extended': 'CPU cores, in minutes: learning rates; cooperation on MNIST',
  'full': 'a GPU, in hours: the settings of the paper, and all data sets',
}
DEFAULT = 'small'


class Budget(NamedTuple):
  """A part in one budget."""

  minutes: float  # that it took, about; for the progress, and the report's head
  arguments: tuple[str, ...] = ()  # of the command, after those of the part


class Part(NamedTuple):
  """One study."""

  name: str  # of its folder, its figures and in --only
  title: str  # of its section
  shows: str  # of what in the paper, in one sentence
  module: str  # of its command
  arguments: tuple[str, ...]  # of its command, in every budget
  budgets: Mapping[str, Budget]  # by name
  # of its run folder that go into the report, with what they show
  figures: Mapping[str, str]
  dataset: str = 'digits'  # that must have been prepared
  source: str = ''  # the part whose run folder it takes as --run; '' for none
  # whether the command goes on in a folder; else it starts again
  resumes: bool = True


_METHODS = {
  'curves.png': 'Train loss against steps',
  'variance.png': 'Spread over seeds, with and without GT-DDP',
  'targets.png': 'Steps and seconds to the target',
}
_CURVES = {'curves.png': 'Loss and error against epochs'}
_GAMES = {'games.png': 'Train loss of the variants over that of EKFAC'}
_TABLE = (
  'Table 2 and Fig. 6a, 6b, 8, and the time to a target: every base optimizer '
  'and its GT-DDP variants.'
)


def _keys(text: str) -> tuple[str, ...]:
  """The words of a command that set these keys of its config."""
  return tuple(f'--config.{word}' for word in text.split())


def _methods(name: str, title: str, config: str, **budgets: Budget) -> Part:
  """A row of Table 2."""
  return Part(
    f'methods-{name}',
    f'Methods on {title}',
    _TABLE,
    'experiments.studies.methods',
    (f'--config={config}',),
    budgets,
    _METHODS,
    name,
  )


def _accuracy(name: str, title: str, goal: str, **budgets: Budget) -> Part:
  """One long training of a GT-DDP variant."""
  short = name.removesuffix('_mnist')
  return Part(
    f'{short}-accuracy',
    f'Accuracy on {title}',
    f'One GT-DDP training; the goal is {goal} % of the test images.',
    'experiments.train',
    (
      f'--config=configs/{name}.py:adam',
      *_keys(
        'optimizer.name=gt_ddp dataset.augment=true '
        'optimizer.schedule.name=warmup_cosine '
        'optimizer.base.learning_rate=0.004 batch_size=64 log_every=134 '
        'eval_every=938'
      ),
    ),
    budgets,
    _CURVES,
    name,
  )


def _value_recursions(
  name: str, title: str, minutes: float, config: str, keys: str
) -> Part:
  """Every variant of SGD at every rate."""
  return Part(
    f'recursions-{name}',
    f'Learning rates on {title}',
    'Steps and seconds to a train loss, and the largest stable rate, of SGD '
    'alone, clipped, and with every value recursion and terminal cost '
    'expansion.',
    'experiments.studies.value_recursions',
    (f'--config={config}', *_keys(keys)),
    {'extended': Budget(minutes)},
    {'value_recursions.png': 'Train loss by variant and rate, and the target'},
    name,
  )


def _scaling(network: str, title: str, shows: str, small: Budget) -> Part:
  """Fig. 1."""
  return Part(
    f'scaling-{network}',
    f'Cost against the batch size, {title} network',
    shows,
    'experiments.studies.costs.scaling',
    _keys(f'scaling.network={network}'),
    {'small': small, 'full': Budget(15)},
    {'scaling.png': 'Time and memory of a step against the batch size'},
  )


PARTS = (
  _methods(
    'digits',
    'DIGITS',
    'configs/digits.py',
    small=Budget(13, _keys('epochs=4 log_every=15 methods.seeds=(0,1,2,3,4)')),
    full=Budget(60),
  ),
  Part(
    'variance-digits',
    'Spread over ten seeds on DIGITS',
    'Fig. 6b and 8: variance of the final loss over seeds, with and without '
    'GT-DDP, at one and at several rates.',
    'experiments.studies.methods',
    ('--config=configs/digits.py',),
    {
      'small': Budget(
        6,
        _keys(
          'epochs=4 log_every=15 methods.bases=("sgd","rmsprop","adam") '
          'methods.variants=("frozen","bellman")'
        ),
      ),
    },
    {'variance.png': 'Spread over seeds, with and without GT-DDP'},
  ),
  _methods(
    'mnist',
    'MNIST',
    'configs/mnist.py',
    # EKFAC decomposes a factor of 14 * 14 * 8 + 1 rows, which takes an eighth
    # of the time that it takes for the widths (8,16). The rates are around the
    # best of each base here.
    small=Budget(
      9,
      _keys(
        'dataset.train_samples=2000 dataset.test_samples=2000 '
        'model.widths=(4,8) batch_size=32 epochs=2 log_every=5 eval_every=125 '
        'methods.bases=("sgd","adam","ekfac") '
        'methods.variants=("frozen","bellman","coupled") '
        'methods.seeds=(0,1,2) methods.rates.sgd=(0.01,0.03,0.1) '
        'methods.rates.ekfac=(0.003,0.01,0.03) methods.target_loss=0.5'
      ),
    ),
    full=Budget(60),
  ),
  _methods('svhn_cropped', 'SVHN', 'configs/svhn.py', full=Budget(60)),
  _methods('cifar10', 'CIFAR-10', 'configs/cifar10.py', full=Budget(60)),
  _methods('cifar100', 'CIFAR-100', 'configs/cifar100.py', full=Budget(60)),
  _methods(
    'fashion_mnist',
    'Fashion-MNIST',
    'configs/fashion_mnist.py',
    full=Budget(60),
  ),
  *(
    Part(
      f'step-{base}',
      f'Time of a step with {title}',
      'Step time, compilation and memory of every variant beside the base '
      'alone, with the goals of this project, and the cost of reading a batch.',
      'experiments.studies.costs.benchmark',
      ('--config=configs/default.py', f'--config.benchmark.base={base}'),
      {
        'small': Budget(4, _keys('benchmark.rounds=25')),
        'full': Budget(5, _keys('benchmark.rounds=41')),
      },
      {'ratios.png': 'Time of a step over that of the base'},
    )
    for base, title in (('sgd', 'SGD'), ('ekfac', 'EKFAC'))
  ),
  _scaling(
    'mlp',
    'fully connected',
    'Fig. 1: time and memory of a step, beside batch-augmented DDP computed '
    'directly.',
    Budget(2, _keys('scaling.batches=(16,32,64,128) scaling.most_memory=3.0')),
  ),
  _scaling(
    'resnet',
    'residual',
    'Fig. 1 for convolutions: time and memory of a step. Batch-augmented DDP, '
    'computed directly, would need terabytes.',
    Budget(4, _keys('scaling.batches=(32,64,128,256) scaling.most_memory=3.0')),
  ),
  Part(
    'blocks',
    'Block structure of the value function',
    'Fig. 4: how much of the true batch-augmented Hessian lies outside its '
    'blocks, and what leaving that out changes.',
    'experiments.studies.blocks',
    ('--config=configs/digits.py:sgd',),
    {'small': Budget(2), 'full': Budget(10)},
    {
      'blocks.png': 'Magnitudes of the batch-augmented value Hessian',
      'masses.png': 'What lies outside the blocks, by layer',
    },
  ),
  *(
    Part(
      f'games-{activation}',
      f'Cooperative blocks with {title}',
      'Fig. 7b: EKFAC, GT-EKFAC and GT-DDP-EKFAC on the network of cooperative '
      'blocks.',
      'experiments.studies.games',
      (
        '--config=configs/cgb.py:ekfac',
        f'--config.model.activation={activation}',
      ),
      {
        'small': Budget(
          3,
          _keys(
            'model.widths=(8,16) model.units=32 epochs=4 log_every=15 '
            'games.rates=(0.01,0.03) games.dampings=(0.01,0.1)'
          ),
        ),
        'full': Budget(60),
      },
      _GAMES,
    )
    for activation, title in (('tanh', 'Tanh'), ('relu', 'ReLU'))
  ),
  Part(
    'placement',
    'Where a projection decides',
    'Sec. 3.2: the control of a projection at the fork, or next to the merge.',
    'experiments.studies.placement',
    ('--config=configs/digits.py:sgd',),
    {
      'small': Budget(5, _keys('epochs=4 placement.rates=(0.03,0.1)')),
      'full': Budget(15),
    },
    {'placement.png': 'The projection at the fork and next to the merge'},
  ),
  Part(
    'training',
    'Accuracy on DIGITS',
    'One GT-DDP training; the goal is 98.5 % of the test images.',
    'experiments.train',
    (
      '--config=configs/digits.py:rmsprop',
      *_keys(
        'optimizer.name=gt_ddp epochs=40 dataset.augment=true '
        'optimizer.schedule.name=warmup_cosine'
      ),
    ),
    {'small': Budget(1), 'full': Budget(2)},
    _CURVES,
  ),
  Part(
    'analysis',
    'What the feedback looks at',
    'Fig. 6c: leading eigenvectors of the feedback of convolutions, projected '
    'to the image, on the network trained above.',
    'experiments.studies.anatomy',
    (),
    {'small': Budget(1), 'full': Budget(2)},
    {
      'feedback.png': 'Leading eigenvectors, and their projections',
      'pairs.png': 'Pairs of classes that the eigenvectors separate',
      'gains.png': 'Feedback gains of each stage',
      'spectra.png': 'Eigenvalues of the value Hessian',
      'updates.png': 'Norms of the updates, with and without feedback',
    },
    source='training',
    resumes=False,
  ),
  _accuracy(
    'mnist',
    'MNIST',
    '99.3',
    accuracy=Budget(28, _keys('epochs=16')),
    full=Budget(35, _keys('epochs=16')),
  ),
  _accuracy(
    'fashion_mnist',
    'Fashion-MNIST',
    '92.5',
    accuracy=Budget(40, _keys('epochs=10 model.widths=(32,64)')),
    full=Budget(30, _keys('epochs=30 model.widths=(32,64)')),
  ),
  _value_recursions(
    'digits', 'DIGITS', 15, 'configs/digits.py:sgd', 'epochs=4'
  ),
  _value_recursions(
    'mnist',
    'MNIST, fully connected',
    9,
    'configs/mnist.py:sgd',
    'model.name=mlp model.widths=(128,64) model.norm=none '
    'dataset.train_samples=12800 epochs=2 log_every=50 eval_every=200 '
    'value_recursions.target_loss=0.4',
  ),
  Part(
    'games-mnist',
    'Cooperative blocks with Tanh on MNIST',
    'Fig. 7b: EKFAC, GT-EKFAC and GT-DDP-EKFAC on the network of cooperative '
    'blocks, and 4,000 images.',
    'experiments.studies.games',
    (
      '--config=configs/cgb.py:ekfac',
      *_keys(
        'dataset.name=mnist dataset.train_samples=4000 '
        'dataset.test_samples=2000 batch_size=64 log_every=21 eval_every=21 '
        'model.widths=(8,16,16) model.units=32 epochs=2 games.target_loss=0.5 '
        'games.rates=(0.003,0.01,0.03) games.dampings=(0.01,0.1)'
      ),
    ),
    {'extended': Budget(22)},
    _GAMES,
    'mnist',
  ),
)


def get_plan(budget: str) -> tuple[Part, ...]:
  """Returns the parts of a budget, in their order.

  Raises ConfigError if there is no such budget.
  """
  if budget not in BUDGETS:
    raise refusals.ConfigError(
      '--budget', f'one of {", ".join(BUDGETS)}', repr(budget), 'correct it'
    )
  return tuple(part for part in PARTS if budget in part.budgets)
