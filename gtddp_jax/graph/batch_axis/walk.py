"""The batch axis: where the samples are in every value, and where they meet.

Layouts are carried through the program, equation by equation, from the inputs,
whose leading axis is the batch::

    layout(y) = rule of the equation that makes y (layouts of its operands)

A loop is gone through until the layouts of its carry stay as they are; a
function that is called, as in its place. Samples *meet* in an equation if what
it puts in the place of one depends on others, whatever the places are: a mean
over the batch, a sort along it. This is decided by dependence, one rule for
each operation (``rules``), rather than from the shapes at two batch sizes:
those say where an axis is, and nothing about what an operation does along it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from gtddp_jax.graph import program as jaxprs
from gtddp_jax.graph.batch_axis.call import Call, join, lost
from gtddp_jax.graph.batch_axis.layout import Layout, leading, within
from gtddp_jax.graph.batch_axis.rules import apply

Layouts = list[Layout | None]

_MOST_PASSES = 16  # through the body of a loop


class Batch(NamedTuple):
  """Values of a program by what they have to do with the batch.

  Attributes:
    size: B.
    layouts: of each value that depends on the inputs.
    meeting: values made where samples meet.
    mixing: those of them that are made of several samples, rather than of one
      and of what is the same for all (see ``Layout.joined``).
  """

  size: int
  layouts: Mapping[jaxprs.Var, Layout]
  meeting: frozenset[jaxprs.Var]
  mixing: frozenset[jaxprs.Var]

  def has_samples(self, value: jaxprs.Var) -> bool:
    """Whether every sample has a place of its own in a value."""
    layout = self.layouts.get(value)
    return layout is not None and layout.has_samples(self.size)

  def unknown(self, value: jaxprs.Var) -> str | None:
    """The operation after which nothing can be told of a value."""
    layout = self.layouts.get(value)
    return layout.unknown if layout else None


def analyse(
  program: jaxprs.Program, batched: Sequence[jaxprs.Var], size: int
) -> Batch:
  """Finds the samples in the values of a program.

  Args:
    program: straight-line equations.
    batched: its inputs with the batch as leading axis; no other input depends
      on a sample.
    size: B.

  Returns:
    The values.
  """
  walk = _Walk(program.equations, program.outputs, size, program.constants)
  for value in batched:
    shape = jaxprs.shape_of(value)
    walk.layouts[value] = leading(shape, size)
  walk.run()
  known = {v: layout for v, layout in walk.layouts.items() if layout}
  return Batch(size, known, frozenset(walk.meeting), frozenset(walk.mixing))


class _Walk:
  """One pass over the equations of a program, or of a body."""

  def __init__(
    self,
    equations: Sequence[jaxprs.Equation],
    results: Sequence[Any],
    size: int,
    closed_over: Mapping[jaxprs.Var, Any] = MappingProxyType({}),
  ):
    self._equations, self._size = equations, size
    self._closed_over = closed_over
    self._reaching = _reaching(equations, results)
    self.layouts: dict[jaxprs.Var, Layout | None] = {}
    self.meeting: list[jaxprs.Var] = []
    self.mixing: list[jaxprs.Var] = []
    self._made_by: dict[jaxprs.Var, jaxprs.Equation] = {}

  def run(self) -> None:
    """Finds the layout of every value that the equations make."""
    for equation in self._equations:
      before = [self.read(atom) for atom in equation.invars]
      # Whether samples meet here is asked of operands where none has yet.
      apart = [v and v._replace(coupled=False) for v in before]
      after = self._step(equation, apart)
      coupled = any(v.coupled for v in before if v)
      for value, layout in zip(equation.outvars, after, strict=True):
        self._made_by[value] = equation
        if value not in self._reaching:
          self.layouts[value] = layout and layout._replace(coupled=False)
          continue
        if layout and layout.coupled and self._size > 1:
          self.meeting.append(value)
          if not layout.joined:
            self.mixing.append(value)
        self.layouts[value] = layout and layout._replace(
          coupled=layout.coupled or coupled, joined=False
        )

  def read(self, atom: Any) -> Layout | None:
    """The layout of a variable or literal."""
    return self.layouts.get(atom) if jaxprs.is_variable(atom) else None

  def _step(self, equation: jaxprs.Equation, operands: Layouts) -> Layouts:
    if not any(operands):
      return [None] * len(equation.outvars)
    control = _CONTROL.get(equation.primitive.name)
    if control is not None:
      return control(equation, operands, self._size)
    return apply(Call(equation, operands, self._size, self._constant))

  def _constant(self, atom: Any, place: int) -> np.ndarray | None:
    """Numbers at a place of the last axis, if no input has to do with them."""
    if not jaxprs.is_variable(atom):
      return np.asarray(atom.val)[..., place]
    maker = self._made_by.get(atom)
    last = len(jaxprs.shape_of(atom)) - 1
    if (
      maker is not None
      and maker.primitive.name == 'concatenate'
      and maker.params['dimension'] == last
    ):
      for part in maker.invars:
        width = jaxprs.shape_of(part)[-1]
        if place < width:
          return self._constant(part, place)
        place -= width
    known = jaxprs.constant(self._made_by, self._closed_over, atom)
    return None if known is None else known[..., place]


def _reaching(
  equations: Sequence[jaxprs.Equation], results: Sequence[Any]
) -> set[jaxprs.Var]:
  """Values with an element that a result can depend on.

  A value without elements passes nothing on: padding by the edge makes one of
  a row of the batch where nothing is to be padded.
  """

  def full(atoms: Sequence[Any]) -> list[jaxprs.Var]:
    return [
      a for a in atoms if jaxprs.is_variable(a) and 0 not in jaxprs.shape_of(a)
    ]

  wanted = set(full(results))
  for equation in reversed(equations):
    if not wanted.isdisjoint(equation.outvars):
      wanted.update(full(equation.invars))
  return wanted


def _body(body: Any, operands: Sequence[Layout | None], size: int) -> Layouts:
  """Layouts of the results of a body."""
  jaxpr = getattr(body, 'jaxpr', body)
  walk = _Walk(jaxpr.eqns, jaxpr.outvars, size)
  walk.layouts.update(zip(jaxpr.invars, operands, strict=True))
  walk.run()
  return [walk.read(v) for v in jaxpr.outvars]


def _coupled(layouts: Layouts, meet: bool) -> Layouts:
  return [v and v._replace(coupled=v.coupled or meet) for v in layouts]


def _call(equation: jaxprs.Equation, operands: Layouts, size: int) -> Layouts:
  """A function called in its place."""
  names = ('call_jaxpr', 'jaxpr', 'fun_jaxpr', 'call', 'callee')
  body = next(equation.params[n] for n in names if n in equation.params)
  return _body(body, operands, size)


def _solve(equation: jaxprs.Equation, operands: Layouts, size: int) -> Layouts:
  """A linear system, whose solution is what its solver makes of ``b``."""
  lengths, bodies = equation.params['const_lengths'], equation.params['jaxprs']
  first = sum(lengths[: list(lengths._fields).index('solve')])
  constants = operands[first : first + lengths.solve]
  return _body(bodies.solve, [*constants, *operands[sum(lengths) :]], size)


def _cond(equation: jaxprs.Equation, operands: Layouts, size: int) -> Layouts:
  """Of several branches the one that the first operand says."""
  which, *given = operands
  results = [_body(b, given, size) for b in equation.params['branches']]
  joined = [
    join(options, jaxprs.shape_of(v), alike=True)
    for options, v in zip(
      zip(*results, strict=True), equation.outvars, strict=True
    )
  ]
  if which is None:
    return joined
  # All samples take the branch that some of them choose.
  return [
    v._replace(coupled=True) if v else Layout(tuple(map(within, shape)), True)
    for v, shape in zip(
      joined, (jaxprs.shape_of(v) for v in equation.outvars), strict=True
    )
  ]


def _while(equation: jaxprs.Equation, operands: Layouts, size: int) -> Layouts:
  params = equation.params
  n, m = params['cond_nconsts'], params['body_nconsts']
  test, constants, carry = operands[:n], operands[n : n + m], operands[n + m :]
  carry = _settled(
    equation,
    carry,
    lambda carry: _body(params['body_jaxpr'], [*constants, *carry], size),
  )
  (going,) = _body(params['cond_jaxpr'], [*test, *carry], size)
  return _coupled(carry, going is not None)


def _scan(equation: jaxprs.Equation, operands: Layouts, size: int) -> Layouts:
  params = equation.params
  n, m = params['num_consts'], params['num_carry']
  constants, carry = operands[:n], operands[n : n + m]
  taken = operands[n + m :]
  steps = {v.axes[0] for v in taken if v and v.axes[0]} - {
    within(params['length'])
  }
  # Steps that are samples follow each other if there is a carry.
  meet = bool(steps) and (m > 0 or len(steps) > 1)
  each = [v and v._replace(axes=v.axes[1:], coupled=meet) for v in taken]

  def body(carry: Layouts) -> Layouts:
    return _body(params['jaxpr'], [*constants, *carry, *each], size)

  carry = _settled(equation, carry, lambda carry: body(carry)[:m])
  first = next(iter(steps), within(params['length']))
  made = [v and v._replace(axes=(first, *v.axes)) for v in body(carry)[m:]]
  return _coupled([*carry, *made], meet)


def _settled(equation: jaxprs.Equation, carry: Layouts, body: Any) -> Layouts:
  """The layouts of a carry that its body leaves as they are."""
  for _ in range(_MOST_PASSES):
    after = [
      join((a, b), tuple(a.shape if a else b.shape), alike=True)
      if a or b
      else None
      for a, b in zip(carry, body(carry), strict=True)
    ]
    if after == carry:
      return carry
    carry = after
  name = equation.primitive.name
  return [v and lost(v.shape, name) for v in carry]


_CALLS = [
  'call',
  'checkpoint',
  'closed_call',
  'composite',
  'core_call',
  'custom_jvp_call',
  'custom_jvp_call_jaxpr',
  'custom_vjp_call',
  'custom_vjp_call_jaxpr',
  'custom_vmap_call',
  'jit',
  'linear_call',
  'pjit',
  'remat',
  'remat2',
]
_CONTROL: dict[str, Any] = {
  **dict.fromkeys(_CALLS, _call),
  'cond': _cond,
  'custom_linear_solve': _solve,
  'linear_solve': _solve,
  'scan': _scan,
  'while': _while,
}
