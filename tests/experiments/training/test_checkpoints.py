"""A checkpoint gives back what was saved, or is refused with one line."""

from __future__ import annotations

import gc
import hashlib
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from configs import default
from experiments.training import checkpoints, loop

# After a failed read, orbax leaves a reader to the garbage collector that
# complains of a closed event loop.
pytestmark = [
  pytest.mark.once,
  pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning'),
]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
  """Such readers go within the test that made them."""
  yield
  gc.collect()


def position(step: int, accuracy: float | None = None) -> loop.Position:
  """A position that differs from step to step."""
  params = {
    'a': jax.random.normal(jax.random.key(step), (30, 40), jnp.float32),
    'b': {'c': jnp.full(5, step, jnp.bfloat16)},
  }
  row = {'step': step, 'batch_loss': 1 / 3, 'seconds_per_step': 0.1}
  if accuracy is not None:
    row['test_accuracy'] = accuracy
  state = optax.adam(0.1).init(params)
  state = jax.tree.map(lambda leaf: (leaf + step).astype(leaf.dtype), state)
  pending = ({'loss': np.float32(0.1), 'smallest_factor': np.float32(np.nan)},)
  return loop.Position(params, state, step, (row,), pending, 0.25)


def opened(
  path: pathlib.Path, config: ml_collections.ConfigDict | None = None
) -> checkpoints.Checkpoints:
  return checkpoints.Checkpoints(path, config or default.get_config())


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
  """Holds the checkpoints 3 and 4."""
  with opened(tmp_path) as saved:
    saved.save(position(3))
    saved.save(position(4))
  return tmp_path


def restored(
  folder: pathlib.Path,
  start: loop.Position | None = None,
  config: ml_collections.ConfigDict | None = None,
) -> loop.Position | None:
  with opened(folder, config) as saved:
    return saved.restore(start or position(0))


def test_what_was_saved_comes_back(folder: pathlib.Path) -> None:
  found, expected = restored(folder), position(4)
  assert found is not None
  assert jax.tree.structure(found[:2]) == jax.tree.structure(expected[:2])
  for one, other in zip(
    jax.tree.leaves(found[:2]), jax.tree.leaves(expected[:2]), strict=True
  ):
    assert one.dtype == other.dtype
    assert one.weak_type == other.weak_type
    assert one.tobytes() == other.tobytes()
  assert found.step == 4
  assert found.rows == expected.rows
  assert found.pending[0]['loss'] == np.float32(0.1)
  assert np.isnan(found.pending[0]['smallest_factor'])
  assert found.seconds == expected.seconds


def test_an_empty_folder_has_none(tmp_path: pathlib.Path) -> None:
  assert restored(tmp_path / 'new') is None


def test_the_last_two_and_the_best_are_kept(tmp_path: pathlib.Path) -> None:
  rows: tuple[Any, ...] = ()
  accuracies = {1: 0.5, 2: 0.9, 3: 0.9, 4: None, 5: 0.3, 6: None}
  for step, accuracy in accuracies.items():
    with opened(tmp_path) as saved:  # as if killed after each
      at = position(step, accuracy)
      rows = (*rows, *at.rows)
      saved.save(at._replace(rows=rows))
  assert sorted(path.name for path in tmp_path.iterdir()) == ['2', '5', '6']
  assert loop.best(rows) == rows[1]  # the first of equals


def test_a_step_is_saved_again_when_its_row_has_come(
  tmp_path: pathlib.Path,
) -> None:
  before = position(6, 0.5)
  after = before._replace(rows=(*before.rows, {'step': 6}), pending=())
  with opened(tmp_path) as saved:
    saved.save(before)
    saved.save(before)
    saved.save(after)
  found = restored(tmp_path)
  assert found is not None
  assert found.rows == after.rows


def emptied(path: pathlib.Path) -> None:
  path.write_bytes(b'')


def halved(path: pathlib.Path) -> None:
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: pathlib.Path) -> None:
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(bytes(content))


def removed(path: pathlib.Path) -> None:
  if path.is_dir():
    shutil.rmtree(path)
  else:
    path.unlink()


