r"""SVHN, cropped (32x32x3, 73,257 training images) on a residual network.

  python -m experiments.prepare --dataset=svhn_cropped --manual_dir=FOLDER
  python -m experiments.train --config=configs/svhn.py:adam
  python -m experiments.train --config=configs/svhn.py:adam \
    --config.optimizer.name=gt_ddp

FOLDER holds train_32x32.mat and test_32x32.mat.
The word after the colon is the base, and brings its learning rate; a second
one, as in :adam,resnet18, is a network of ``choices.NETWORKS``.
"""

from __future__ import annotations

from configs import choices
from configs.schema import Config


def get_config(base: str = 'adam') -> Config:
  """Returns the configuration; see ``choices.for_images``."""
  config = choices.for_images('svhn_cropped', base, (16, 32, 64))
  config.epochs = 10
  config.log_every = 52
  config.eval_every = 572  # an epoch, but for a part of a step
  return config
