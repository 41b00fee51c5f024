"""Twenty steps on 1, 2 and 4 devices, in a process that is told it has four.

Prints JSON: by float type, form and number of devices, the parameters, and what
the compiled step does across devices.
"""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any

import numpy as np

DEVICES = 1, 2, 4
STEPS = 20
BATCH = 16
FORMS = 'frozen', 'bellman', 'coupled', 'ekfac'


def transformation(graph: Any, form: str) -> Any:
  """A form of the optimizer."""
  import gtddp_jax as gt

  base: Any = gt.sgd(0.2)
  if form == 'ekfac':
    # The factors have full rank: in the null space of one, eigenvectors are
    # what rounding makes of them, and EKFAC's step depends on them.
    statistics = gt.Statistics(every=3, basis_every=7)
    base = gt.ekfac(0.2, damping=0.3, statistics=statistics)
  return gt.gt_ddp(
    graph,
    gt.losses.softmax_cross_entropy,
    base,
    value='frozen' if form == 'ekfac' else form,
    terminal='gauss_newton' if form == 'bellman' else 'gradient',
    trust_region=None if form == 'coupled' else 0.5,
  )


def case(dtype: str) -> tuple[Any, Any, Any]:
  """Graph, parameters and batches of a small smooth network."""
  import jax
  import jax.numpy as jnp

  import gtddp_jax as gt

  rng = np.random.default_rng(0)
  inputs = rng.normal(size=(STEPS, BATCH, 6, 6, 1)).astype(dtype)
  targets = rng.integers(0, 3, size=(STEPS, BATCH)).astype('int32')
  params = {
    'conv': {
      'kernel': rng.normal(size=(3, 3, 1, 4)) / 3,
      'bias': rng.normal(size=4) / 3,
    },
    'dense': {
      'kernel': rng.normal(size=(4, 4)) / 2,
      'bias': rng.normal(size=4) / 3,
    },
    'head': {
      'kernel': rng.normal(size=(4, 3)) / 2,
      'bias': rng.normal(size=3) / 3,
    },
  }

  def apply(params: Any, x: Any) -> Any:
    h = jax.lax.conv_general_dilated(
      x,
      params['conv']['kernel'],
      (1, 1),
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    bias = [params[name]['bias'][None] for name in ('dense', 'head')]
    h = jnp.tanh(h + params['conv']['bias'][None, None, None]).mean((1, 2))
    h = jnp.tanh(h + (3 * h @ params['dense']['kernel'] + bias[0]))
    return h @ params['head']['kernel'] + bias[1]

  params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
  return gt.trace(apply, params, inputs[0]), params, (inputs, targets)


def trained(dtype: str, form: str, devices: int) -> dict[str, Any]:
  """Trains on so many devices."""
  import jax
  import optax
  from jax import sharding

  import gtddp_jax as gt

  graph, params, (inputs, targets) = case(dtype)
  tx = transformation(graph, form)
  mesh = sharding.Mesh(np.array(jax.devices()[:devices]), ('batch',))
  everywhere = sharding.NamedSharding(mesh, sharding.PartitionSpec())
  spread = sharding.NamedSharding(mesh, sharding.PartitionSpec('batch'))

  def step(params: Any, state: Any, *batch: Any) -> Any:
    updates, state = tx.update(None, state, params, batch=batch)
    return optax.apply_updates(params, updates), state

  at = jax.device_put((params, tx.init(params)), everywhere)
  with jax.set_mesh(mesh):
    compiled = jax.jit(
      step,
      in_shardings=(everywhere, everywhere, spread, spread),
      out_shardings=everywhere,
    ).lower(*at, inputs[0], targets[0]).compile()  # fmt: skip
  for x, y in zip(inputs, targets, strict=True):
    at = compiled(*at, *jax.device_put((x, y), spread))
  text = compiled.as_text()
  flat = [np.ravel(leaf) for leaf in jax.tree.leaves(at[0])]
  return {
    'params': np.concatenate(flat).tolist(),
    'skipped': int(gt.metrics(at[1])['skipped_steps']),
    'feedback': float(gt.metrics(at[1])['feedback_ratio']),
    'gathers': len(re.findall(r' all-gather(?:-start)?\(', text)),
    'rounds': [
      int(count) for count in re.findall(r'trip_count":{"n":"(\d+)"', text)
    ],
  }


def main() -> None:
  """Prints all; the argument is the root of the repository."""
  sys.path.insert(0, sys.argv[1])
  os.environ['XLA_FLAGS'] = (
    f'{os.environ.get("XLA_FLAGS", "")} '
    f'--xla_force_host_platform_device_count={max(DEVICES)}'
  )
  import jax

  found = {}
  for dtype in ('float32', 'float64'):
    jax.config.update('jax_enable_x64', dtype == 'float64')
    for form in FORMS:
      for devices in DEVICES:
        key = f'{dtype} {form} {devices}'
        found[key] = trained(dtype, form, devices)
  print(json.dumps(found))


if __name__ == '__main__':
  main()
