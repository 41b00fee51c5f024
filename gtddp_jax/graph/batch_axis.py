"""Batches: which values carry the batch, and where samples meet.

A second capture at twice the batch size tells. With ``n`` the size of a value
and ``n'`` its size in that capture::

    leading(v)    the first axis of v doubles, and nothing else does
    mixing(e)     e reads a value with n' = 2 n and makes one without: a mean
    crossing(e)   e works along a leading axis: it may put rows of one sample in
                  the place of another's, or apart from each other

A body (of a scan, say) that mixes makes its equation mix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from gtddp_jax import errors
from gtddp_jax.graph import program as jaxprs

_CUMULATIVE = ('cumsum', 'cumprod', 'cummax', 'cummin', 'cumlogsumexp')


class Batch(NamedTuple):
  """Values of a program by what they have to do with the batch.

  Attributes:
    size: B.
    leading: for each value, whether its leading axis is the batch.
    mixing: made by equations that mix samples; see the module's head.
    crossing: made by equations that work along the leading axis.
  """

  size: int
  leading: dict[jaxprs.Var, bool]
  mixing: frozenset[jaxprs.Var]
  crossing: frozenset[jaxprs.Var]


def analyse(
  program: jaxprs.Program, twice: jaxprs.Program | None, size: int
) -> Batch:
  """Looks at the values of a program.

  Args:
    program: captured for a batch of ``size`` samples.
    twice: the same for twice as many; None for a network that is written for
      one batch size. Then, as where it takes another path at another size, an
      axis of the batch's size is taken for the batch, and nothing mixes.
    size: B.

  Returns:
    The values.

  Raises:
    BatchAxisError: several rows of one sample are not next to each other.
  """
  values = [*program.inputs, *_made(program)]
  if twice is None or _operations(program) != _operations(twice):
    leading = {v: jaxprs.abstract(v).shape[:1] == (size,) for v in values}
    mixing: list[jaxprs.Var] = []
  else:
    pairs = zip(values, [*twice.inputs, *_made(twice)], strict=True)
    leading = {a: _doubles(a, b) for a, b in pairs}
    mixing = [
      v
      for a, b in zip(program.equations, twice.equations, strict=True)
      if _mixes(a, b)
      for v in a.outvars
    ]
  found = [e for e in program.equations if _crosses(e, leading)]
  crossing = [v for e in found for v in e.outvars]
  for equation in found:
    _check_rows(equation, leading, size)
  return Batch(size, leading, frozenset(mixing), frozenset(crossing))


def at_twice(
  capture: Callable[[Any], jaxprs.Program], shapes: Any
) -> jaxprs.Program | None:
  """What is captured for twice the batch, None if that is refused.

  Args:
    capture: of a pytree of shapes.
    shapes: with the batch as leading axis of every leaf.
  """

  def doubled(shape: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(
      (2 * shape.shape[0], *shape.shape[1:]), shape.dtype
    )

  try:
    return capture(jax.tree.map(doubled, shapes))
  except Exception:  # of any kind: it may be written for one batch size
    return None


def _made(program: jaxprs.Program) -> list[jaxprs.Var]:
  return [v for e in program.equations for v in e.outvars]


def _operations(program: jaxprs.Program) -> list[str]:
  return [e.primitive.name for e in program.equations]


def _doubles(a: jaxprs.Var, b: jaxprs.Var) -> bool:
  """Whether the leading axis is what doubles from one capture to the other."""
  shape = jaxprs.abstract(a).shape
  return bool(shape) and jaxprs.abstract(b).shape == (2 * shape[0], *shape[1:])


def _mixes(a: jaxprs.Equation, b: jaxprs.Equation) -> bool:
  """Whether an equation, ``b`` at twice the batch, mixes samples."""

  def all_grow(
    ours: Sequence[jaxprs.Var], theirs: Sequence[jaxprs.Var]
  ) -> bool:
    return all(
      _size(two) == 2 * _size(one)
      for one, two in zip(ours, theirs, strict=True)
    )

  pairs = zip(jaxprs.operands(a), jaxprs.operands(b), strict=False)
  grow = any(all_grow([one], [two]) for one, two in pairs)
  return (grow and not all_grow(a.outvars, b.outvars)) or any(
    _mixes(*pair) for pair in _within(a, b)
  )


def _size(value: jaxprs.Var) -> int:
  return math.prod(jaxprs.abstract(value).shape)


def _within(
  a: jaxprs.Equation, b: jaxprs.Equation
) -> Iterator[tuple[jaxprs.Equation, jaxprs.Equation]]:
  """The equations of the bodies, where they are the same ones."""
  for ours, theirs in zip(jaxprs.bodies(a), jaxprs.bodies(b), strict=False):
    if len(ours) == len(theirs):
      yield from zip(ours, theirs, strict=True)


def _crosses(
  equation: jaxprs.Equation, leading: dict[jaxprs.Var, bool]
) -> bool:
  """Whether an equation works along the leading axis of what it reads."""

  def leads(atom: Any) -> bool:
    # A constant that the program closes over is in no table.
    return jaxprs.is_variable(atom) and leading.get(atom, False)

  name, params = equation.primitive.name, equation.params
  if name == 'reshape':  # [T, B] to [T B]
    return leads(equation.outvars[0]) and not leads(equation.invars[0])
  if name == 'concatenate':
    return params['dimension'] == 0 and any(map(leads, equation.invars))
  if name == 'scan':  # sample by sample, with a state
    first = params['num_consts'] + params['num_carry']
    return params['num_carry'] > 0 and any(map(leads, equation.invars[first:]))
  if not equation.invars or not leads(equation.invars[0]):
    return False
  axes: Any = ()
  if name in _CUMULATIVE:
    axes = (params['axis'],)
  elif name == 'sort':
    axes = (params['dimension'],)
  elif name == 'rev':
    axes = params['dimensions']
  elif name == 'split':
    axes = (params['axis'],)
  elif name == 'slice':  # of some rows in a row; every k-th are of one sample
    ends = equation.invars[0], equation.outvars[0]
    apart = len({jaxprs.abstract(v).shape[0] for v in ends}) > 1
    axes = (0,) if apart and (params['strides'] or (1,))[0] == 1 else ()
  elif name == 'gather':
    axes = params['dimension_numbers'].start_index_map
  elif name.startswith('scatter'):
    axes = params['dimension_numbers'].scatter_dims_to_operand_dims
  return 0 in axes


def _check_rows(
  equation: jaxprs.Equation, leading: dict[jaxprs.Var, bool], size: int
) -> None:
  """Raises ``BatchAxisError`` where the rows of one sample are set apart."""
  for value in filter(leading.__getitem__, equation.outvars):
    shape = jaxprs.abstract(value).shape
    if shape[0] > size:
      raise errors.BatchAxisError(
        f'The operation {equation.primitive.name!r} makes a value of shape '
        f'{list(shape)} of a batch of {size} samples, in which the '
        f'{shape[0] // size} rows of a sample are apart: expected them next to '
        f'each other. Put the parts behind the batch axis, as in jnp.stack('
        f'parts, axis=1), join the two axes, and part them there again, as in '
        f'h.reshape(batch, 2, -1).'
      )
