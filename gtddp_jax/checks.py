"""Checks of arguments: a value that has no meaning is refused by name."""

from __future__ import annotations

import difflib
import numbers
import operator
from collections.abc import Iterable
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
      f'{", ".join(map(repr, supported))}.{nearest(got, supported)}',
      _argument(name),
    )


def nearest(got: object, names: Iterable[str]) -> str:
  """A question that ends a message: the nearest of some names, if one is near.

  Args:
    got: what was given.
    names: those that are known.

  Returns:
    As in " Did you mean 'bellman'?"; '' if none is near.
  """
  found = difflib.get_close_matches(str(got), list(names), n=1)
  return f' Did you mean {found[0]!r}?' if found else ''


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


def unboxed(path: tuple[Any, ...]) -> tuple[Any, ...]:
  """A key path without the ``.value`` by which a wrapper of a leaf ends it.

  Flax nnx variables and linen's partitioned boxes are such wrappers.
  """
  while path and getattr(path[-1], 'name', None) == 'value':
    path = path[:-1]
  return path


def misfit(expected: Any, got: Any, dtypes: bool = True) -> str | None:
  """Says where a pytree of arrays is not like one of shapes; None if it is.

  Paths and leaves are compared. The containers may differ (a dict, a
  FrozenDict, a Flax nnx state with or without its variables): ``like`` makes
  those of one those of the other.

  Args:
    expected: pytree of shapes.
    got: pytree of arrays; a leaf may be hidden (None, or optax's MaskedNode).
    dtypes: whether they are compared.

  Returns:
    The path of the first leaf that differs, what was expected and what was got.
  """
  wanted, found = (_described(tree, dtypes) for tree in (expected, got))
  for path in wanted.keys() - found.keys():
    for above in found:  # what hides a whole subtree
      if path.startswith(f'{above}/'):
        return f'{above!r}: expected {path!r} there, got {found[above]}'
  for path in [*wanted, *found]:
    ours, theirs = (tree.get(path, 'nothing') for tree in (wanted, found))
    if ours != theirs:
      near = nearest(path, found.keys() - wanted.keys())
      return (
        f'{path!r}: expected {ours}, got {theirs}'
        + (theirs == 'nothing' and bool(near)) * f' ({near.strip()})'
      )
  return None


def like(expected: Any, tree: Any) -> Any:
  """The leaves of a pytree in the containers of another with the same paths.

  Args:
    expected: pytree whose containers are wanted.
    tree: pytree of which ``misfit`` says that it is like the other.

  Returns:
    ``tree`` itself if its containers are the same.
  """
  structure: Any = jax.tree.structure(expected)
  if jax.tree.structure(tree) == structure:
    return tree
  paths, _ = jax.tree_util.tree_flatten_with_path(expected)
  keyed, _ = jax.tree_util.tree_flatten_with_path(tree)
  leaves = {path_of(unboxed(path)): leaf for path, leaf in keyed}
  return jax.tree.unflatten(
    structure, [leaves[path_of(unboxed(path))] for path, _ in paths]
  )


def _described(tree: Any, dtypes: bool) -> dict[str, str]:
  """By path, what each leaf is; hidden ones are leaves."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(
    tree, is_leaf=lambda v: v is None or isinstance(v, optax.MaskedNode)
  )
  return {
    path_of(unboxed(path)): _described_leaf(leaf, dtypes)
    for path, leaf in leaves
  }


def _described_leaf(leaf: Any, dtypes: bool) -> str:
  if not (hasattr(leaf, 'shape') or isinstance(leaf, numbers.Real)):
    return 'None' if leaf is None else type(leaf).__name__
  kind = jnp.result_type(leaf) if dtypes else 'shape '
  return f'{kind}{list(jnp.shape(leaf))}'
