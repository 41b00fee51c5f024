"""The rows of a run as TensorBoard events."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import tensorboardX


class Events:
  """Writes event files; used as a context manager."""

  def __init__(self, path: pathlib.Path, rows: Sequence[Mapping[str, Any]]):
    """Opens a file of its own in a folder, after the rows logged so far.

    TensorBoard will hide what an earlier program that was stopped has written
    after them.
    """
    purge = rows[-1]['step'] + 1 if rows else 0
    self._writer = tensorboardX.SummaryWriter(str(path), purge_step=purge)

  def __enter__(self) -> Events:
    """Returns itself."""
    return self

  def __exit__(self, *unused: object) -> None:
    """Writes what is left."""
    self._writer.close()

  def log(self, row: Mapping[str, Any]) -> None:
    """Adds the numbers of a row, under the split that they are of."""
    for name, value in row.items():
      if name != 'step' and isinstance(value, float) and math.isfinite(value):
        split, _, rest = name.partition('_')
        tag = (
          f'{split}/{rest}' if split in ('train', 'test') else f'step/{name}'
        )
        self._writer.add_scalar(tag, value, row['step'])
    self._writer.flush()
