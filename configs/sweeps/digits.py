r"""Learning rate x optimizer x seeds, on DIGITS.

  python -m experiments.sweep --config=configs/sweeps/digits.py --workdir=runs/s

A small network, 2 x 4 x 3 = 24 runs; on 2 CPU cores about 4 minutes, nearly all
of it imports and compilation. Expected: both forms near 97 % at their best
rate; GT-DDP with its trust region bears the largest rate, too.
"""

from __future__ import annotations

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
  """Returns the sweep."""
  sweep = default.get_sweep()
  sweep.config = 'configs/digits.py:sgd'
  sweep.fixed = (
    ('model.name', 'mlp'),
    ('model.widths', (64, 64)),
    ('epochs', 8),
  )
  sweep.grid = (
    ('optimizer.base.learning_rate', (0.03, 0.1, 0.3, 1.0)),
    ('optimizer.name', ('sgd', 'gt_ddp')),
  )
  sweep.workers = 2
  return sweep
