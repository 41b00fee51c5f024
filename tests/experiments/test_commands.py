"""The commands that the pages name are there, by their present names."""

from __future__ import annotations

import importlib.util
import pathlib
import re

import pytest

import experiments

pytestmark = pytest.mark.once

ROOT = pathlib.Path(experiments.__file__).parents[1]
PAGES = sorted(
  path
  for pattern in ('*.md', 'docs/*.md', 'docs/how-to/*.md', 'scripts/*')
  for path in ROOT.glob(pattern)
  if path.is_file() and path.name != 'CHANGELOG.md'
)
_COMMAND = re.compile(r'python -m\s+((?:experiments|scripts)\.[\w.]+\w)')


def test_commands_that_pages_name_are_there() -> None:
  found = {
    name for page in PAGES for name in _COMMAND.findall(page.read_text())
  }
  assert len(found) > 8
  for name in found - {'experiments.NAME', 'experiments.studies.NAME'}:
    spec = importlib.util.find_spec(name)
    assert spec is not None, name
    if spec.submodule_search_locations is not None:
      assert importlib.util.find_spec(f'{name}.__main__'), name


@pytest.mark.parametrize('old', experiments.MOVED)
def test_no_page_names_an_old_command(old: str) -> None:
  for page in PAGES:
    assert not re.search(rf'experiments\.{old}\b(?!\.py)', page.read_text()), (
      page
    )
