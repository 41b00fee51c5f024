r"""DIGITS on the paper's network of cooperative blocks, with Tanh.

Convolutional blocks of two players, a fully connected block of two, and one
linear layer: 9 controls.

  python -m experiments.train --config=configs/cgb.py:sgd
  python -m experiments.train --config=configs/cgb.py:sgd \
    --config.optimizer.name=gt_ddp
  python -m experiments.train --config=configs/cgb.py:sgd \
    --config.dataset.name=mnist

The word after the colon is the base, and brings its learning rate.
"""

from __future__ import annotations

from configs import choices, default
from configs.schema import Config


def get_config(base: str = 'sgd') -> Config:
  """Returns the configuration for a base of ``learning_rates`` alone."""
  config = default.get_config()
  config.batch_size = 32
  config.epochs = 15
  config.log_every = 45  # an epoch of DIGITS
  config.eval_every = 45
  config.optimizer.trust_region = 0.3
  choices.choose_network(config, 'cgb')
  choices.choose_base(config, base)
  return config
