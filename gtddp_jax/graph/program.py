"""Programs: pure functions as straight-line equations, cut wherever needed.

A program computes outputs from inputs by equations ``y_j = e_j(...)`` in order.
Its *slice* from known values ``S`` to wanted values ``T`` holds the equations
that ``T`` still needs once ``S`` is known; it is a pure function ``S -> T``.
Stages of a network and the per-stage views of a base optimizer are slices.

This is the only file that touches ``jax.extend``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

import jax
import jax.extend.core as jex
import numpy as np

from gtddp_jax.graph import varying

Equation = jex.JaxprEqn
Var = jex.Var
Array = jax.Array
_ALWAYS_EXPANDED = ('jit', 'pjit', 'closed_call', 'core_call')
_EXPANDABLE = (*_ALWAYS_EXPANDED, 'checkpoint', 'remat', 'remat2')


@dataclasses.dataclass(frozen=True)
class Slice:
  """The equations that lead from ``sources`` to ``targets``, as a function.

  ``missing`` holds the program inputs that the targets need beyond the
  sources; a slice can be called only if there are none.
  """

  sources: tuple[Var, ...]
  targets: tuple[Any, ...]
  equations: tuple[Equation, ...]
  needed: frozenset[Var]
  missing: frozenset[Var]
  constants: dict[Var, Any] = dataclasses.field(repr=False)
  template: jex.Jaxpr = dataclasses.field(repr=False)

  def __call__(self, *values: Any) -> tuple[Any, ...]:
    """Maps one value per source to one value per target."""
    if self.missing:
      raise AssertionError(f'slice lacks {len(self.missing)} of its inputs')
    if len(values) != len(self.sources):
      raise TypeError(f'expected {len(self.sources)} values, got {len(values)}')
    constants = [v for v in self.constants if v in self.needed]
    jaxpr = self.template.replace(
      constvars=constants,
      invars=list(self.sources),
      outvars=list(self.targets),
      eqns=list(self.equations),
    )
    known = [self.constants[v] for v in constants]
    return tuple(jax.core.eval_jaxpr(jaxpr, known, *values))


@dataclasses.dataclass(frozen=True)
class Program:
  """Equations with their inputs, outputs and the constants they close over."""

  inputs: tuple[Var, ...]
  outputs: tuple[Any, ...]  # variables, or literals
  equations: tuple[Equation, ...]
  constants: dict[Var, Any] = dataclasses.field(repr=False)
  template: jex.Jaxpr = dataclasses.field(repr=False)
  out_shape: Any = None  # the output's pytree of shapes and dtypes

  def slice(self, sources: Sequence[Var], targets: Sequence[Any]) -> Slice:
    """The smallest part of the program from ``sources`` to ``targets``."""
    known = set(sources)
    wanted = {v for v in targets if is_variable(v)}
    equations = []
    for equation in reversed(self.equations):
      if any(v in wanted and v not in known for v in equation.outvars):
        equations.append(equation)
        wanted.update(operands(equation))
    return Slice(
      tuple(sources),
      tuple(targets),
      tuple(reversed(equations)),
      frozenset(wanted),
      frozenset(v for v in self.inputs if v in wanted and v not in known),
      self.constants,
      self.template,
    )

  def expand(self, which: Callable[[Equation], bool]) -> Program:
    """Replaces each call equation that ``which`` picks by the callee's body."""
    if not any(which(e) and expandable(e) for e in self.equations):
      return self
    avals = [abstract(v) for v in self.inputs]

    def run(*values: Any) -> list[Any]:
      env = dict(zip(self.inputs, values, strict=True)) | self.constants
      return _run(self.template, self.equations, self.outputs, env, which)

    return dataclasses.replace(
      _program(jax.make_jaxpr(run)(*varying.placeholders(avals))),
      out_shape=self.out_shape,
    ).expand(which)


def capture(function: Callable[..., Any], *args: Any) -> Program:
  """Traces ``function(*args)``; inputs are the flat leaves of ``args``.

  Args:
    function: pure function of pytrees.
    *args: pytrees of arrays or ``jax.ShapeDtypeStruct``.

  Returns:
    The program, with every nested ``jit`` expanded.
  """
  closed, out_shape = jax.make_jaxpr(function, return_shape=True)(
    *varying.placeholders(args)
  )
  program = dataclasses.replace(_program(closed), out_shape=out_shape)
  return program.expand(is_plain_call)


def is_variable(atom: Any) -> TypeGuard[Var]:
  """Whether ``atom`` is a variable rather than a literal."""
  return isinstance(atom, jex.Var)


