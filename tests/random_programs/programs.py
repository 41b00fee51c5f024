"""Random programs: lists of small drawn operations, and the networks they make.

A program is a list of pairs (kind, numbers). The numbers choose operands and
variants among what there is, so that every list makes a network, also one from
which something was left out: that is what makes shrinking useful. What has been
computed and read by nobody goes to the head, so that every parameter matters.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import ops_blocks  # noqa: F401 (a module adds its operations when imported)
import ops_complex  # noqa: F401
import ops_coupling  # noqa: F401
import ops_elementwise  # noqa: F401
import ops_features  # noqa: F401
import ops_indices  # noqa: F401
import ops_layers  # noqa: F401
import ops_layout  # noqa: F401
import ops_loops  # noqa: F401
import ops_patterns  # noqa: F401
from drafts import Atom, Draft, Leaf, UnfitError, Value
from ends import Loss, entries_of, exits_of
from hypothesis import strategies as st
from ops import OFTEN, TABLE

Tree = Any
Array = jax.Array
LARGEST_PICK = 5039
PICKS = 12
FEWEST_OPS, MOST_OPS = 4, 9
FEW = 60  # of the numbered ones; they are smaller
# Of so many programs one may let samples meet; the others leave that out.
COUPLED_ONCE_IN = 12


class Op(NamedTuple):
  """One operation: its kind, and the numbers that decide the rest."""

  kind: str
  picks: tuple[int, ...]


class Program(NamedTuple):
  """A random program.

  Attributes:
    inputs: what the inputs are.
    ops: what is done with them.
    head: what the outputs and the loss are.
    batch: number of samples.
    seed: of all numbers.
  """

  inputs: Op
  ops: tuple[Op, ...]
  head: Op
  batch: int
  seed: int


def written(
  choose: Callable[[int], int], fewest: int = FEWEST_OPS, most: int = MOST_OPS
) -> Program:
  """A program by choices: `choose(n)` is one of `0 ... n - 1`."""

  def op(kind: str) -> Op:
    return Op(kind, tuple(choose(LARGEST_PICK + 1) for _ in range(PICKS)))

  coupled = choose(COUPLED_ONCE_IN) == COUPLED_ONCE_IN - 1
  meeting = ('over_samples', 'between_samples')
  kinds = [k for k in OFTEN if coupled or k not in meeting]
  count = fewest + choose(most - fewest + 1)
  ops = [op(kinds[choose(len(kinds))]) for _ in range(count)]
  if coupled and not any(o.kind in meeting for o in ops):
    ops.insert(choose(count) + 1, op(meeting[choose(3) // 2]))
  return Program(
    op('inputs'), tuple(ops), op('head'), 2 + choose(4), choose(1000)
  )


def numbered(number: int) -> Program:
  """The program of a number."""
  sizes = (2, 4) if number < FEW else (FEWEST_OPS, MOST_OPS)
  return written(random.Random(number).randrange, *sizes)


@st.composite
def programs(draw: st.DrawFn) -> Program:
  """Programs for hypothesis, which shrinks them."""
  return written(lambda n: draw(st.integers(0, n - 1)))


class Network(NamedTuple):
  """What a program is, ready to be traced.

  Attributes:
    atoms: its steps.
    values: all values.
    leaves: its parameter leaves by path.
    entries: how the leaves of the inputs are called, with their values.
    single: whether the inputs are one array.
    exits: how the leaves of the outputs are called, with their values.
    alone: whether the outputs are one array.
    loss: the loss of one sample, and its name.
    couples: '' if its samples do not meet, else as `drafts.Atom` has it.
    batch: number of samples.
    seed: of all numbers.
  """

  atoms: tuple[Atom, ...]
  values: tuple[Value, ...]
  leaves: dict[str, Leaf]
  entries: dict[str, int]
  single: bool
  exits: dict[str, int]
  alone: bool
  loss: Loss
  couples: str
  batch: int
  seed: int

  def follow(
    self, batch: int, u: dict[str, Array], env: dict[int, Array], part: range
  ) -> dict[int, Array]:
    """Runs some of the atoms on values by number; returns all values."""
    env = dict(env)
    for atom in self.atoms[part.start : part.stop]:
      made = atom.run(batch, u, *(env[i] for i in atom.reads))
      env.update(zip(atom.makes, made, strict=True))
    return env

  def entering(self, inputs: Tree) -> dict[int, Array]:
    """The inputs as values by number."""
    if self.single:
      return {next(iter(self.entries.values())): inputs}
    return {i: inputs[name] for name, i in self.entries.items()}

  def leaving(self, env: dict[int, Array]) -> Tree:
    """The outputs among values by number."""
    if self.alone:
      return env[next(iter(self.exits.values()))]
    return {name: env[i] for name, i in self.exits.items()}

  def apply(self, params: Tree, inputs: Tree) -> Tree:
    """The network."""
    batch = jax.tree.leaves(inputs)[0].shape[0]
    env = self.entering(inputs)
    everything = range(len(self.atoms))
    env = self.follow(batch, flat(params), env, everything)
    return self.leaving(env)

  def params(self) -> Tree:
    """Its parameters, modules by name."""
    rng = np.random.default_rng(self.seed)
    tree: dict[str, dict[str, Array]] = {}
    for path, leaf in self.leaves.items():
      module, name = path.split('/')
      numbers = leaf.mean + leaf.scale * rng.standard_normal(leaf.shape)
      if leaf.kind == 'c':
        numbers = numbers + 1j * leaf.scale * rng.standard_normal(leaf.shape)
      tree.setdefault(module, {})[name] = jnp.asarray(numbers)
    return tree

  def inputs(self) -> Tree:
    """A batch."""
    return self._drawn(self.entries, self.single, 1)

  def targets(self) -> Tree:
    """One for each of the outputs."""
    if self.loss.name == 'softmax_cross_entropy':
      rng = np.random.default_rng(self.seed + 2)
      width = self.values[next(iter(self.exits.values()))].size
      scores = np.exp(rng.standard_normal((self.batch, width)))
      return jnp.asarray(scores / scores.sum(axis=1, keepdims=True))
    return self._drawn(self.exits, self.alone, 2)

  def _drawn(self, names: dict[str, int], alone: bool, more: int) -> Tree:
    rng = np.random.default_rng(self.seed + more)
    found = {}
    for name, i in names.items():
      value = self.values[i]
      shape = value.shape(self.batch)
      if value.kind == 'i':
        numbers = rng.integers(0, value.bound, shape)
      else:
        numbers = rng.standard_normal(shape)
      if value.kind == 'c':
        numbers = numbers + 1j * rng.standard_normal(shape)
      found[name] = jnp.asarray(numbers > 0 if value.kind == '?' else numbers)
    return next(iter(found.values())) if alone else found

  def __str__(self) -> str:
    lines = [f'batch b = {self.batch}, seed {self.seed}']
    lines += [
      f'{n} = v{i}  # {self.values[i]}' for n, i in self.entries.items()
    ]
    lines += [
      f'{path}  # {"complex" if leaf.kind == "c" else "real"} '
      f'{list(leaf.shape)}'
      for path, leaf in self.leaves.items()
    ]
    lines += [atom.text for atom in self.atoms]
    outs = ', '.join(f'{n}=v{i}' for n, i in self.exits.items())
    meets = f', samples meet ({self.couples})' if self.couples else ''
    lines.append(f'return {outs}; loss {self.loss.name}{meets}')
    return '\n'.join(lines)


def flat(params: Tree) -> dict[str, Array]:
  """Leaves by path."""
  return {
    f'{module}/{name}': leaf
    for module, leaves in params.items()
    for name, leaf in leaves.items()
  }


def assembled(program: Program) -> Network:
  """The network of a program."""
  d = Draft()
  d.begin(program.inputs.picks)
  entries, single = entries_of(d)
  for op in program.ops:
    d.begin(op.picks)
    try:
      TABLE[op.kind](d)
    except UnfitError:
      continue
  d.begin(program.head.picks)
  exits, alone, loss = exits_of(d)
  atoms = _live(d, exits.values())
  reads = {path for atom in atoms for path in atom.leaves}
  return Network(
    atoms,
    tuple(d.values),
    {path: leaf for path, leaf in d.leaves.items() if path in reads},
    entries,
    single,
    exits,
    alone,
    loss,
    max((atom.meets for atom in atoms), default=''),
    program.batch,
    program.seed,
  )


def _live(d: Draft, wanted: Any) -> tuple[Atom, ...]:
  """The atoms that the outputs need."""
  needed, atoms = set(wanted), []
  for atom in reversed(d.atoms):
    if needed & set(atom.makes):
      needed |= set(atom.reads)
      atoms.append(atom)
  return tuple(reversed(atoms))
