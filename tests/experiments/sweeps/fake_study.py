"""Stands in for a study where `experiments.reproduce` is tested: no JAX.

The word of --what says what happens: `fail` until a file `mended` lies beside
the folder, `wait` until a signal comes or that file, `bare` makes no figure,
`leak` reports a folder of this machine, `short` says what came out in short.
"""

from __future__ import annotations

import json
import os
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
given = dict(word.lstrip('-').split('=', 1) for word in sys.argv[3:])
what, folder = given.get('what', ''), pathlib.Path(given['workdir'])
mended = (folder.parent.parent / 'mended').exists()
folder.mkdir(parents=True, exist_ok=True)
with (folder.parent.parent / 'calls').open('a') as calls:
  calls.write(f'{folder.name}{" again" if any(folder.iterdir()) else ""}\n')
log = folder / 'metrics.jsonl'
rows = log.read_text() if log.exists() else '1\n'
log.write_text(rows)
if what == 'fail' and not mended:
  (folder / 'curves.png').touch()
  print(f'error: {folder.absolute() / "x"}: something broke.')
  sys.exit(7)
if what == 'wait':
  (folder.parent.parent / 'waiting').write_text(f'{os.getpid()}\n')
  while not mended:
    time.sleep(0.02)
  rows += '2\n'
held = {
  'python': '3.12',
  'packages': {'jax': '0.8'},
  'cpus': 2,
  'backend': 'cpu',
  'git_commit': None,
}
(folder / 'versions.json').write_text(json.dumps(held))
if what != 'bare':
  (folder / 'curves.png').write_text(f'picture of {folder.name}')
text = '# Found\n\n| a | b |\n\n![old](curves.png)\n\n![other](other.png)\n'
if what == 'leak':
  text += f'in {pathlib.Path(sys.executable).anchor}opt/secret/x\n'
if what == 'wait':
  text += f'rows {", ".join(rows.split())}\n'
if what == 'data':
  text += f'from {os.environ["TFDS_DATA_DIR"]}/x\n'
if what != 'run':
  if what == 'short':
    text = f'## In short\n\n- It is so.\n- It is not.\n\n{text}'
  how = '## How\n\n```sh\npython -m study\n```\n\n- seeds: 4, 5\n'
  how += '- device: 2 CPU cores\n'
  (folder / 'results.md').write_text(f'{text}\n{how}')