def operands(equation: Equation) -> list[Var]:
  """The variables that an equation reads."""
  return [v for v in equation.invars if isinstance(v, jex.Var)]


def is_plain_call(equation: Equation) -> bool:
  """Whether an equation only calls a function, as a nested ``jit`` does."""
  return equation.primitive.name in _ALWAYS_EXPANDED


def expandable(equation: Equation) -> bool:
  """Whether an equation is a call whose body may stand in its place."""
  return equation.primitive.name in _EXPANDABLE


def is_opaque(equation: Equation) -> bool:
  """Whether an equation runs a program of its own (scan, custom_vjp, ...)."""
  return bool(bodies(equation))


def bodies(equation: Equation) -> list[Sequence[Equation]]:
  """The equations of each program that an equation runs."""
  found = [
    getattr(leaf, 'jaxpr', leaf)
    for value in equation.params.values()
    for leaf in (value if isinstance(value, (tuple, list)) else (value,))
  ]
  return [body.eqns for body in found if isinstance(body, jex.Jaxpr)]


def has_forward_derivative(equations: Sequence[Equation]) -> bool:
  """Whether no equation, nor one of a body, has a backward derivative alone."""
  return not any(
    equation.primitive.name.startswith('custom_vjp_call')
    or not all(map(has_forward_derivative, bodies(equation)))
    for equation in equations
  )


def constant(
  made_by: Mapping[Var, Equation], known: Mapping[Var, Any], value: Var
) -> np.ndarray | None:
  """A value that equations make of constants alone.

  Args:
    made_by: the equation that makes each value.
    known: values that a program closes over.
    value: what is wanted.

  Returns:
    The numbers, or None if an input of the program has to do with them.
  """
  needed: list[Equation] = []
  wanted, seen = [value], set()
  while wanted:
    current = wanted.pop()
    if current in seen or current in known:
      continue
    seen.add(current)
    if current not in made_by:
      return None
    needed.append(made_by[current])
    wanted += operands(made_by[current])
  order = {id(e): n for n, e in enumerate(made_by.values())}
  equations = sorted(
    {id(e): e for e in needed}.values(), key=lambda e: order[id(e)]
  )
  template = jax.make_jaxpr(lambda: 0)().jaxpr
  read = [v for v in known if any(v in operands(e) for e in equations)]
  jaxpr = template.replace(
    constvars=[], invars=read, outvars=[value], eqns=equations
  )
  with jax.ensure_compile_time_eval():
    (found,) = jax.core.eval_jaxpr(jaxpr, [], *(known[v] for v in read))
  return np.asarray(found)


def shape_of(atom: Any) -> tuple[int, ...]:
  """Shape of a variable or literal."""
  return tuple(atom.aval.shape)


def abstract(var: Any) -> jax.ShapeDtypeStruct:
  """Shape and dtype of a variable."""
  return varying.shaped(var.aval.shape, var.aval.dtype, var.aval)


def _program(closed: Any) -> Program:
  jaxpr = closed.jaxpr
  return Program(
    tuple(jaxpr.invars),
    tuple(jaxpr.outvars),
    tuple(jaxpr.eqns),
    dict(zip(jaxpr.constvars, closed.consts, strict=True)),
    jaxpr,
  )


def _run(
  template: jex.Jaxpr,
  equations: Sequence[Equation],
  outputs: Sequence[Any],
  env: dict[Var, Any],
  which: Callable[[Equation], bool],
) -> list[Any]:
  """Evaluates equations one by one, entering the calls that ``which`` picks."""

  def read(atom: Any) -> Any:
    return env[atom] if is_variable(atom) else atom.val

  for equation in equations:
    if which(equation) and expandable(equation):
      body, constants = _body(equation)
      inner = dict(
        zip(body.invars, map(read, equation.invars), strict=True)
      ) | dict(zip(body.constvars, constants, strict=True))
      values = _run(template, body.eqns, body.outvars, inner, which)
    else:
      sources = list(dict.fromkeys(operands(equation)))
      single = template.replace(
        constvars=[],
        invars=sources,
        outvars=list(equation.outvars),
        eqns=[equation],
      )
      values = jax.core.eval_jaxpr(single, [], *map(read, sources))
    env.update(zip(equation.outvars, values, strict=True))
  return [read(v) for v in outputs]


def _body(equation: Equation) -> tuple[jex.Jaxpr, Sequence[Any]]:
  params = equation.params
  body = params['jaxpr'] if 'jaxpr' in params else params['call_jaxpr']
  return getattr(body, 'jaxpr', body), getattr(body, 'consts', ())
