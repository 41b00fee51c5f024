r"""MNIST (28x28, 60,000 training images) on a small residual network.

  python -m experiments.prepare --dataset=mnist --manual_dir=FOLDER
  python -m experiments.train --config=configs/mnist.py:adam
  python -m experiments.train --config=configs/mnist.py:adam \
    --config.optimizer.name=gt_ddp

FOLDER holds train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz and the
two of t10k.
The word after the colon is the base, and brings its learning rate; a second
one, as in :adam,resnet18, is a network of ``choices.NETWORKS``.
"""

from __future__ import annotations

from configs import choices
from configs.schema import Config


def get_config(base: str = 'adam') -> Config:
  """Returns the configuration; see ``choices.for_images``."""
  config = choices.for_images('mnist', base, (16, 32))
  config.epochs = 5
  config.log_every = 67
  config.eval_every = 469  # an epoch, but for a part of a step
  return config
