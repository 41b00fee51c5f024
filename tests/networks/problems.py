"""A table of small networks: each as a function and as a hand-written chain.

Adding a network is adding a row: a function decorated with `row`, in one of
the modules imported here, that draws its numbers from `r` and returns a
`Problem`. The chain is written for one sample; its states hold what is still
needed before each control. Rows are built when first called.
"""

from __future__ import annotations

import networks_branches  # noqa: F401 (a module adds its rows when imported)
import networks_flax  # noqa: F401
import networks_plain  # noqa: F401
from networks import TABLE, Problem

PROBLEMS = TABLE
__all__ = ['PROBLEMS', 'Problem']
