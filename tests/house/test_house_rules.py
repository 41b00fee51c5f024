"""Sizes that keep one idea in one place, and what no file may mention."""

from __future__ import annotations

import ast
import pathlib
import re
import tomllib
from collections.abc import Iterator

import pytest

pytestmark = pytest.mark.once

ROOT = pathlib.Path(__file__).resolve().parents[2]
CODE_FOLDERS = ('configs', 'experiments', 'gtddp_jax', 'scripts', 'tests')
CODE = sorted(p for f in CODE_FOLDERS for p in (ROOT / f).rglob('*.py'))
TEXTS = sorted(
  path
  for pattern in ('*', 'docs/**/*', 'scripts/*', '.ci/*')
  for path in ROOT.glob(pattern)
  if path.is_file() and path.suffix not in ('.npz', '.png', '.py')
)

# A path from the root of a file system, but for those any machine has.
MACHINE_PATH = re.compile(
  r"""(?:^|(?<=[\s'"`(=]))/(?!(?:bin|dev|etc|usr)/)[A-Za-z0-9._-]+/[\w.-]"""
)


def relative(path: pathlib.Path) -> str:
  return path.relative_to(ROOT).as_posix()


def functions(
  path: pathlib.Path,
) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      yield node


@pytest.mark.parametrize('path', CODE, ids=relative)
def test_sizes(path: pathlib.Path) -> None:
  in_tests = relative(path).startswith('tests/')
  assert len(path.read_text().splitlines()) <= 400 or in_tests
  for node in functions(path):
    assert node.end_lineno is not None
    lines = node.end_lineno - node.lineno + 1
    assert lines <= 60 or in_tests, f'{node.name}: {lines} lines'
    given = node.args
    count = len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs)
    private = node.name.startswith('_')
    assert count <= 8 or private or in_tests, f'{node.name}: {count} arguments'


@pytest.mark.parametrize('path', [*CODE, *TEXTS], ids=relative)
def test_no_path_of_one_machine(path: pathlib.Path) -> None:
  found = [
    f'{number}: {line.strip()}'
    for number, line in enumerate(path.read_text().splitlines(), start=1)
    if MACHINE_PATH.search(line)
  ]
  assert not found


def test_the_path_rule_sees_what_it_should() -> None:
  root = '/'  # So that this file is not its own finding.
  for line in (f"open('{root}home/me')", f'cd {root}opt/tool', f'{root}srv/x'):
    assert MACHINE_PATH.search(line)
  for line in (
    '#!/usr/bin/env bash',
    'and/or',
    'a / b',
    '>/dev/null',
    '/.venv/',
  ):
    assert not MACHINE_PATH.search(line)


@pytest.mark.parametrize('name', ['constraints.txt', 'constraints-lowest.txt'])
def test_constraints_hold_versions_alone(name: str) -> None:
  version = re.compile(r'[a-z0-9._-]+==[0-9][a-z0-9.]*( ; .+)?')
  for line in (ROOT / name).read_text().splitlines():
    if not line.lstrip().startswith('#'):
      assert version.fullmatch(line), line
    assert '://' not in line


def test_lower_bounds_are_the_versions_tested() -> None:
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  extras = project['optional-dependencies']
  tested = {
    line.split(' ;')[0]
    for line in (ROOT / 'constraints-lowest.txt').read_text().splitlines()
  }
  for bound in [
    *project['dependencies'],
    *extras['experiments'],
    *extras['test'],
  ]:
    assert bound.replace('>=', '==').replace('_', '-').lower() in tested, bound
