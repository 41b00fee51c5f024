r"""A random search over rate and trust region of GT-DDP, on DIGITS.

  python -m experiments.sweep --config=configs/sweeps/random_search.py \
    --workdir=runs/search

12 draws x 2 bases x 1 seed. With more ``draws`` in the file, the same command
runs the new ones alone.
"""

from __future__ import annotations

from configs import default
from configs.schema import Config


def get_config() -> Config:
  """Returns the sweep."""
  sweep = default.get_sweep()
  sweep.fixed = (
    ('model.name', 'mlp'),
    ('model.widths', (64, 64)),
    ('epochs', 8),
    ('optimizer.name', 'gt_ddp'),
  )
  sweep.grid = (('optimizer.base.name', ('rmsprop', 'adam')),)
  sweep.random = (
    ('optimizer.base.learning_rate', 'log', 3e-4, 3e-2),
    ('optimizer.trust_region', 'log', 0.03, 3.0),
  )
  sweep.draws = 12
  sweep.seeds = (0,)
  sweep.workers = 2
  sweep.plot.x = 'learning_rate'
  sweep.plot.lines = 'name'
  return sweep
