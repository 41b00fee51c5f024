"""A command line that cannot be used ends with one line and nothing made."""

from __future__ import annotations

import importlib.util
import pathlib

import numpy as np
import pytest
from cli_case import ROOT, outside, parsed

import experiments
import gtddp_jax as gt
from experiments import train
from experiments.optimizers import registry
from experiments.runs import cli, messages
from experiments.studies.methods import study

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.chdir(ROOT)


REFUSED = {
  '--config.batch=1': 'config.batch: expected one of batch_size',
  '--config.epoch=3': 'perhaps epochs was meant',
  '--config.optimizer.base.lr=1': 'config.optimizer.base.lr: expected one of',
  '--config.batch_size.x=1': 'config.batch_size: expected no key in it',
  '--config.batch_size=many': 'config.batch_size: expected a value of type int',
  '--config.epochs=1.5': 'config.epochs: expected a value of type int',
  '--config.optimizer.feedback=x': 'optimizer.feedback: expected a value of',
  '--config.batch_size=5000': 'expected an integer from 1 to 1437',
  '--config.optimizer.name=lars': 'config.optimizer.name: expected one of sgd',
  '--config.optimizer.base.learning_rate=-1': 'expected a finite number above',
  '--config=configs/mnist.py --config.dataset.data_dir=none': (
    'expected mnist prepared in none/mnist, got no such folder; put train-imag'
  ),
  '--config.optimizer.base.learning_rate=nan': 'expected a finite number above',
  '--config.optimizer.accumulate=0': 'accumulate: expected an integer from 1',
  '--config.optimizer.schedule.name=step': 'expected one of constant, cosine',
  '--config.optimizer.schedule.final=0.1': 'because constant does not read it',
  '--config.model.compute_dtype=int8': 'expected one of float32, bfloat16',
  '--config.checkpoint_seconds=-1': 'expected a finite number from 0',
  (
    '--config.optimizer.name=gt_ddp --config.optimizer.base.name=adamw '
    '--config.optimizer.value=bellman'
  ): "expected 'frozen', because the base adamw has no explicit curvature",
  '--config=configs/absent.py': '--config: expected a Python file',
  '--config=configs/digits.py:lars': 'expected one of adam',
  '--epochs=3': 'perhaps --config.epochs was meant',
  '--learning-rate=3': 'perhaps --config.optimizer.base.learning_rate was',
  '--configs=configs/digits.py': '--configs: expected a flag that there is',
  '--workdir': '--workdir: expected one argument',
  'runs': 'expected only flags',
}