def garbage(path: pathlib.Path) -> None:
  path.write_text('[1, 2]')


def largest(path: pathlib.Path) -> pathlib.Path:
  files = [file for file in path.rglob('*') if file.is_file()]
  return max(files, key=lambda file: file.stat().st_size)


DAMAGES: list[tuple[str, Callable[[pathlib.Path], None]]] = [
  ('record/metadata', emptied),
  ('record/metadata', halved),
  ('record/metadata', removed),
  ('record/metadata', garbage),
  ('record', removed),
  ('params', removed),
  ('params/_METADATA', halved),
  ('params/manifest.ocdbt', halved),
  ('params/manifest.ocdbt', flipped),
  ('params/manifest.ocdbt', removed),
  ('params/ocdbt.process_0', lambda path: halved(largest(path))),
  ('params/ocdbt.process_0', lambda path: flipped(largest(path))),
  ('params/ocdbt.process_0', lambda path: removed(largest(path))),
  ('state', removed),
  ('state/manifest.ocdbt', emptied),
  ('state/d', removed),
]


def contents(folder: pathlib.Path) -> dict[str, str]:
  return {
    str(path): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in folder.rglob('*')
    if path.is_file()
  }


@pytest.mark.parametrize(('name', 'damage'), DAMAGES)
def test_a_damaged_one_is_refused(
  name: str,
  damage: Callable[[pathlib.Path], None],
  folder: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  damage(folder / '4' / name)
  before = contents(folder)
  with pytest.raises(checkpoints.CheckpointError) as caught:
    restored(folder)
  message = str(caught.value)
  assert message.startswith(f'{folder / "4"}: expected a whole checkpoint, got')
  assert 'delete that folder, and the same command goes on from step 3' in (
    message
  )
  assert len(message.splitlines()) == 1
  assert contents(folder) == before
  assert not capsys.readouterr().err

  shutil.rmtree(folder / '4')
  found = restored(folder)
  assert found is not None
  assert found.step == 3


def test_a_half_written_one_is_not_looked_at(folder: pathlib.Path) -> None:
  (folder / '4').rename(folder / '5.orbax-checkpoint-tmp')
  found = restored(folder)
  assert found is not None
  assert found.step == 3


def other_networks() -> dict[str, loop.Position]:
  start = position(0)
  wide = {**start.params, 'a': jnp.zeros((30, 41), jnp.float32)}
  half = {**start.params, 'a': start.params['a'].astype(jnp.bfloat16)}
  more = {**start.params, 'd': jnp.zeros(2)}
  fewer = {'a': start.params['a']}
  return {
    'params': start._replace(params=wide),
    'half': start._replace(params=half),
    'more': start._replace(params=more),
    'fewer': start._replace(params=fewer),
    'optimizer': start._replace(state=optax.sgd(0.1).init(start.params)),
  }


@pytest.mark.parametrize('name', other_networks())
def test_one_of_another_network_is_refused(
  name: str, folder: pathlib.Path
) -> None:
  before = contents(folder)
  with pytest.raises(checkpoints.CheckpointError) as caught:
    restored(folder, other_networks()[name])
  assert 'of another network or optimizer' in str(caught.value)
  assert len(str(caught.value).splitlines()) == 1
  assert contents(folder) == before


@pytest.mark.parametrize('key', ['seed', 'batch_size'])
def test_one_of_another_config_is_refused(
  key: str, folder: pathlib.Path
) -> None:
  config = default.get_config()
  config[key] += 1
  before = contents(folder)
  with pytest.raises(checkpoints.CheckpointError, match=rf'config\.{key} '):
    restored(folder, config=config)
  assert contents(folder) == before


def test_one_that_cannot_be_written_is_an_error(
  folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  def fail(*unused: object, **also_unused: object) -> None:
    raise RuntimeError('of a library below')

  monkeypatch.setattr(checkpoints.ocp.CheckpointManager, 'save', fail)
  with (
    pytest.raises(OSError, match=r'no complete checkpoint \(RuntimeError\)'),
    opened(folder) as saved,
  ):
    saved.save(position(5))
  found = restored(folder)
  assert found is not None
  assert found.step == 4
