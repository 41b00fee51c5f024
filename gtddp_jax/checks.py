"""Checks of arguments: a value that has no meaning is refused by name."""

from __future__ import annotations

import numbers
import operator
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import optax

from gtddp_jax import errors


def check_positive(name: str, value: object) -> int:
  """Returns a positive integer, or raises ``OptionError``."""
  try:
    number = operator.index(value)  # type: ignore[arg-type]
  except TypeError:
    number = 0
  if isinstance(value, bool) or number < 1:
    raise errors.OptionError(
      f'Invalid {name}: got {value!r}, expected a positive integer.',
      _argument(name),
    )
  return number


def check_fraction(name: str, value: object) -> None:
  """Raises ``OptionError`` unless a value is a number in ``[0, 1)``."""
  if not is_number(value) or not 0 <= value < 1:
    raise errors.OptionError(
      f'Invalid {name}: got {value!r}, expected a number from 0 to 1, 1 '
      f'excluded.',
      _argument(name),
    )


def is_number(value: object) -> TypeGuard[float]:
  """Whether a value is an integer or a floating-point number."""
  return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_option(name: str, got: object, supported: tuple[str, ...]) -> None:
  """Raises ``OptionError`` unless ``got`` is one of the ``supported`` words."""
  if got not in supported:
    raise errors.OptionError(
      f'Invalid {name}: got {got!r}, expected one of '
      f'{", ".join(map(repr, supported))}.',
      _argument(name),
    )


def _argument(name: str) -> str:
  """The argument in a name such as 'kfac: damping' or 'memory (bytes)'."""
  return name.rpartition(': ')[2].partition(' ')[0]


def check_real(name: str, params: Any) -> None:
  """Raises ``OptionError`` for a complex leaf of a pytree of parameters."""
  for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
    if jnp.iscomplexobj(leaf):
      raise errors.OptionError(
        f'{name}: parameter {path_of(path)!r} is {leaf.dtype}: expected real '
        f'numbers. Make it of two real parameters in apply_fn, or use adam.'
      )


def path_of(path: tuple[Any, ...]) -> str:
  """A key path as '/'-joined text."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def misfit(expected: Any, got: Any, dtypes: bool = True) -> str | None:
  """Says where a pytree of arrays is not like one of shapes; None if it is.

  Args:
    expected: pytree of shapes.
    got: pytree of arrays; a leaf may be hidden (None, or optax's MaskedNode).
    dtypes: whether they are compared.

  Returns:
    The path of the first leaf that differs, what was expected and what was got.
  """
  wanted, found = (_described(tree, dtypes) for tree in (expected, got))
  for path in [*wanted, *found]:
    ours, theirs = (tree.get(path, 'nothing') for tree in (wanted, found))
    if ours != theirs:
      return f'{path!r}: expected {ours}, got {theirs}'
  kinds: Any = [jax.tree.structure(tree) for tree in (expected, got)]
  return (
    None if kinds[0] == kinds[1] else f'expected {kinds[0]}, got {kinds[1]}'
  )


def _described(tree: Any, dtypes: bool) -> dict[str, str]:
  """By path, what each leaf is; hidden ones are leaves."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(
    tree, is_leaf=lambda v: v is None or isinstance(v, optax.MaskedNode)
  )
  return {path_of(path): _described_leaf(leaf, dtypes) for path, leaf in leaves}


def _described_leaf(leaf: Any, dtypes: bool) -> str:
  if not (hasattr(leaf, 'shape') or isinstance(leaf, numbers.Real)):
    return 'None' if leaf is None else type(leaf).__name__
  kind = jnp.result_type(leaf) if dtypes else 'shape '
  return f'{kind}{list(jnp.shape(leaf))}'
