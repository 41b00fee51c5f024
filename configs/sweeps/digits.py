r"""Learning rate x optimizer x seeds, on DIGITS.

  python -m experiments.sweep --config=configs/sweeps/digits.py --workdir=runs/s

A small network, 4 x 2 x 3 = 24 runs of about 10 s, most of it imports and
compilation. Expected: test accuracy 95.8, 97.0, 97.5 and 96.9 % at the four
rates, and for GT-DDP the same within 0.2 %, less than the seeds differ.
"""

from __future__ import annotations

from configs import default
from configs.schema import Config


def get_config() -> Config:
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
