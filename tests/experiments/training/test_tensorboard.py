"""TensorBoard sees the numbers of metrics.jsonl."""

from __future__ import annotations

import pathlib

from tensorboardX import proto

from experiments.training import tensorboard


def written(folder: pathlib.Path) -> dict[str, list[tuple[int, float]]]:
  """The scalars of all files, read as records of TensorFlow."""
  found: dict[str, list[tuple[int, float]]] = {}
  for path in sorted(folder.iterdir()):
    content, place = path.read_bytes(), 0
    while place < len(content):
      size = int.from_bytes(content[place : place + 8], 'little')
      event = proto.event_pb2.Event.FromString(
        content[place + 12 : place + 12 + size]
      )
      place += 12 + size + 4
      for value in event.summary.value:
        found.setdefault(value.tag, []).append((event.step, value.simple_value))
  return found


def test_numbers_by_split(tmp_path: pathlib.Path) -> None:
  with tensorboard.Events(tmp_path, ()) as board:
    board.log({'step': 0, 'epoch': 0.0, 'test_accuracy': 0.5})
    board.log({'step': 4, 'batch_loss': 0.25, 'train_loss': float('nan')})
  assert written(tmp_path) == {
    'step/epoch': [(0, 0.0)],
    'test/accuracy': [(0, 0.5)],
    'step/batch_loss': [(4, 0.25)],
  }
