"""One word for one thing: what code, messages and reports do not say."""

from __future__ import annotations

import pathlib
import re

import pytest

import experiments

ROOT = pathlib.Path(experiments.__file__).parents[1]
FILES = sorted(
  path
  for folder in ('configs', 'experiments')
  for path in (ROOT / folder).rglob('*.py')
)
# In place of: significant, variant, control gradient, joint update, value
# recursion, normalization layer disables the joint update.
LEFT_OVER = re.compile(
  r'told apart|verdict|open gain|decid\w+ together|value levels?\b'
  r'|experiments\.levels|ends the game',
  re.IGNORECASE,
)


@pytest.mark.parametrize('path', FILES, ids=lambda p: p.stem)
def test_left_over_words(path: pathlib.Path) -> None:
  assert not LEFT_OVER.findall(path.read_text())


def test_the_rule_sees_what_it_should() -> None:
  for text in (
    'Not told apart',
    'verdicts',
    'value level',
    'deciding together',
  ):
    assert LEFT_OVER.search(text)
