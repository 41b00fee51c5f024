"""The pages are whole: their links lead somewhere, what is generated is new."""

from __future__ import annotations

import pathlib
import re

import api_reference
import pytest

import gtddp_jax

pytestmark = pytest.mark.once

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob('*.md'), *(ROOT / 'docs').rglob('*.md')])

_FENCE = re.compile(r'^```.*?^```', re.M | re.S)
_LINK = re.compile(r'\]\(([^)\s]+)\)')
_HEADING = re.compile(r'^#+ +(.+?) *$', re.M)
_ELSEWHERE = ('http://', 'https://')


def prose(page: pathlib.Path) -> str:
  return _FENCE.sub('', page.read_text())


def anchors(page: pathlib.Path) -> set[str]:
  """What GitHub makes of the headings of a page."""
  titles = (heading.lower() for heading in _HEADING.findall(prose(page)))
  return {re.sub(r'[^\w\- ]', '', title).replace(' ', '-') for title in titles}


def relative(path: pathlib.Path) -> str:
  return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize('page', PAGES, ids=relative)
def test_links_lead_somewhere(page: pathlib.Path) -> None:
  for link in _LINK.findall(prose(page)):
    if link.startswith(_ELSEWHERE):
      continue
    name, _, anchor = link.partition('#')
    target = page.parent / name if name else page
    assert target.exists(), f'{relative(page)}: {link}'
    if anchor:
      assert anchor in anchors(target), f'{relative(page)}: {link}'


def test_every_page_is_in_the_index() -> None:
  index = ROOT / 'docs' / 'README.md'
  linked = {
    (index.parent / link.partition('#')[0]).resolve()
    for link in _LINK.findall(prose(index))
    if not link.startswith(_ELSEWHERE)
  }
  missing = {*PAGES} - linked - {index, ROOT / 'CHANGELOG.md'}
  # The results have an index of their own.
  assert not [page for page in missing if 'results' not in page.parts]


def test_the_reference_has_every_public_name() -> None:
  listed = [name for names in api_reference.GROUPS.values() for name in names]
  assert sorted(listed) == sorted(gtddp_jax.__all__)


def test_the_reference_is_that_of_the_docstrings() -> None:
  assert api_reference.section() in api_reference.PAGE.read_text(), (
    'write it anew: python tests/house/api_reference.py'
  )
