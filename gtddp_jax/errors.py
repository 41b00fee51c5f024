"""Errors, each documented by the smallest program that raises it.

Every message has four parts: what failed (with the parameter path or the key),
what was expected, what was got, and what to do about it.
"""

from __future__ import annotations

import numbers
import operator
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import optax


class GtddpError(ValueError):
  """Base class of all errors that this library raises on purpose."""


class UnownedParameterError(GtddpError):
  """A parameter does not influence the outputs, so no stage decides it.

  ::

    gt.trace(lambda p, x: x @ p['w'], {'w': w, 'unused': v}, x)
  """


class ControlDtypeError(GtddpError):
  """A parameter leaf is not a floating-point array.

  ::

    gt.trace(apply_fn, {'w': w, 'step': jnp.int32(0)}, x)
  """


class BatchAxisError(GtddpError):
  """An output, or a value at a cut, does not have the batch as leading axis.

  ::

    gt.trace(lambda p, x: (x @ p['w']).mean(axis=0), {'w': w}, x)
  """


class UncuttableStageError(GtddpError):
  """One opaque equation reads parameters of several modules.

  ::

    @jax.custom_vjp
    def block(p, x): ...            # reads p['a']['w'] and p['b']['w']

    gt.trace(block, {'a': {'w': a}, 'b': {'w': b}}, x)
  """


class TraceMismatchError(GtddpError):
  """The composed stages do not reproduce ``apply_fn``, as with side effects.

  ::

    gt.trace(lambda p, x: x @ p['w'] + next(counter), {'w': w}, x)
  """


class ParameterTreeError(GtddpError):
  """The parameters given differ from those that the graph was traced with.

  ::

    graph = gt.trace(apply_fn, params, inputs)
    graph({'other': params}, inputs)
  """


class LossError(GtddpError):
  """A loss does not return one value per sample, or cannot be expanded.

  ::

    tx = gt.gt_ddp(graph, lambda o, t: jnp.mean((o - t) ** 2), gt.sgd(0.1))
    tx.update(None, tx.init(params), params, batch=(x, y))
  """


class OptionError(GtddpError):
  """An option of ``gt_ddp`` or of a base optimizer has no meaning.

  ::

    gt.gt_ddp(graph, loss, gt.sgd(0.1), value='belman')

  Attributes:
    argument: the name of the one to change; '' if there is no single one.
  """

  def __init__(self, message: str, argument: str = ''):
    super().__init__(message)
    self.argument = argument


class NoGameWarning(UserWarning):
  """Layers were to decide together, and nothing makes them players.

  ::

    gt.gt_ddp(graph, loss, gt.sgd(0.1), cooperation='schur')
  """


def check_positive(name: str, value: object) -> int:
  """Returns a positive integer, or raises ``OptionError``."""
  try:
    number = operator.index(value)  # type: ignore[arg-type]
  except TypeError:
    number = 0
  if isinstance(value, bool) or number < 1:
    raise OptionError(
      f'Invalid {name}: got {value!r}, expected a positive integer.',
      _argument(name),
    )
  return number


def check_fraction(name: str, value: object) -> None:
  """Raises ``OptionError`` unless a value is a number in ``[0, 1)``."""
  if not is_number(value) or not 0 <= value < 1:
    raise OptionError(
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
    raise OptionError(
      f'Invalid {name}: got {got!r}, expected one of '
      f'{", ".join(map(repr, supported))}.',
      _argument(name),
    )


def _argument(name: str) -> str:
  """The argument in a name such as 'kfac: damping' or 'memory (bytes)'."""
  return name.rpartition(': ')[2].partition(' ')[0]


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
