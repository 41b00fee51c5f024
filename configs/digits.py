r"""DIGITS (8x8, 1,437 training images) on a small residual network.

Two blocks, the first with an identity and the second with a projection
shortcut, layer normalization and one linear layer: 12 controls.

  python -m experiments.train --config=configs/digits.py:adam
  python -m experiments.train --config=configs/digits.py:adam \
    --config.optimizer.name=gt_ddp
  python -m experiments.studies.methods --preset=compare

The word after the colon is the base, and brings its learning rate; a second
one, as in :adam,resnet18, is a network of ``choices.NETWORKS``.

On 2 CPU cores a run takes about half a minute, most of it imports and
compilation, and the comparison (18 runs) about 1.5 minutes. Expected test
accuracy over seeds 0 to 2: every optimizer between 97.4 and 98.8 %, with a
standard deviation of about 0.5; GT-DDP RMSprop over eight seeds: 98.6 ± 0.4.
One image is 0.28, and rounding alone moves a mean of three seeds by as much as
0.6, so this small comparison cannot rank the optimizers by accuracy.
"""

from __future__ import annotations

from configs import choices, default
from configs.schema import Config


def get_config(base: str = 'adam') -> Config:
  """Returns the configuration for a base alone; see ``choices.choose``."""
  config = default.get_config()
  config.batch_size = 32
  config.epochs = 15
  config.log_every = 45  # an epoch
  config.eval_every = 45
  config.model.widths = (16, 32)
  config.model.norm = 'layer'
  config.optimizer.trust_region = 0.3
  config.learning_rates.rmsprop = 0.0015
  config.learning_rates.adam = 0.003
  choices.choose(config, base)
  return config
