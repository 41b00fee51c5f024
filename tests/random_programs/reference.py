"""One step of any random program from dense matrices, and from nothing else.

A program of independent samples is run for ONE sample, as a batch of one. Its
atoms are cut before the first that reads each control; the state there is a row
of real numbers::

    [ values that are still read | leaves decided before and read again ]

A complex number is two of them, an integer or boolean one without derivative.
What goes into the recursions of `oracle` are the dense Jacobians of the pieces
between two cuts. Of the library's graph only the order of its controls enters,
and that is compared with the order in which the program reads its leaves.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracle
from programs import Network, flat

Array = Any
Tree = Any
TERMINALS = 'gradient', 'gauss_newton'


class Spot(NamedTuple):
  """How one array lies in a row.

  Attributes:
    shape: of the array.
    dtype: its own.
  """

  shape: tuple[int, ...]
  dtype: Any

  @property
  def size(self) -> int:
    """Numbers in the row."""
    return int(np.prod(self.shape)) * (2 if self.is_complex else 1)

  @property
  def is_complex(self) -> bool:
    return bool(jnp.issubdtype(self.dtype, jnp.complexfloating))


def to_row(arrays: Sequence[Array]) -> Array:
  """Arrays as one row of real numbers."""
  parts = [jnp.zeros(0)]
  for x in arrays:
    x = jnp.asarray(x).reshape(-1)
    if jnp.iscomplexobj(x):
      parts += [x.real, x.imag]
    else:
      parts.append(x.astype(jnp.float64))
  return jnp.concatenate(parts)


def from_row(row: Array, spots: Sequence[Spot], np_: Any = jnp) -> list[Array]:
  """The inverse of `to_row`, by numpy or by that of jax."""
  arrays, at = [], 0
  for spot in spots:
    part = row[at : at + spot.size]
    at += spot.size
    if spot.is_complex:
      real, imag = part.reshape(2, *spot.shape)
      arrays.append(real + 1j * imag)
    elif jnp.issubdtype(spot.dtype, jnp.floating):
      arrays.append(part.reshape(spot.shape))
    else:
      arrays.append(np_.round(part).astype(spot.dtype).reshape(spot.shape))
  return arrays


def spot_of(x: Any) -> Spot:
  return Spot(tuple(x.shape), x.dtype)


def order_of_controls(network: Network) -> list[tuple[str, ...]]:
  """The leaves of each control, by the program's own text.

  A stage opens where an atom reads a leaf that is not decided, of another
  module than the stage before.
  """
  openings: list[tuple[str, list[str]]] = []
  decided: set[str] = set()
  for atom in network.atoms:
    new: dict[str, list[str]] = {}
    for path in atom.leaves:
      if path not in decided:
        new.setdefault(path.split('/')[0], []).append(path)
    current = openings[-1][0] if openings else None
    for module in sorted(new, key=lambda m: m != current):
      if openings and openings[-1][0] == module:
        openings[-1][1].extend(new[module])
      else:
        openings.append((module, new[module]))
      decided.update(new[module])
  return [tuple(sorted(paths)) for _, paths in openings]


class Cut(NamedTuple):
  """What is known where a stage opens.

  Attributes:
    values: numbers of the values that are still read.
    leaves: paths of the leaves that were decided before and are read again.
    part: the atoms up to the next cut.
  """

  values: tuple[int, ...]
  leaves: tuple[str, ...]
  part: range


def cuts(network: Network, controls: Sequence[tuple[str, ...]]) -> list[Cut]:
  """One for each control, in their order."""
  atoms, count = network.atoms, len(network.atoms)
  first = [
    min(i for i, atom in enumerate(atoms) if set(atom.leaves) & set(control))
    for control in controls
  ]
  if first != sorted(first):
    raise AssertionError('the controls are not in the order of the program')
  starts = [0, *first[1:]]
  found = []
  for t, start in enumerate(starts):
    stop = starts[t + 1] if t + 1 < len(starts) else count
    found.append(
      Cut(
        _live(network, start),
        _read_again(network, controls[:t], start),
        range(start, stop),
      )
    )
  return found


def _live(network: Network, start: int) -> tuple[int, ...]:
  made = set(network.entries.values())
  made |= {i for atom in network.atoms[:start] for i in atom.makes}
  read = set(network.exits.values())
  read |= {i for atom in network.atoms[start:] for i in atom.reads}
  return tuple(sorted(made & read))


def _read_again(
  network: Network, decided: Sequence[tuple[str, ...]], start: int
) -> tuple[str, ...]:
  read = {path for atom in network.atoms[start:] for path in atom.leaves}
  return tuple(sorted(read & {path for paths in decided for path in paths}))


class Reference:
  """A network of independent samples with explicit Jacobians.

  It is compiled once and serves batches of any numbers of one size.
  """

  def __init__(self, network: Network, controls: Sequence[tuple[str, ...]]):
    """Takes the order of the controls, each as paths of its leaves."""
    self.network, self.controls = network, list(controls)
    self._cuts = cuts(network, self.controls)
    leaves = flat(jax.eval_shape(network.params))
    self._leaves = {path: spot_of(leaf) for path, leaf in leaves.items()}
    one = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype),
      jax.eval_shape(network.inputs),
    )
    env = jax.eval_shape(
      lambda u, x: network.follow(
        1, u, network.entering(x), range(len(network.atoms))
      ),
      leaves,
      one,
    )
    self._spots = {i: spot_of(x) for i, x in env.items()}
    self._out = jax.tree.structure(network.leaving(env))
    self._linearised = jax.jit(self._linearise)
    self._next = jax.jit(
      lambda rows, us: [
        self._step(t, row, u)
        for t, (row, u) in enumerate(zip(rows, us, strict=True))
      ]
    )

  def linear(self, params: Tree, inputs: Tree, targets: Tree) -> Linear:
    """The stages, and the loss at the outputs, for a batch."""
    us = [self._row_of(params, paths) for paths in self.controls]
    found = jax.device_get(self._linearised(us, inputs, targets))
    count = len(self.controls)
    nominal = [np.array(row[0]) for row in found.states[:count]]
    stages = [
      oracle.Linear(
        self.controls[t],
        found.states[t],
        us[t],
        found.f_x[t],
        found.f_u[t],
        self._one_step(t, nominal, us),
        functools.partial(self._split, t),
      )
      for t in range(count)
    ]
    memory = [_memory(self._partners(paths)) for paths in self.controls]
    return Linear(stages, found.states[-1], found, memory)

  def _partners(self, paths: Sequence[str]) -> Array:
    """For each number of a control its other part, or -1 if it is real."""
    found, at = [], 0
    for spot in (self._leaves[path] for path in paths):
      places = np.arange(at, at + spot.size)
      half = spot.size // 2
      found.append(
        np.roll(places, half) if spot.is_complex else np.full(spot.size, -1)
      )
      at += spot.size
    return np.concatenate(found)

  def _row_of(self, params: Tree, paths: Sequence[str]) -> Array:
    leaves = [np.asarray(flat(params)[path]).reshape(-1) for path in paths]
    parts = [
      x
      for leaf in leaves
      for x in ([leaf.real, leaf.imag], [leaf])[not np.iscomplexobj(leaf)]
    ]
    return np.concatenate(parts)

  def _one_step(self, t: int, nominal: list[Array], us: list[Array]) -> Any:
    """One stage for one sample; the others are run along, for nothing."""

    def step(row: Array, u: Array) -> Array:
      rows, controls = list(nominal), list(us)
      rows[t], controls[t] = row, u
      return np.asarray(self._next(rows, controls)[t])

    return step

  def _split(self, t: int, u: Array) -> dict[str, Array]:
    """A control's row as arrays by the last word of their paths."""
    spots = [self._leaves[path] for path in self.controls[t]]
    parts = from_row(u, spots, np)
    names = [path.split('/')[-1] for path in self.controls[t]]
    return dict(zip(names, parts, strict=True))

  def _step(self, t: int, row: Array, u: Array) -> Array:
    """The stage of control `t` for one sample, from row to row."""
    network, cut = self.network, self._cuts[t]
    spots = [self._spots[i] for i in cut.values]
    known = [self._leaves[path] for path in cut.leaves]
    own = [self._leaves[path] for path in self.controls[t]]
    parts = from_row(row, [*spots, *known])
    leaves = dict(zip(cut.leaves, parts[len(spots) :], strict=True))
    leaves |= dict(zip(self.controls[t], from_row(u, own), strict=True))
    env = dict(zip(cut.values, parts, strict=False))
    env = network.follow(1, leaves, env, cut.part)
    if t + 1 == len(self._cuts):
      return to_row(jax.tree.leaves(network.leaving(env)))
    after = self._cuts[t + 1]
    return to_row(
      [*(env[i] for i in after.values), *(leaves[p] for p in after.leaves)]
    )

  def _linearise(self, us: list[Array], inputs: Tree, targets: Tree) -> Found:
    """All stages and the loss, samples leading."""
    entering = self.network.entering(inputs)
    first = [entering[i] for i in self._cuts[0].values]
    row = jax.vmap(lambda *xs: to_row([x[None] for x in xs]))(*first)
    states, f_x, f_u = [row], [], []
    for t, u in enumerate(us):

      def step(row: Array, u: Array, t: int = t) -> tuple[Array, Array]:
        after = self._step(t, row, u)
        return after, after

      jacobians = jax.jacrev(step, (0, 1), has_aux=True)
      (by_x, by_u), after = jax.vmap(jacobians, (0, None))(states[-1], u)
      states.append(after)
      f_x.append(by_x)
      f_u.append(by_u)

    def slope(row: Array, target: Tree) -> tuple[Array, tuple[Array, Array]]:
      cost, phi_x = jax.value_and_grad(self._cost)(row, target)
      return phi_x, (cost, phi_x)

    curvature = jax.vmap(jax.jacfwd(slope, has_aux=True))
    phi_xx, (cost, phi_x) = curvature(states[-1], targets)
    return Found(states, f_x, f_u, cost, phi_x, phi_xx)

  def _cost(self, row: Array, target: Tree) -> Array:
    exits = self.network.exits.values()
    # One number after the other: an output of one sample has no batch axis.
    spots = [self._spots[i] for i in exits]
    parts = from_row(row, [s._replace(shape=s.shape[1:]) for s in spots])
    return self.network.loss.phi(jax.tree.unflatten(self._out, parts), target)


