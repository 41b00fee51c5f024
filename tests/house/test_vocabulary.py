"""One word for one thing: what code, messages, reports and pages do not say."""

from __future__ import annotations

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted(
  [
    path
    for folder in ('configs', 'docs', 'experiments', 'gtddp_jax', 'scripts')
    for path in (ROOT / folder).rglob('*')
    if path.suffix in ('.py', '.md')
  ]
  + [*ROOT.glob('*.md')]
)
# In place of: significant, variant, control gradient, joint update, value
# recursion, normalization layer disables the joint update.
LEFT_OVER = re.compile(
  r'told apart|verdict|open gain|decid\w+ together|value levels?\b'
  r'|experiments\.levels|ends the game|layers? answers?\b',
  re.IGNORECASE,
)


@pytest.mark.once
def test_left_over_words() -> None:
  found = {path: LEFT_OVER.findall(path.read_text()) for path in FILES}
  assert not {path: words for path, words in found.items() if words}


def test_the_rule_sees_what_it_should() -> None:
  for text in (
    'Not told apart',
    'verdicts',
    'value level',
    'deciding together',
  ):
    assert LEFT_OVER.search(text)
