"""The laboratory: trains small networks with gtddp_jax and its baselines."""

from __future__ import annotations

import importlib.abc
import os
import sys
from typing import Any

# JAX's LAPACK calls on a CPU go to OpenBLAS, whose threads wait for each other
# by spinning, beside XLA's own: factorising 300 x 300 took 0.7 s instead of
# 4 ms on two cores. Has to be set before NumPy or SciPy is imported.
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')

# Commands that had another name, as reports and scripts may still know them.
MOVED = {
  'analysis': 'experiments.studies.anatomy',
  'benchmark': 'experiments.studies.costs.benchmark',
  'blocks': 'experiments.studies.blocks',
  'compare': 'experiments.studies.methods --preset=compare',
  'games': 'experiments.studies.games',
  'levels': 'experiments.studies.value_recursions',
  'method_figure': 'scripts.method_figure',
  'methods': 'experiments.studies.methods',
  'peers': 'experiments.studies.costs.kfac_jax',
  'placement': 'experiments.studies.placement',
  'scaling': 'experiments.studies.costs.scaling',
}


class _Moved(importlib.abc.MetaPathFinder):
  """Answers ``python -m experiments.OLD`` with the new name."""

  def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
    """Ends the program where a moved command is started; else finds nothing."""
    del path, target
    package, _, name = fullname.rpartition('.')
    # While `python -m` looks for the module, it is the only argument.
    if package == __name__ and name in MOVED and sys.argv[:1] == ['-m']:
      print(
        f'error: python -m {fullname}: this command has another name; run '
        f'python -m {MOVED[name]} with the same flags.',
        file=sys.stderr,
      )
      sys.exit(2)


sys.meta_path.append(_Moved())