class Found(NamedTuple):
  """What was compiled: see `Reference._linearise`."""

  states: list[Array]
  f_x: list[Array]
  f_u: list[Array]
  loss: Array
  phi_x: Array
  phi_xx: Array


class Linear(NamedTuple):
  """A batch, linearised.

  Attributes:
    stages: as the oracle takes them.
    outputs: of each sample, a row.
    found: all that was computed.
    memory: of each stage, before the first step.
  """

  stages: list[oracle.Linear]
  outputs: Array
  found: Found
  memory: list[oracle.Memory]

  def terminal(self, kind: str) -> oracle.Terminal:
    """The value function at the outputs."""
    phi_x = list(self.found.phi_x)
    if kind == 'gradient':
      phi_xx = [np.outer(v, v) for v in phi_x]
    else:
      phi_xx = list(map(_positive_part, self.found.phi_xx))
    return oracle.Terminal(self.found.loss, phi_x, phi_xx)

  def safe_rate(self, terminal: str, base: Any, rate: float) -> float:
    """The largest of `rate`, half of it ... at which nothing clamps.

    `base` makes a base of a rate.
    """
    end = self.terminal(terminal)
    with np.errstate(all='ignore'):
      while rate > 1e-6:
        found = oracle.backward(
          self.stages, end, with_complex(base(rate)), self.memory
        )
        if found.smallest_factor > 0.05:
          break
        rate /= 2
    return rate

  def solve(
    self, terminal: str, value: str, base: Any, feedback: bool = True
  ) -> oracle.Leaves:
    """The updates by path."""
    end, memory = self.terminal(terminal), self.memory
    base = with_complex(base)
    if value == 'coupled':
      return oracle.solve_coupled(self.stages, end, base, memory).updates
    found = oracle.solve(
      self.stages, end, base, memory, level=value, feedback=feedback
    )
    return found.updates


def _memory(partners: Array) -> oracle.Memory:
  """A first memory that knows which numbers are parts of a complex one."""
  kind = type('Memory', (oracle.Memory,), {'partners': partners})
  return kind()


def with_complex(base: Any) -> Any:
  """A base whose `M` is one number for both parts of a complex one.

  As optax has it: `E[q^2]` is that of the absolute value.
  """

  def curvature(memory: Any, q: Array) -> tuple[Array, Any]:
    partners = memory.partners
    other = np.where(partners < 0, 0, q[partners])
    return base.curvature(memory, np.sqrt(q**2 + other**2))

  return base._replace(curvature=curvature)


def _positive_part(matrix: Array) -> Array:
  values, vectors = np.linalg.eigh(matrix)
  return vectors @ np.diag(np.maximum(values, 0)) @ vectors.T
