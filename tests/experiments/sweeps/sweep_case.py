"""Sweeps as files and commands, for the tests of them."""

from __future__ import annotations

import pathlib
import shutil
from typing import Any

from experiments import sweep
from experiments.data import splits
from experiments.runs import cli

ROOT = pathlib.Path(splits.__file__).parents[2]
RATE = 'optimizer.base.learning_rate'
TINY = (
  "('model.name', 'mlp'), ('model.widths', (8,)), ('epochs', 1), "
  "('batch_size', 256), ('log_every', 2), ('eval_every', 4)"
)


def written(folder: pathlib.Path, **keys: Any) -> pathlib.Path:
  """The file of a sweep with these keys, as they are written in Python."""
  lines = [f'  sweep.{key} = {value}' for key, value in keys.items()]
  path = folder / 'my_sweep.py'
  # Bytecode is matched by size and by the second of the last change.
  shutil.rmtree(folder / '__pycache__', ignore_errors=True)
  path.write_text(
    '\n'.join(
      [
        'from configs import default',
        'def get_config():',
        '  sweep = default.get_sweep()',
        *lines,
        '  return sweep',
      ]
    )
  )
  return path


def command(*arguments: object) -> int:
  with cli.refusing():
    values = sweep.parse(['sweep', *map(str, arguments)])
  return sweep.run(values)


def swept(folder: pathlib.Path, *arguments: str, **keys: Any) -> int:
  path = written(folder, **keys)
  return command(f'--config={path}', f'--workdir={folder / "s"}', *arguments)
