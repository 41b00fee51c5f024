"""The training command in another process, that can be killed.

The processes are forks of one that has imported everything, which takes longer
than all the rest.
"""

from __future__ import annotations

import json
import multiprocessing
import pathlib
import random
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

# All that a run depends on is at work: an optimizer with state, feedback,
# augmentation, a schedule, accumulation.
TINY = (
  '--config=configs/digits.py:adam',
  '--config.model.name=mlp',
  '--config.model.widths=(8,)',
  '--config.batch_size=128',
  '--config.epochs=5',
  '--config.log_every=5',
  '--config.eval_every=15',
  '--config.checkpoint_seconds=0.0',
  '--config.dataset.augment=true',
  '--config.optimizer.name=gt_ddp',
  '--config.optimizer.schedule.name=warmup_cosine',
  '--config.optimizer.accumulate=2',
)


_CONTEXT = multiprocessing.get_context('forkserver')
_CONTEXT.set_forkserver_preload(['experiments.train'])
Process = multiprocessing.process.BaseProcess


def _main(
  arguments: Sequence[str],
  errors: pathlib.Path,
  cache: pathlib.Path,
  limit: int | None,
) -> None:
  """What ``python -m experiments.train`` does, with stderr in a file."""
  from experiments import train

  # Compiled once for all.
  jax.config.update('jax_compilation_cache_dir', str(cache))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
  sys.stdout = sys.stderr = errors.open('a', buffering=1)
  if limit is not None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
  sys.argv = ['train', *arguments]
  train.main()


def start(
  folder: pathlib.Path, *arguments: str, limit: int | None = None
) -> Process:
  """Starts a training of the tiny config.

  Args:
    folder: of the run.
    arguments: further ones.
    limit: largest size of a file, in bytes, as if the disk were full.
  """
  arguments = (*TINY, f'--workdir={folder}', *arguments)
  process = _CONTEXT.Process(
    target=_main,
    args=(arguments, _errors(folder), folder.parent / 'compiled', limit),
  )
  process.start()
  return process


def _errors(folder: pathlib.Path) -> pathlib.Path:
  return folder.parent / f'{folder.name}.stderr'


def finish(process: Process, folder: pathlib.Path) -> tuple[int | None, str]:
  """Returns the exit code and what was written to stderr so far."""
  process.join()
  return process.exitcode, _errors(folder).read_text()


def wait_for(process: Process, condition: Callable[[], bool]) -> bool:
  """Returns once a condition holds (True), or the process has ended."""
  while process.exitcode is None:
    if condition():
      return True
    time.sleep(5e-4)
  return False


def row_count(folder: pathlib.Path) -> int:
  log = folder / 'metrics.jsonl'
  return log.read_bytes().count(b'\n') if log.exists() else 0


def writing(folder: pathlib.Path) -> bool:
  """Whether a checkpoint is being written."""
  return any((folder / 'checkpoints').glob('*.orbax-checkpoint-tmp*'))


def kill(folder: pathlib.Path, kind: str, rng: random.Random) -> str:
  """Starts a training and kills it.

  Args:
    folder: of the run.
    kind: when: 'write', within the writing of a checkpoint; 'step', within the
      training; 'start', before it.
    rng: of the moment.

  Returns:
    What was found: 'ended' if there was nothing left to kill.
  """
  process = start(folder)
  stale = {*(folder / 'checkpoints').glob('*tmp*')}
  skip = rng.randrange(3)  # checkpoints or rows to let pass
  seen: set[Any] = set()

  def hit() -> bool:
    new = {*(folder / 'checkpoints').glob('*.orbax-checkpoint-tmp*')} - stale
    seen.update(new)
    return bool(new) and len(seen) > skip

  if kind == 'start':
    time.sleep(3 * rng.random())
  elif kind == 'write':
    wait_for(process, hit)
  else:
    wait_for(process, lambda: bool({*(folder / 'checkpoints').glob('*')}))
    before = row_count(folder)
    wait_for(process, lambda: row_count(folder) > before + skip)
    time.sleep(0.03 * rng.random())
  ended = process.exitcode is not None
  process.kill()
  process.join()
  if ended:
    return 'ended'
  return 'torn' if writing(folder) else 'killed'


def outcome(folder: pathlib.Path) -> dict[str, Any]:
  """Everything that a run leaves, but for times."""
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  rows = [
    {key: value for key, value in json.loads(line).items() if 'sec' not in key}
    for line in lines
  ]
  result = json.loads((folder / 'result.json').read_text())
  steps = sorted(int(path.name) for path in (folder / 'checkpoints').iterdir())
  reader = ocp.StandardCheckpointer()
  arrays = {
    f'{item} {step} {jax.tree_util.keystr(path)}': np.asarray(leaf)
    for step in (steps[-1], result['best']['step'])
    for item in ('params', 'state')
    for path, leaf in jax.tree_util.tree_leaves_with_path(
      reader.restore((folder / 'checkpoints' / str(step) / item).absolute())
    )
  }
  reader.close()
  found = {key: value for key, value in result.items() if 'sec' not in key}
  return {'rows': rows, 'result': found, 'arrays': arrays}


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
  """Bit by bit."""
  assert one['rows'] == other['rows']
  assert one['result'] == other['result']
  assert one['arrays'].keys() == other['arrays'].keys()
  for name, array in one['arrays'].items():
    assert array.dtype == other['arrays'][name].dtype
    assert array.tobytes() == other['arrays'][name].tobytes(), name
