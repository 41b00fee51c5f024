"""Sweeps: each file sets keys of ``configs.default.get_sweep``.

``SCHEMA`` has every key, ``METRICS`` what a sweep can show.
"""

from __future__ import annotations

from configs import schema
from configs.schema import Key, Section

# With units: the last of each that a run has logged.
METRICS = {
  'test_accuracy': '0 to 1',
  'best_test_accuracy': '0 to 1',  # over the evaluations
  'train_accuracy': '0 to 1',
  'test_loss': 'nats',
  'train_loss': 'nats',
  'batch_loss': 'nats',
  'gradient_norm': '',
  'feedback_ratio': '',
  'clipped_share': '0 to 1',
  'smallest_factor': '',
  'skipped_steps': '',
  'seconds_per_step': 's',  # median
  'compile_seconds': 's',
  'epoch': '',
}

_AXIS = Key(
  '',
  'an axis, by the last word of its key (more of it where two end alike); '
  "'' for the next that is free; the median is over those left, and the seeds",
)
SCHEMA: Section = {
  'config': Key(
    'configs/digits.py:adam',
    'configuration of every run, as after --config of `experiments.train`',
  ),
  'fixed': Key(
    (), 'keys with the same value in every run: ((key, value), ...)'
  ),
  'grid': Key(
    (),
    'axes that are tried in all combinations: ((key, (value, ...)), ...). Keys '
    'that change together are a tuple, and each of their values one, too. The '
    "key 'config' stands for the configuration of the run",
  ),
  'random': Key(
    (),
    'axes to draw from: ((key, kind, low, high), ...); kind is log, linear or '
    'integer. Each draw is tried with every combination of the grid',
  ),
  'draws': Key(
    0,
    'how many; more of them leave the earlier ones as they are',
    schema.whole(0),
  ),
  'draw_seed': Key(0, 'of the draws', schema.whole(0)),
  'seeds': Key(
    (0, 1, 2), 'values of the key `seed`: the last axis', schema.SEEDS
  ),
  'workers': Key(
    1, 'runs at once, each a process with its part of the CPUs', schema.whole(1)
  ),
  'metrics': Key(
    ('test_accuracy', 'train_loss', 'seconds_per_step'),
    'columns of the table',
    schema.some_of(*METRICS),
  ),
  'plot': {
    'metric': Key('test_accuracy', 'drawn upward', schema.one_of(*METRICS)),
    'x': _AXIS,
    'lines': _AXIS,
    'panels': _AXIS,
  },
}
