"""The picture of the modules, read from their imports.

An import goes only to a strictly lower floor, so the package has no cycle and
can be read from the bottom up. A new module is given its floor here.
"""

from __future__ import annotations

import ast
import pathlib
import re
from collections.abc import Iterator

import pytest

import gtddp_jax

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = 'gtddp_jax'

FLOORS = {
  'errors': 0,
  'graph': 1,
  'jaxprs': 1,
  'linalg': 1,
  'losses': 1,
  'patches': 1,
  'batches': 2,
  'contractions': 2,
  'curvature': 2,
  'cuts': 2,
  'terminal': 3,
  'trajectory': 2,
  'verification': 2,
  'inverses': 3,
  'layers': 3,
  'low_rank': 4,
  'moments': 3,
  'building': 4,
  'game': 4,
  'joint': 4,
  'per_sample': 4,
  'stagewise': 4,
  'player': 5,
  'tracing': 5,
  'sensitivity': 6,
  'kronecker': 7,
  'values': 7,
  'bellman': 8,
  'coupled': 8,
  'natural': 8,
  'rollout': 8,
  'preconditioned': 9,
  'steps': 10,
  'options': 11,
  'transform': 12,
  'analysis': 13,
  'augmented': 13,
  '__init__': 14,
}

# Modules that are used by their own name; the package does not import them.
APART = {'augmented'}

MODULES = sorted((ROOT / PACKAGE).rglob('*.py'))
APPLICATION = sorted(
  path
  for folder in ('configs', 'experiments', 'scripts')
  for path in (ROOT / folder).rglob('*.py')
)
EVERYTHING = [*MODULES, *APPLICATION]


def relative(path: pathlib.Path) -> str:
  return path.relative_to(ROOT).as_posix()


def imports(path: pathlib.Path) -> Iterator[tuple[str, str | None]]:
  """Every `(module, name)` imported; the name is None for `import module`."""
  package = path.relative_to(ROOT).parent.parts
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from ((alias.name, None) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      parents = package[: len(package) - node.level + 1] if node.level else ()
      module = '.'.join([*parents, *filter(None, [node.module])])
      yield from ((module, alias.name) for alias in node.names)


def imported_modules(path: pathlib.Path) -> Iterator[str]:
  """As `imports`, with `from package import module` counted as the module."""
  for module, name in imports(path):
    qualified = f'{module}.{name}'
    if name and (ROOT / f'{qualified.replace(".", "/")}.py').exists():
      yield qualified
    else:
      yield module


def floor(module: str) -> int:
  """The floor of a module of the package, named from the package on."""
  name = module.removeprefix(PACKAGE).removeprefix('.').split('.')[0]
  return FLOORS[name or '__init__']


def test_every_module_has_a_floor_and_every_floor_a_module() -> None:
  names = {path.relative_to(ROOT / PACKAGE).parts[0] for path in MODULES}
  assert {name.removesuffix('.py') for name in names} == set(FLOORS)


def test_the_page_draws_the_same_picture() -> None:
  page = (ROOT / 'ARCHITECTURE.md').read_text()
  drawn = {
    name: int(number)
    for number, names in re.findall(r'^\| (\d+) \| ([^|]+) \|', page, re.M)
    for name in re.findall(r'`(\w+)`', names)
  }
  assert drawn == FLOORS


@pytest.mark.parametrize('path', MODULES, ids=relative)
def test_imports_go_to_a_lower_floor(path: pathlib.Path) -> None:
  own = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
  for module in imported_modules(path):
    if module.split('.')[0] == PACKAGE:
      assert floor(module) < floor(own), f'{own} imports {module}'


def test_one_module_touches_what_jax_calls_an_extension() -> None:
  users = {
    relative(path)
    for path in EVERYTHING
    for module, name in imports(path)
    if f'{module}.{name}'.startswith('jax.extend')
  }
  assert users == {f'{PACKAGE}/jaxprs.py'}


@pytest.mark.parametrize('path', EVERYTHING, ids=relative)
def test_no_internals_of_others(path: pathlib.Path) -> None:
  text = path.read_text()
  for library in ('jax', 'jaxlib', 'flax', 'optax', 'chex'):
    assert f'{library}._src' not in text
  for module, name in imports(path):
    for part in [*module.split('.'), *filter(None, [name])]:
      assert part.startswith('__') or not part.startswith('_'), module


@pytest.mark.parametrize('path', MODULES, ids=relative)
def test_the_library_knows_no_application(path: pathlib.Path) -> None:
  tops = {module.split('.')[0] for module in imported_modules(path)}
  assert tops.isdisjoint({'configs', 'experiments', 'scripts', 'tests'})


@pytest.mark.parametrize('path', APPLICATION, ids=relative)
def test_applications_use_public_names_alone(path: pathlib.Path) -> None:
  aliases = set()
  tree = ast.parse(path.read_text())
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      for alias in node.names:
        assert not alias.name.startswith(f'{PACKAGE}.'), alias.name
        if alias.name == PACKAGE:
          aliases.add(alias.asname or PACKAGE)
  for module, name in imports(path):
    assert not module.startswith(f'{PACKAGE}.'), module
    if module == PACKAGE and name:
      assert name in {*gtddp_jax.__all__, *APART}, name
  for node in ast.walk(tree):
    match node:
      case ast.Attribute(value=ast.Name(id=owner), attr=name):
        assert owner not in aliases or name in gtddp_jax.__all__, name
