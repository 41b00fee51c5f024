"""The operations that a program is made of."""

from __future__ import annotations

import re
from typing import Any

import jax
from jax.extend import core as jex
from programs import Network


def primitives_of(network: Network) -> tuple[str, ...]:
  """The names of all operations, also of those within others."""
  shapes = jax.eval_shape(lambda: (network.params(), network.inputs()))
  found: set[str] = set()

  def visit(jaxpr: Any) -> None:
    for equation in jaxpr.eqns:
      found.add(equation.primitive.name)
      for value in equation.params.values():
        for leaf in value if isinstance(value, (tuple, list)) else (value,):
          leaf = getattr(leaf, 'jaxpr', leaf)
          if isinstance(leaf, jex.Jaxpr):
            visit(leaf)

  visit(jax.make_jaxpr(network.apply)(*shapes).jaxpr)
  return tuple(sorted(found))


def names_something(
  message: str, network: Network, primitives: tuple[str, ...]
) -> bool:
  """Whether a message names an operation or a parameter of the program."""
  words = set(re.findall(r'[\w/]+', message))
  modules = {path.split('/')[0] for path in network.leaves}
  return bool(words & {*primitives, *network.leaves, *modules})
