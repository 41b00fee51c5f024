"""The rooms of the package, read from their imports.

That an import goes to a lower room is a contract in pyproject.toml, which
`lint-imports` checks. Here: a room is entered through its `__init__` alone, the
page lists the rooms, and who may touch what outside of the package.
"""

from __future__ import annotations

import ast
import pathlib
import re
from collections.abc import Iterator

import pytest

import gtddp_jax

pytestmark = pytest.mark.once

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = 'gtddp_jax'

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


def is_module(package: str, name: str) -> bool:
  """Whether a name in a package is a module, not what its door calls so."""
  path = f'{package}.{name}'.replace('.', '/')
  if not (ROOT / f'{path}.py').exists():
    return False
  return name not in exported(package)


def exported(package: str) -> set[str]:
  """`__all__` of a package, without importing it."""
  door = ROOT / package.replace('.', '/') / '__init__.py'
  for node in ast.parse(door.read_text()).body:
    match node:
      case ast.Assign(targets=[ast.Name(id='__all__')]):
        return set(ast.literal_eval(node.value))
  return set()


def imported_modules(path: pathlib.Path) -> Iterator[str]:
  """As `imports`, with `from package import module` counted as the module."""
  for module, name in imports(path):
    qualified = f'{module}.{name}'
    if name and is_module(module, name):
      yield qualified
    else:
      yield module


def test_the_page_lists_every_room_and_every_module() -> None:
  page = (ROOT / 'ARCHITECTURE.md').read_text()
  listed = {
    f'{room}/{name}' if room else name
    for room, names in re.findall(
      r'^\| \d \| (?:`([\w/]+)/`)? *\| ([^|]+) \|', page, re.M
    )
    for name in re.findall(r'`(\w+)`', names)
  }
  assert listed == {
    path.relative_to(ROOT / PACKAGE).with_suffix('').as_posix()
    for path in MODULES
    if path.name != '__init__.py'
  }


@pytest.mark.parametrize('path', MODULES, ids=relative)
def test_a_room_is_entered_through_its_door(path: pathlib.Path) -> None:
  package = '.'.join(path.relative_to(ROOT).parent.parts)
  for module in imported_modules(path):
    if module.startswith(f'{PACKAGE}.'):
      room = module.rpartition('.')[0]
      assert f'{package}.'.startswith(f'{room}.'), module


@pytest.mark.parametrize('path', MODULES, ids=relative)
def test_only_curvature_asks_what_a_base_is(path: pathlib.Path) -> None:
  if 'curvature' in path.parts:
    return
  for node in ast.walk(ast.parse(path.read_text())):
    match node:
      case ast.Call(func=ast.Name(id='isinstance'), args=[_, kinds]):
        assert 'curvature_lib' not in ast.unparse(kinds)


def test_one_module_touches_what_jax_calls_an_extension() -> None:
  users = {
    relative(path)
    for path in EVERYTHING
    for module, name in imports(path)
    if f'{module}.{name}'.startswith('jax.extend')
  }
  assert users == {f'{PACKAGE}/graph/program.py'}


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
