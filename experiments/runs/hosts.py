"""Several processes that train one network together, each on its devices.

The first one keeps the run's folder; the others work in a folder that goes with
them. What only the first can know, all learn through ``from_first``.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments import refusals
from experiments.runs import flags

T = TypeVar('T')

_ADDRESS = re.compile(r'[^:\s]+:\d+|\[[0-9a-fA-F:]+\]:\d+')


class OtherProcessError(refusals.Refused, RuntimeError):
  """The first process cannot go on; it has said why.

  ::

    from_first(lambda: 1 / 0)
  """


def define_flags(parser: flags.Flags) -> None:
  """Defines --distributed, --coordinator, --num_processes, --process_id."""
  parser.switch(
    'distributed',
    'train with the processes that Slurm, Open MPI or GKE has started',
  )
  parser.value(
    'coordinator', 'HOST:PORT of the first process, where no launcher tells'
  )
  parser.value('num_processes', 'how many processes there are', kind=int)
  parser.value('process_id', 'which one this is, from 0', kind=int)


def join(values: Any) -> None:
  """Meets the other processes if the flags of ``define_flags`` say so.

  Raises ConfigError if they do not fit together, or nobody is met.
  """
  names = ('coordinator', 'num_processes', 'process_id')
  given = {name: getattr(values, name) for name in names}
  missing = [name for name in names if given[name] is None]
  if len(missing) == len(names) and not values.distributed:
    return
  if missing and len(missing) < len(names):
    raise refusals.ConfigError(
      f'--{missing[0]}',
      f'a value, as for --{next(n for n in names if n not in missing)}',
      'none',
      'give all three, or --distributed alone under a launcher',
    )
  if not missing:
    _check(values)
  try:
    jax.distributed.initialize(
      given['coordinator'], given['num_processes'], given['process_id']
    )
  except (RuntimeError, ValueError) as error:
    said = str(error).strip().splitlines() or [type(error).__name__]
    raise refusals.ConfigError(
      '--distributed',
      'the other processes',
      f'"{said[0]}"',
      'start all of them, or give --coordinator, --num_processes, --process_id',
    ) from error


def _check(values: Any) -> None:
  num_processes, process_id = values.num_processes, values.process_id
  if not _ADDRESS.fullmatch(values.coordinator):
    raise refusals.ConfigError(
      '--coordinator', 'HOST:PORT', repr(values.coordinator), 'correct it'
    )
  if num_processes < 1:
    raise refusals.ConfigError(
      '--num_processes', 'an integer from 1', num_processes, 'raise it'
    )
  if not 0 <= process_id < num_processes:
    raise refusals.ConfigError(
      '--process_id',
      f'an integer from 0 to {num_processes - 1}',
      process_id,
      'change it',
    )


def count() -> int:
  """Returns how many processes there are; leaves JAX alone if it is one."""
  return jax.process_count() if jax.distributed.is_initialized() else 1


def is_first() -> bool:
  """Returns whether this is the process that keeps the run's folder."""
  return count() == 1 or jax.process_index() == 0


def from_first(make: Callable[[], T]) -> T:
  """Returns what a function returns in the first process, to all of them.

  It is called there alone, and its result is pickled. If it raises, all others
  raise OtherProcessError.
  """
  if count() == 1:
    return make()
  problem: BaseException | None = None
  said: tuple[bool, Any] = (True, None)
  if is_first():
    try:
      said = (True, make())
    except BaseException as error:
      problem, said = error, (False, str(error))
  fine, value = _broadcast(said)
  if problem is not None:
    raise problem
  if not fine:
    raise OtherProcessError(value)
  found: T = value
  return found


def largest(number: int) -> int:
  """Returns the largest of the numbers that the processes call this with."""
  if count() == 1:
    return number
  return int(np.max(multihost_utils.process_allgather(np.int32(number))))


def local(tree: Any) -> Any:
  """Returns arrays that are equal in all processes as NumPy's, if there are."""
  return tree if count() == 1 else jax.device_get(tree)


def _broadcast(value: Any) -> Any:
  """A pickled value of the first process."""
  content = np.frombuffer(pickle.dumps(value), np.uint8)
  size = multihost_utils.broadcast_one_to_all(np.int32(content.size))
  buffer = np.zeros(int(size), np.uint8)
  if is_first():
    buffer[:] = content
  return pickle.loads(
    np.asarray(multihost_utils.broadcast_one_to_all(buffer)).tobytes()
  )
