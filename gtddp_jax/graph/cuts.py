"""Cuts: where a program opens its stages, and what is live there.

Forward over the equations, with ``reads(y)`` the parameter leaves that reach
``y`` through work on parameters alone::

    anchored(e) = e reads a value that depends on the inputs
    reads(e)    = union of reads(operand) over the parameter-only operands
    moving(y)   = some control influences y

A stage opens at an anchored equation that reads an undecided leaf of another
owner. The cut there is the set of moving values computed before and read later;
values derived from inputs and parameters alone are computed again on demand.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import jax.numpy as jnp

from gtddp_jax import errors
from gtddp_jax.graph import program as jaxprs
from gtddp_jax.graph.batch_axis import Batch


@dataclasses.dataclass(frozen=True)
class Flow:
  """Who influences what in a program.

  Attributes:
    anchored: per equation, whether it works on data.
    reads: per equation, the leaves it reads (empty unless anchored), in order.
    leaves: the leaves that reach each value made of parameters alone.
    data: values that depend on the inputs.
    moving: values that depend on a control, in the order of computation.
    made_by: equation index that computes each value.
    last_read: index of the last equation that reads a moving value, or the
      number of equations if it is an output.
  """

  anchored: tuple[bool, ...]
  reads: tuple[tuple[int, ...], ...]
  leaves: dict[jaxprs.Var, tuple[int, ...]]
  data: frozenset[jaxprs.Var]
  moving: dict[jaxprs.Var, None]
  made_by: dict[jaxprs.Var, int]
  last_read: dict[jaxprs.Var, int]


@dataclasses.dataclass(frozen=True)
class Cut:
  """Where a stage opens: its owner, its leaves and the values that are live."""

  position: int
  owner: tuple[str, str]
  control: tuple[int, ...]
  state: tuple[jaxprs.Var, ...]
  aux: tuple[jaxprs.Var, ...]


def analyse(program: jaxprs.Program, n_params: int) -> Flow:
  """Computes the flow of a program whose first inputs are the parameters."""
  forced = _last_makers_of_dataless_outputs(program, n_params)
  reads: dict[jaxprs.Var, tuple[int, ...]] = {
    v: (i,) for i, v in enumerate(program.inputs[:n_params])
  }
  data = set(program.inputs[n_params:])
  moving: dict[jaxprs.Var, None] = {}
  made_by, last_read = {}, {}
  anchored, equation_reads = [], []
  for index, equation in enumerate(program.equations):
    sources = jaxprs.operands(equation)
    read = tuple(
      dict.fromkeys(leaf for v in sources for leaf in reads.get(v, ()))
    )
    on_data = index in forced or any(v in data for v in sources)
    anchored.append(on_data)
    equation_reads.append(read if on_data else ())
    made_by.update(dict.fromkeys(equation.outvars, index))
    last_read.update({v: index for v in sources if v in moving})
    if not on_data:
      reads.update(dict.fromkeys(equation.outvars, read))
      continue
    data.update(equation.outvars)
    if read or any(v in moving for v in sources):
      moving.update(dict.fromkeys(equation.outvars))
  last_read.update(
    {
      v: len(program.equations)
      for v in program.outputs
      if jaxprs.is_variable(v) and v in moving
    }
  )
  return Flow(
    tuple(anchored),
    tuple(equation_reads),
    reads,
    frozenset(data),
    moving,
    made_by,
    last_read,
  )


def _last_makers_of_dataless_outputs(
  program: jaxprs.Program, n_params: int
) -> set[int]:
  """Equations that make an output from parameters alone: treated as data."""
  data = set(program.inputs[n_params:])
  made_by = {}
  for index, equation in enumerate(program.equations):
    if any(v in data for v in jaxprs.operands(equation)):
      data.update(equation.outvars)
    made_by.update(dict.fromkeys(equation.outvars, index))
  return {
    made_by[v]
    for v in program.outputs
    if jaxprs.is_variable(v) and v in made_by and v not in data
  }


def find(
  program: jaxprs.Program,
  flow: Flow,
  owners: Sequence[tuple[str, str]],
  paths: Sequence[str],
  batch: Batch,
) -> list[Cut]:
  """All cuts of a program, in order.

  Args:
    program: the network.
    flow: its analysis.
    owners: owner of each parameter leaf, as a name and what is compared.
    paths: printable path of each parameter leaf.
    batch: where the samples are in its values.

  Returns:
    One cut per stage.

  Raises:
    UnownedParameterError: no leaf is read.
    UncuttableStageError: an opaque equation reads leaves of several owners.
    BatchAxisError: in a live value no sample has a place of its own, and it
      cannot be computed again from values in which it has.
  """
  openings: list[tuple[int, tuple[str, str], list[int]]] = []
  decided: set[int] = set()
  for index, read in enumerate(flow.reads):
    new: dict[tuple[str, str], list[int]] = {}
    for leaf in read:
      if leaf not in decided:
        new.setdefault(owners[leaf], []).append(leaf)
    equation = program.equations[index]
    if len(new) > 1 and jaxprs.is_opaque(equation):
      if not _same_at_every_step(equation, flow, new):
        raise _tangled(equation, new, paths)
      new = _joined(new)
    current = openings[-1][1] if openings else None
    for owner in sorted(new, key=lambda o: o != current):
      if openings and owner == openings[-1][1]:
        openings[-1][2].extend(new[owner])
      else:
        openings.append((index, owner, new[owner]))
      decided.update(new[owner])
  if not openings:
    raise errors.UnownedParameterError(
      f'No parameter influences the outputs: expected at least one of '
      f'{", ".join(map(repr, paths))} to do so. Return what apply_fn makes of '
      f'them, without jax.lax.stop_gradient.'
    )
  cuts = []
  for position, owner, control in openings:
    where = f'the cut before {paths[control[0]]!r}'
    live = live_at(program, flow, batch, position, where)
    state, aux = split(live)
    cuts.append(Cut(position, owner, tuple(sorted(control)), state, aux))
  return cuts


def _same_at_every_step(
  equation: jaxprs.Equation,
  flow: Flow,
  new: dict[tuple[str, str], list[int]],
) -> bool:
  """Whether an equation is a loop that each of its steps reads alike."""
  if equation.primitive.name != 'scan':
    return False
  changing = equation.invars[equation.params['num_consts'] :]
  leaves = {leaf for group in new.values() for leaf in group}
  return not any(
    leaf in leaves
    for v in changing
    if jaxprs.is_variable(v)
    for leaf in flow.leaves.get(v, ())
  )


def _joined(
  new: dict[tuple[str, str], list[int]],
) -> dict[tuple[str, str], list[int]]:
  """One owner for the leaves of several: what their names begin with."""
  keys = zip(*(name.split('/') for name, _ in new), strict=False)
  same = itertools.takewhile(lambda each: len(set(each)) == 1, keys)
  name = '/'.join(each[0] for each in same) or 'scan'
  compared = '; '.join(found for _, found in new)
  return {(name, compared): [leaf for group in new.values() for leaf in group]}


def live_at(
  program: jaxprs.Program,
  flow: Flow,
  batch: Batch,
  position: int,
  where: str,
) -> tuple[jaxprs.Var, ...]:
  """Moving values computed before ``position`` and read from there on.

  A live value in which samples have no place (a batch statistic, a counter) is
  replaced by the values that it was computed from.
  """
  live = {
    v: None
    for v in flow.moving
    if flow.made_by[v] < position <= flow.last_read.get(v, -1)
  }
  while missing := [v for v in live if not batch.has_samples(v)]:
    for value in missing:
      maker = flow.made_by[value]
      equation = program.equations[maker]
      if flow.reads[maker]:
        raise errors.BatchAxisError(
          f'At {where}, a value made by {equation.primitive.name!r} has '
          f'shape {list(jaxprs.abstract(value).shape)}: expected one in which '
          f'every sample has its part, got {_instead(batch, value)}. Compute '
          f'it in the module that reads it, or give both modules one owner: '
          f'trace(..., owner=...).'
        )
      del live[value]
      live.update(
        {v: None for v in jaxprs.operands(equation) if v in flow.moving}
      )
  return tuple(sorted(live, key=lambda v: flow.made_by[v]))


def _instead(batch: Batch, value: jaxprs.Var) -> str:
  layout = batch.layouts.get(value)
  if layout is None:
    return 'one that is the same for all samples'
  if layout.unknown:
    return f'one of which {layout.unknown!r} does not say'
  return 'one that is made of several samples'


def split(
  live: Sequence[jaxprs.Var],
) -> tuple[tuple[jaxprs.Var, ...], tuple[jaxprs.Var, ...]]:
  """Separates values with a derivative from those without."""
  smooth = [jnp.issubdtype(jaxprs.abstract(v).dtype, jnp.inexact) for v in live]
  return (
    tuple(v for v, s in zip(live, smooth, strict=True) if s),
    tuple(v for v, s in zip(live, smooth, strict=True) if not s),
  )


def _tangled(
  equation: jaxprs.Equation,
  new: dict[tuple[str, str], list[int]],
  paths: Sequence[str],
) -> errors.UncuttableStageError:
  leaves = ', '.join(repr(paths[i]) for group in new.values() for i in group)
  return errors.UncuttableStageError(
    f'One {equation.primitive.name!r} equation reads parameters of '
    f'{len(new)} modules ({leaves}): expected one module per equation, since a '
    f'stage cannot be cut inside it. Pass trace(..., owner=...) that gives '
    f'these leaves one owner (they then form one control), or unroll it.'
  )
