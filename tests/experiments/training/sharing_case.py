"""Trains every form for twenty steps, on some devices of some processes.

  sharing_case.py ROOT FORMS DEVICES [COORDINATOR PROCESSES NUMBER]

FORMS are names and DEVICES numbers, such as 1,4. Prints JSON: by number and
form, the parameters and the last evaluation.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

FORMS: dict[str, dict[str, Any]] = {
  'frozen': {'value': 'frozen'},
  'bellman': {'value': 'bellman', 'terminal': 'gauss_newton'},
  'coupled': {'value': 'coupled'},
  'ekfac': {'value': 'frozen'},
}


def config_of(form: str, devices: int) -> Any:
  """A small smooth network; 20 steps."""
  from configs import default

  config = default.get_config()
  config.model.update(name='mlp', widths=(6,), activation='tanh')
  config.dataset.update(train_samples=1000, scaling='unit')
  config.update(batch_size=200, epochs=4, log_every=10, eval_every=20)
  config.update(devices=devices, eval_batch_size=333)
  config.optimizer.update(name='gt_ddp', trust_region=0.3, **FORMS[form])
  config.optimizer.base.update(name='sgd', learning_rate=0.3)
  if form == 'ekfac':
    # Where factors have no full rank, their basis is rounding's.
    config.optimizer.base.update(name='ekfac', damping=1.0)
  return config


def main() -> None:
  """Prints parameters and last evaluations as JSON, by number and form."""
  root, forms, numbers, *others = sys.argv[1:]
  sys.path.insert(0, root)
  largest = max(map(int, numbers.split(',')))
  os.environ['XLA_FLAGS'] = (
    f'{os.environ.get("XLA_FLAGS", "")} '
    f'--xla_force_host_platform_device_count={max(largest, 1)}'
  )
  import jax
  import numpy as np

  from experiments.data import splits
  from experiments.runs import hosts
  from experiments.training import loop, programs

  if others:
    jax.distributed.initialize(others[0], *map(int, others[1:]))
    assert hosts.from_first(lambda: hosts.count() * [others[2]]) == ['0'] * int(
      others[1]
    )
    assert hosts.largest(int(others[2])) == int(others[1]) - 1
  found = {}
  for devices in map(int, numbers.split(',')):
    for form in forms.split(','):
      config = config_of(form, devices)
      dataset = splits.from_config(config.dataset)
      network = programs.build_network(config, dataset)
      program = programs.build(network, config, dataset)
      run = loop.Loop(program, config, dataset, seed=0)
      *_, last = run.rows()
      params = jax.device_get(run.position.params)
      found[f'{devices} {form}'] = {
        'params': np.concatenate(
          [np.ravel(leaf) for leaf in jax.tree.leaves(params)]
        ).tolist(),
        'last': {k: v for k, v in last.items() if 'seconds' not in k},
      }
  print(json.dumps(found))


if __name__ == '__main__':
  main()
