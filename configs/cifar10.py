r"""CIFAR-10 (32x32x3, 50,000 training images) on a residual network.

  python -m experiments.prepare --dataset=cifar10 --manual_dir=FOLDER
  python -m experiments.train --config=configs/cifar10.py:adam
  python -m experiments.train --config=configs/cifar10.py:adam \
    --config.optimizer.name=gt_ddp

FOLDER holds cifar-10-binary.tar.gz.
The word after the colon is the base, and brings its learning rate; a second
one, as in :adam,resnet18, is a network of ``choices.NETWORKS``.
"""

from __future__ import annotations

from configs import choices
from configs.schema import Config


def get_config(base: str = 'adam') -> Config:
  """Returns the configuration; see ``choices.for_images``."""
  config = choices.for_images('cifar10', base, (16, 32, 64))
  config.dataset.augment = True
  config.epochs = 30
  config.log_every = 39
  config.eval_every = 390  # an epoch, but for a part of a step
  return config
