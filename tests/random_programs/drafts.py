"""Drafts: how a random program is put together, one small operation at a time.

A program is a list of *atoms*, each a pure function of a few earlier values and
parameter leaves. A value knows where its batch is: its axes are products of
factors, one of which is the batch `b`, as in::

    b 3 2       batch first             3 b 2      time (or experts) first
    b*3 2       the rows of a sample    3*b 2      the rows of a sample apart
                next to each other

An atom that reads a leaf must read it before anything that is not linear in its
values: the cut before a control is then the cut before the atom that reads it
first, and no knowledge of the library is needed to say what is alive there.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array
Axis = tuple[Any, ...]  # factors: whole numbers, and 'b' once in a value
B = 'b'
MOST_MODULES = 5  # and one for the head
LARGEST = 24  # numbers per sample in a value
WIDTHS = (3, 2, 4)


class UnfitError(Exception):
  """An operation has nothing that it can work on; it is left out."""


class Value(NamedTuple):
  """What is known of a value.

  Attributes:
    axes: each a product of lengths, one of which may be the batch's, `B`.
    kind: 'f' real, 'c' complex, 'i' integer, '?' boolean.
    bound: integers are smaller than this.
  """

  axes: tuple[Axis, ...]
  kind: str = 'f'
  bound: int = 0

  def shape(self, batch: int) -> tuple[int, ...]:
    return tuple(
      math.prod(batch if f == B else f for f in axis) for axis in self.axes
    )

  @property
  def batch_axis(self) -> int:
    return next(i for i, axis in enumerate(self.axes) if B in axis)

  @property
  def pure(self) -> bool:
    """Whether the batch has an axis of its own."""
    return (B,) in self.axes

  @property
  def features(self) -> list[int]:
    """The axes without the batch, the last one first."""
    return [i for i, axis in enumerate(self.axes) if B not in axis][::-1]

  @property
  def size(self) -> int:
    """Numbers per sample."""
    return math.prod(self.shape(1))

  def length(self, axis: int) -> int:
    """Of an axis without the batch."""
    return math.prod(self.axes[axis])

  def without(self, axis: int) -> Value:
    return self._replace(axes=(*self.axes[:axis], *self.axes[axis + 1 :]))

  def with_axis(self, axis: int, length: int) -> Value:
    """With another length of an axis."""
    axes = (*self.axes[:axis], (length,), *self.axes[axis + 1 :])
    return self._replace(axes=axes)

  def inserted(self, axis: int, length: int) -> Value:
    """With one more axis."""
    axes = (*self.axes[:axis], (length,), *self.axes[axis:])
    return self._replace(axes=axes)

  def __str__(self) -> str:
    kinds = {'f': 'real', 'c': 'complex', 'i': 'integer', '?': 'boolean'}
    axes = ' '.join('*'.join(map(str, axis)) for axis in self.axes)
    return f'{kinds[self.kind]} [{axes}]'


class Leaf(NamedTuple):
  """A parameter leaf; numbers are drawn with this standard deviation."""

  shape: tuple[int, ...]
  kind: str
  scale: float
  mean: float


Run = Callable[..., tuple[Array, ...]]


class Atom(NamedTuple):
  """One step of a program.

  Attributes:
    text: how it would be written.
    run: `(batch size, leaves by path, *values) -> values`.
    reads: numbers of the values that it reads.
    makes: numbers of the values that it makes.
    leaves: paths of the leaves that it reads.
    meets: '' if no samples meet in it; 'alike' if all are treated alike, 'in
      order' if their order matters.
    kind: of the operation that it belongs to.
  """

  text: str
  run: Run
  reads: tuple[int, ...]
  makes: tuple[int, ...]
  leaves: tuple[str, ...] = ()
  meets: str = ''
  kind: str = ''


class Draft:
  """A program in the making.

  Attributes:
    values: all values so far.
    atoms: all steps so far.
    leaves: parameter leaves by path.
    consumed: values whose derivative somebody needs.
  """

  def __init__(self) -> None:
    self.values: list[Value] = []
    self.atoms: list[Atom] = []
    self.leaves: dict[str, Leaf] = {}
    self.consumed: set[int] = set()
    self._picks: Sequence[int] = ()
    self._next = 0
    self._modules = 0
    self._latest = False
    self._kind = ''

  def begin(self, picks: Sequence[int]) -> None:
    """The numbers that decide what the coming operation does."""
    self._picks, self._next = picks, 0

  def number(self) -> int:
    """The next of them; zeros after the last."""
    self._next += 1
    return self._picks[self._next - 1] if self._next <= len(self._picks) else 0

  def one_of(self, items: Sequence[Any]) -> Any:
    """A choice; the first item is the simplest."""
    if not items:
      raise UnfitError
    return items[self.number() % len(items)]

  def seldom(self, n: int) -> bool:
    """True once in `n`."""
    return self.number() % n == n - 1

  def value(
    self, kind: str = 'f', fits: Callable[[Value], bool] = lambda v: True
  ) -> int:
    """A value of one of these kinds that fits; mostly a late one."""
    found = [
      i
      for i, v in enumerate(self.values)
      if v.kind in kind and v.size and fits(v)
    ][::-1]
    if self._latest:
      return self.one_of(found[:1])
    return self.one_of(found[:1] * 2 * len(found) + found)

  @contextlib.contextmanager
  def on_the_latest(self) -> Iterator[None]:
    """Within, the latest value that fits is taken."""
    self._latest = True
    try:
      yield
    finally:
      self._latest = False

  @contextlib.contextmanager
  def doing(self, kind: str) -> Iterator[None]:
    """Within, atoms belong to an operation of this kind."""
    before, self._kind = self._kind, kind
    try:
      yield
    finally:
      self._kind = before

  def like(self, x: int, kind: str | None = None) -> tuple[int, list[int]]:
    """Another value with the axes of `x`, and the order that they are in."""
    axes = self.values[x].axes
    kind = kind or self.values[x].kind
    found = []
    for i, other in enumerate(self.values):
      if (
        i != x
        and other.kind in kind
        and sorted(other.axes, key=repr) == (sorted(axes, key=repr))
      ):
        found.append(i)
    y = self.one_of(found[::-1])
    left, order = list(self.values[y].axes), []
    for axis in axes:
      order.append(left.index(axis))
      left[order[-1]] = ()
    return y, order

  def module(self) -> str:
    """A new module."""
    if self._modules >= MOST_MODULES:
      raise UnfitError
    self._modules += 1
    return f'm{self._modules - 1}'

  def leaf(
    self,
    module: str,
    name: str,
    shape: Sequence[int],
    kind: str = 'f',
    scale: float = 0.8,
    mean: float = 0.0,
  ) -> str:
    """A leaf of a module; returns its path."""
    path = f'{module}/{name}'
    self.leaves[path] = Leaf(tuple(shape), kind, scale, mean)
    return path

  def kernel(self, shape: Sequence[int], kind: str = 'f') -> str:
    """A new kernel, or, now and then, one that others read too.

    Once the modules are used up it is a leaf that an earlier module has kept
    for later, or one of those that fit.
    """
    fits = [
      path
      for path, leaf in self.leaves.items()
      if (leaf.shape, leaf.kind) == (tuple(shape), kind)
    ]
    full = self._modules >= MOST_MODULES
    if fits and (full or self.seldom(5)):
      return self.one_of(fits[::-1])
    late = full or (self._modules and self.seldom(12))
    module = f'm{self.number() % self._modules}' if late else self.module()
    if late and len(self.leaves) > 3 * MOST_MODULES:
      raise UnfitError
    return self.leaf(module, f'w{len(self.leaves)}', shape, kind)

  def do(
    self,
    text: str,
    run: Run,
    reads: Sequence[int],
    makes: Sequence[Value] | Value,
    leaves: Sequence[str] = (),
    *,
    passive: bool = False,
    meets: str = '',
  ) -> int:
    """Adds an atom, whose text names values `{0}`, `{1}` ... and leaves.

    Args:
      text: how it would be written.
      run: see `Atom`; may return a single array.
      reads: what it reads.
      makes: what it makes.
      leaves: paths that it reads.
      passive: whether no derivative passes through.
      meets: see `Atom`.

    Returns:
      The number of the first value that it makes.
    """
    makes = [makes] if isinstance(makes, Value) else list(makes)
    if any(v.size > LARGEST or len(v.axes) > 5 for v in makes):
      raise UnfitError
    first = len(self.values)
    numbers = tuple(range(first, first + len(makes)))
    self.values.extend(makes)
    names = [f'v{i}' for i in reads]
    outs = ', '.join(f'v{i}' for i in numbers)
    kinds = ', '.join(map(str, makes))
    said = text.format(*names, *leaves)
    self.atoms.append(
      Atom(
        f'{outs} = {said}  # {kinds}',
        _as_tuple(run),
        tuple(reads),
        numbers,
        tuple(leaves),
        meets,
        self._kind,
      )
    )
    if not passive:
      self.consumed.update(reads)
    return first


def _as_tuple(run: Callable[..., Any]) -> Run:
  def wrapped(*args: Any) -> tuple[Array, ...]:
    made = run(*args)
    return tuple(made) if isinstance(made, (tuple, list)) else (made,)

  return wrapped


def rows(value: Value, batch: int, x: Array) -> Array:
  """A value as `[b, numbers per sample]`, without a change of its numbers."""
  factors = [f for axis in value.axes for f in axis]
  x = x.reshape([batch if f == B else f for f in factors])
  return jnp.moveaxis(x, factors.index(B), 0).reshape(batch, -1)
