"""Where the arrays of a run are: samples spread over devices, the rest on all.

Each device computes its part of every sum over samples; XLA adds the parts. One
device in one process is left to JAX's default.
"""

from __future__ import annotations

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import sharding

from configs.schema import Config
from experiments import refusals
from experiments.data import splits
from experiments.runs import hosts


class Layout:
  """The devices of a run.

  Attributes:
    mesh: of them, in the order of the samples; None for the default device.
  """

  def __init__(self, config: Config):
    """Takes the devices that a config asks for; see ``check``."""
    count = check(config)
    self.mesh: sharding.Mesh | None = None
    if count > 1:
      devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
      self.mesh = sharding.Mesh(np.array(devices[:count]), ('batch',))
      spec = sharding.PartitionSpec
      self._all = sharding.NamedSharding(self.mesh, spec())
      self._spread = sharding.NamedSharding(self.mesh, spec('batch'))

  def context(self) -> contextlib.AbstractContextManager[Any]:
    """Within, what is compiled knows of the devices."""
    if self.mesh is None:
      return contextlib.nullcontext()
    context: contextlib.AbstractContextManager[Any] = jax.set_mesh(self.mesh)
    return context

  def words(self, inputs: str) -> dict[str, Any]:
    """Returns what ``jax.jit`` must be told.

    By a letter for each argument: 'b' for samples, 'a' for the rest.
    """
    if self.mesh is None:
      return {}
    shardings = {'b': self._spread, 'a': self._all}
    return {
      'in_shardings': tuple(shardings[letter] for letter in inputs),
      'out_shardings': self._all,
    }

  def everywhere(self, tree: Any) -> Any:
    """Returns arrays, equal in all processes, on every device."""
    if self.mesh is None:
      return tree

    def put(leaf: Any) -> Any:
      if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(put(jax.random.key_data(leaf)))
      array = np.asarray(leaf)
      return jax.make_array_from_process_local_data(
        self._all, array, array.shape
      )

    return jax.tree.map(put, tree)

  def batch(
    self, split: splits.Split, batch_size: int, seed: int, step: int
  ) -> tuple[Any, Any]:
    """Returns images and labels of a step; each process reads its own.

    As ``splits.batch``; the batch size is that of all.
    """
    rows = splits.indices(split.size, batch_size, seed, step)
    return self._take(split.images, rows), self._take(split.labels, rows)

  def spread(self, array: np.ndarray) -> Any:
    """Returns samples on their devices; the last is repeated to fill up."""
    if self.mesh is None:
      return array
    full = -(-len(array) // self.mesh.size) * self.mesh.size
    return self._take(array, np.minimum(np.arange(full), len(array) - 1))

  def _take(self, array: np.ndarray, rows: np.ndarray) -> Any:
    if self.mesh is None:
      return array[rows]
    part = len(rows) // hosts.count()
    own = rows[part * jax.process_index() :][:part]
    return jax.make_array_from_process_local_data(
      self._spread, array[own], (len(rows), *array.shape[1:])
    )


def check(config: Config) -> int:
  """Returns how many devices a run has, in all processes.

  Raises ConfigError if there are not so many, or they cannot share a batch.
  """
  asked = config.devices
  if hosts.count() > 1 and asked:
    raise refusals.ConfigError(
      'config.devices',
      '0 (all), because the processes share every batch',
      asked,
      'change it',
    )
  if asked == 1:
    return 1
  there = jax.device_count()
  if asked > there:
    raise refusals.ConfigError(
      'config.devices',
      f'at most {there}, the devices that JAX finds',
      asked,
      'lower it',
    )
  count: int = asked or there
  if config.batch_size % count:
    raise refusals.ConfigError(
      'config.batch_size',
      f'a multiple of the {count} devices',
      config.batch_size,
      'change it, or config.devices',
    )
  return count
