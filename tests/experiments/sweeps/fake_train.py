"""Stands in for `experiments.train` where a sweep is tested: fast, no JAX.

The learning rate says what happens: 1.0 and above diverges, 0.5 fails until a
file `mended` lies beside the runs, 0.25 takes until a signal comes.
"""

from __future__ import annotations

import json
import pathlib
import signal
import sys
import time
import types


def stop(number: int, frame: types.FrameType | None) -> None:
  del frame
  print('stopped')
  sys.exit(128 + number)


signal.signal(signal.SIGTERM, stop)
given = dict(word.lstrip('-').split('=', 1) for word in sys.argv[1:])
config = json.loads(pathlib.Path(given['config'].split(':', 1)[1]).read_text())
folder = pathlib.Path(given['workdir'])
rate, seed = config['optimizer']['base']['learning_rate'], config['seed']
folder.mkdir(parents=True, exist_ok=True)
with (folder / 'calls').open('a') as calls:
  calls.write('x')
if rate == 0.5 and not (folder.parent.parent / 'mended').exists():
  print('error: something broke')
  sys.exit(7)
if rate == 0.25:
  (folder.parent.parent / 'waiting').touch()
  while not (folder.parent.parent / 'mended').exists():
    time.sleep(0.02)
result = {'status': 'batch loss at step 3: expected a finite number'}
if rate < 1:
  result = {'status': 'finished', 'best': {'test_accuracy': 0.9 + seed / 100}}
rows = [{'test_accuracy': 0.1}, {'test_accuracy': rate + seed / 100}]
lines = [json.dumps({**row, 'train_loss': 1 / (1 + seed)}) for row in rows]
(folder / 'metrics.jsonl').write_text('\n'.join(lines) + '\n')
(folder / 'result.json').write_text(json.dumps(result))
sys.exit(int(rate >= 1))