@pytest.mark.parametrize('argument', REFUSED)
def test_refusals(
  argument: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  folder = tmp_path / 'run'
  with pytest.raises(SystemExit) as caught:
    parsed(f'--workdir={folder}', *argument.split())
  assert caught.value.code == 2
  output = capsys.readouterr()
  assert not output.out
  assert len(output.err.splitlines()) == 1
  assert output.err.startswith('error: ')
  assert REFUSED[argument] in output.err
  assert not folder.exists()


def test_a_refusal_from_outside(tmp_path: pathlib.Path) -> None:
  done = outside(
    'train',
    '--config=configs/digits.py',
    '--config.optimizer.terminal=hessian',
    f'--workdir={tmp_path / "run"}',
  )
  assert done.returncode == 2
  assert not done.stdout
  assert done.stderr == (
    'error: config.optimizer.terminal: expected one of gradient, '
    "gauss_newton, got 'hessian'; give another, as in "
    '--config.optimizer.terminal=gradient.\n'
  )
  assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_files_is_refused(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  (tmp_path / 'notes.txt').write_text('mine')
  with pytest.raises(SystemExit) as caught:
    parsed(f'--workdir={tmp_path}')
  assert caught.value.code == 2
  assert '--overwrite' in capsys.readouterr().err
  assert parsed(f'--workdir={tmp_path}', '--overwrite').flags.overwrite
  assert parsed(f'--workdir={tmp_path}', '--dry_run').flags.dry_run


def refusal(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
  """The one line that a training of this command line ends with."""
  with pytest.raises(SystemExit) as caught:
    cli.parse(train.COMMAND, command)
  assert caught.value.code == 2
  error = capsys.readouterr().err
  assert len(error.splitlines()) == 1
  return error


UNREAD = {
  '--config.optimizer.value=bellman --config.optimizer.trust_region=0.1': (
    'config.optimizer.value, config.optimizer.trust_region: expected no value '
    "on the command line, because adam does not read it, got 'bellman', 0.1; "
    'remove it, or set config.optimizer.name=gt_ddp.'
  ),
  '--config.optimizer.base.name=sgd': 'optimizer.base.name: expected no value',
  '--noconfig.optimizer.feedback': 'optimizer.feedback: expected no value',
  (
    '--config.optimizer.name=gt_ddp --noconfig.optimizer.feedback '
    '--config.optimizer.terminal=gauss_newton'
  ): 'or set config.optimizer.feedback=true',
}


@pytest.mark.parametrize('argument', UNREAD)
def test_what_the_optimizer_would_not_read_is_refused(
  argument: str, capsys: pytest.CaptureFixture[str]
) -> None:
  command = ['train', *argument.split()]
  assert UNREAD[argument] in refusal(command, capsys)
  # A study or a sweep gives its options to those runs that read them.
  parsed(*command[1:])
  # What a file sets for gt_ddp, or has the default value, is no mistake.
  usual = '--config.optimizer.value=frozen'
  cli.parse(train.COMMAND, ['train', usual])


def test_only_a_training_takes_several_devices(
  capsys: pytest.CaptureFixture[str],
) -> None:
  command = ['value_recursions', '--config.devices=0']
  with pytest.raises(SystemExit):
    parsed(*command[1:])
  assert 'only experiments.train takes another' in capsys.readouterr().err


RATES = {
  '--config.optimizer.name=sgd': 'whose usual is 0.1, got that of adam, 0.003;',
  '--config.optimizer.name=gt_ddp --config.optimizer.base.name=rmsprop': (
    'config.optimizer.base.learning_rate: expected one for rmsprop'
  ),
}


@pytest.mark.parametrize('argument', RATES)
def test_a_base_does_not_take_the_rate_of_another(
  argument: str, capsys: pytest.CaptureFixture[str]
) -> None:
  command = ['train', *argument.split()]
  assert RATES[argument] in refusal(command, capsys)
  own = '--config.optimizer.base.learning_rate=0.003'
  cli.parse(train.COMMAND, [*command, own])
  form = '--config.optimizer.name=gt_ddp'
  cli.parse(train.COMMAND, ['train', form])


def test_keys_are_overridden() -> None:
  values = parsed(
    '--config=configs/digits.py:sgd',
    '--config.optimizer.name=gt_ddp',
    '--config.optimizer.trust_region=2',
    '--config.model.widths=(4, 8)',
    '--noconfig.optimizer.feedback',
  )
  assert values.config.optimizer.name == 'gt_ddp'
  assert values.config.optimizer.base.name == 'sgd'
  assert values.config.optimizer.trust_region == 2.0
  assert values.config.model.widths == (4, 8)
  assert values.config.optimizer.feedback is False
  assert values.config.is_locked


@pytest.mark.parametrize(
  'arguments',
  [
    ['--workdir=a', '--config.seed=1'],
    ['--workdir', 'a', '--config.seed=1'],
    ['--overwrite', '--config.seed=1'],
    ['--config.seed=1', '--overwrite=true', '-workdir', 'a'],
    ['--config.seed=1'],
  ],
)
def test_the_command_that_goes_on(arguments: list[str]) -> None:
  assert cli.command_line('train', arguments, pathlib.Path('my runs')) == (
    "python -m experiments.train --config.seed=1 '--workdir=my runs'"
  )


def test_a_warning_of_the_library_names_the_key() -> None:
  said: list[str] = []
  config = parsed('--config.optimizer.cooperation=schur').config
  network = gt.trace(
    lambda p, x: x @ p['w'], {'w': np.ones((2, 2))}, np.ones((3, 2))
  )
  options = {**registry.options(config.optimizer), 'trust_region': None}
  with messages.telling(said.append):
    gt.gt_ddp(network, gt.losses.squared_error, gt.ekfac(0.1, 0.1), **options)
  assert len(said) == 1
  assert said[0].startswith('warning: config.optimizer.cooperation: ')


def test_a_dry_run_of_others_is_refused() -> None:
  done = outside('studies.games', '--dry_run')
  assert done.returncode == 2
  assert done.stderr == (
    'error: --dry_run: expected no such flag but with experiments.train, got '
    'it; remove it.\n'
  )


def test_a_folder_of_its_own() -> None:
  path = cli.folder_path(cli.Command('studies.compare', print), parsed().flags)
  assert path.parent == pathlib.Path('runs')
  assert path.name.startswith('compare-')


def test_help_lists_every_flag_and_key() -> None:
  done = outside('studies.games', '--help')
  assert done.returncode == 0
  assert 'What joint updates of players gain' in done.stdout
  for flag in ('workdir', 'overwrite', 'config.seed=0', 'config.games.seeds='):
    assert f'--{flag}' in done.stdout
  assert 'per step (finite rates above 0, none twice)' in done.stdout


def test_a_command_that_has_moved_says_its_new_name() -> None:
  done = outside('levels', '--workdir=x')
  assert done.returncode == 2
  assert len(done.stderr.splitlines()) == 1
  assert 'run python -m experiments.studies.value_recursions' in done.stderr
  for name in experiments.MOVED.values():
    module = name.split()[0]
    assert importlib.util.find_spec(module), module


def test_a_key_that_had_another_name_is_taken_and_said(
  capsys: pytest.CaptureFixture[str],
) -> None:
  asked = parsed('--config.compare.learning_rate.adam=0.5')
  assert asked.config.learning_rates.adam == 0.5
  assert capsys.readouterr().err == (
    'warning: config.compare.learning_rate.adam is now '
    'config.learning_rates.adam; use that name.\n'
  )


def test_a_comparison_by_its_old_keys(tmp_path: pathlib.Path) -> None:
  old = ('seeds=(7,)', 'bases=("sgd",)', 'target=0.5')
  argv = [f'--config.compare.{word}' for word in old]
  config = cli.parse(
    study.COMMAND, ['methods', f'--workdir={tmp_path}', *argv]
  ).config
  assert config.methods.seeds == (7,) and config.methods.bases == ('sgd',)
  assert config.methods.target_accuracy == 0.5
