"""The dense recursion of any graph, with its stages as black boxes.

A stage of the library maps a whole batch. Its dense Jacobian is formed here
and must be block-diagonal over the samples; the blocks then go through the
recursions of the oracle. The state of a sample is one row of numbers::

    [ c | controls decided earlier and read again | aux | which sample ]

Of these `aux` (integers, booleans) and the last one have no derivative; they
are there because a stage cannot be run without them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracle

Array = Any
Tree = Any


class Cut(NamedTuple):
  """What is live before a stage, as it lies in a row.

  Attributes:
    c: Shapes of the state.
    aux: Shapes of the values without derivative.
    carried: Shape of each control that was decided earlier and is read again.
  """

  c: Sequence[Any]
  aux: Sequence[Any]
  carried: dict[int, Any]

  def parts(self, rows: Array) -> tuple[Array, Array, Array]:
    """The rows of c and of aux, and of the controls those of each sample."""
    sizes = [sum(s.size for s in part) for part in self[:2]]
    c, aux = (size // len(rows) for size in sizes)
    v = sum(s.size for s in self.carried.values())
    return rows[:, :c], rows[:, c : c + v], rows[:, c + v : c + v + aux]

  def controls(self, v: Array) -> dict[int, Array]:
    """The carried controls from the numbers of one row."""
    parts = pieces(v, self.carried.values())
    return dict(zip(self.carried, parts, strict=True))


def pieces(flat: Array, like: Iterable[Any]) -> list[Array]:
  """Cuts a row of numbers into arrays of these shapes."""
  parts, at = [], 0
  for leaf in like:
    parts.append(flat[at : at + leaf.size].reshape(leaf.shape))
    at += leaf.size
  return parts


def to_rows(values: Sequence[Array], batch: int) -> Array:
  """One row for each sample; a leading axis may hold several parts of it."""
  flat = [v.reshape(batch, -1).astype(jnp.float64) for v in values]
  return jnp.concatenate([jnp.zeros((batch, 0)), *flat], axis=1)


def from_rows(rows: Array, shapes: Sequence[Any]) -> tuple[Array, ...]:
  """The inverse of `to_rows`."""
  parts, at = [], 0
  for shape in shapes:
    size = shape.size // len(rows)
    part = rows[:, at : at + size].reshape(shape.shape)
    if not jnp.issubdtype(shape.dtype, jnp.floating):
      part = jnp.round(part)
    parts.append(part.astype(shape.dtype))
    at += size
  return tuple(parts)


def _flat(arrays: Sequence[Array]) -> Array:
  return np.concatenate([array.reshape(-1) for array in arrays])


class Dense:
  """The stages of a graph with explicit Jacobians.

  Attributes:
    stages: As the oracle's recursions take them.
  """

  def __init__(self, graph: Any, params: Tree, fixed: Any):
    """`fixed` is what the first stage reads besides its control."""
    self._graph, self._fixed = graph, fixed
    self._leaves = graph.flatten(params)
    self._cuts = list(map(self._cut, range(len(graph.stages))))
    self._controls = [
      [np.asarray(self._leaves[i]) for i in stage.control]
      for stage in graph.stages
    ]
    states, jacobians = jax.jit(self._linearise)()
    self.stages = list(
      map(self._linear, range(len(graph.stages)), states[:-1], jacobians)
    )
    self._last = states[-1]

  def solve(
    self, end: oracle.Terminal, rate: float, level: str
  ) -> dict[int, Array]:
    """Updates by flat index, with plain gradient descent as base."""
    base = oracle.sgd(rate)
    if level == 'coupled':
      solution = oracle.solve_coupled(self.stages, end, base)
    else:
      solution = oracle.solve(self.stages, end, base, level=level)
    return {int(i): update for i, update in solution.updates.items()}

  def safe_rate(self, end: oracle.Terminal, rate: float) -> float:
    """The largest of `rate`, half of it, ... at which nothing clamps."""
    with np.errstate(all='ignore'):
      while not (
        oracle.backward(self.stages, end, oracle.sgd(rate)).smallest_factor
        > 0.05
      ):
        rate /= 2
    return rate

  def terminal(self, targets: Tree, loss: Callable) -> oracle.Terminal:
    """Losses, V_x and V_xx of each sample: the terminal 'gradient'."""

    def total(row: Array) -> tuple[Array, Array]:
      losses = loss(self._from_outputs(row), targets)
      return jnp.sum(losses), losses

    V_x, losses = jax.jit(jax.grad(total, has_aux=True))(self._last)
    V_x = list(np.asarray(V_x))
    V_xx = [np.outer(v, v) for v in V_x]
    return oracle.Terminal(np.asarray(losses), V_x, V_xx)

  def _from_outputs(self, rows: Array) -> Tree:
    shapes, tree = jax.tree.flatten(self._graph.outputs)
    return jax.tree.unflatten(tree, from_rows(rows, shapes))

  def _cut(self, t: int) -> Cut:
    stages = self._graph.stages
    decided = {i for stage in stages[:t] for i in stage.control}
    again = {i for stage in stages[t:] for i in stage.shared}
    carried = {i: self._leaves[i] for i in sorted(decided & again)}
    return Cut(stages[t].state, stages[t].aux, carried)

  def _run(self, t: int, c: Array, v: Array, aux: Array, u: Array) -> Array:
    """A stage from rows to rows; the last one goes on to the outputs."""
    stage, cut = self._graph.stages[t], self._cuts[t]
    batch = self._graph.batch_size
    known = cut.controls(v)
    known |= zip(stage.control, pieces(u, self._controls[t]), strict=True)
    fixed = dataclasses.replace(self._fixed, aux=from_rows(aux, cut.aux))
    after, aux_after = stage(
      from_rows(c, cut.c),
      tuple(known[i] for i in stage.control),
      tuple(known[i] for i in stage.shared),
      fixed,
    )
    if stage is self._graph.stages[-1]:
      fixed = dataclasses.replace(fixed, aux=aux_after)
      return to_rows(self._graph.finish(after, self._leaves, fixed), batch)
    carried = [
      jnp.broadcast_to(known[i], (batch, *known[i].shape))
      for i in self._cuts[t + 1].carried
    ]
    which = jnp.arange(batch)
    return to_rows([*after, *carried, *aux_after, which], batch)

  def _linearise(self) -> tuple[list[Array], list[tuple[Array, ...]]]:
    """The rows before each stage and at the outputs, and the Jacobians."""
    states = [
      to_rows([jnp.arange(self._graph.batch_size)], self._graph.batch_size)
    ]
    jacobians = []
    for t, control in enumerate(self._controls):
      u = jnp.asarray(_flat(control))
      c, v, aux = self._cuts[t].parts(states[-1])
      run = functools.partial(self._run, t)
      jacobians.append(jax.jacrev(run, (0, 1, 3))(c, v[0], aux, u))
      states.append(run(c, v[0], aux, u))
    return states, jacobians

  def _linear(
    self, t: int, rows: Array, jacobians: tuple[Array, ...]
  ) -> oracle.Linear:
    """A stage of the oracle; asserts that samples do not meet in it."""
    by_c, by_v, f_u = map(np.asarray, jacobians)
    batch, size, c = self._graph.batch_size, by_c.shape[1], by_c.shape[3]
    f_x = np.zeros((batch, size, rows.shape[1]))
    for i in range(batch):
      f_x[i, :, :c] = by_c[i, :, i]
      others = np.delete(by_c[i], i, axis=1)
      assert not others.any(), f'samples meet in stage {t}'
    f_x[:, :, c : c + by_v.shape[2]] = by_v

    @jax.jit
    def one(row: Array, u: Array) -> Array:
      i = jnp.round(row[-1]).astype(int)
      c, v, aux = self._cuts[t].parts(rows.at[i].set(row))
      return self._run(t, c, v[i], aux, u)[i]

    names = tuple(map(str, self._graph.stages[t].control))
    control = self._controls[t]
    return oracle.Linear(
      names,
      np.asarray(rows),
      _flat(control),
      f_x,
      f_u,
      lambda row, u: np.asarray(one(row, u)),
      lambda u: dict(zip(names, pieces(u, control), strict=True)),
    )
