"""Runs the examples of pages in one process, as a reader would.

`python tests/house/page_examples.py PAGE...` prints, as JSON, what each example
of each page printed. The examples of a page go on from one another.
"""

from __future__ import annotations

import contextlib
import io
import json
import pathlib
import re
import sys
from typing import Any, NamedTuple

_EXAMPLE = re.compile(
  r'<!-- (?:example|quickstart):.*?-->\s*'
  r'```python\n(.*?)```'
  r'(?:[^`]*?```text\n(.*?)```)?',
  re.S,
)


class Example(NamedTuple):
  """A block of code after a marker.

  Attributes:
    code: after as many empty lines as the page has before it.
    output: what the page says that it prints, the next block; None for nothing.
  """

  code: str
  output: str | None


def of_page(text: str) -> list[Example]:
  return [
    Example('\n' * text.count('\n', 0, m.start(1)) + m[1], m[2])
    for m in _EXAMPLE.finditer(text)
  ]


def printed(page: pathlib.Path) -> list[str]:
  namespace: dict[str, Any] = {'__name__': page.name}
  found = []
  for example in of_page(page.read_text()):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
      exec(compile(example.code, str(page), 'exec'), namespace)
    found.append(out.getvalue())
  return found


if __name__ == '__main__':
  print(json.dumps([printed(pathlib.Path(page)) for page in sys.argv[1:]]))
