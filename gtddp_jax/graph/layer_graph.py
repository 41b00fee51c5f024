"""The layer graph: a network of any topology as one chain of stages.

    c_0 -> c_1 = F_0(c_0, u_0) -> c_2 = F_1(c_1, u_1) -> ... -> outputs

A skip connection is a value that stays in the state; nothing here knows about
topology.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax import checks, errors
from gtddp_jax.graph import outputs as outputs_lib
from gtddp_jax.graph import varying
from gtddp_jax.graph.batch_axis import as_dtype, as_real
from gtddp_jax.graph.chain import (
  Arrays,
  Extras,
  Fixed,
  Game,
  Result,
  Shapes,
  Stage,
  pick,
  shape_of,
)

__all__ = (
  'Arrays',
  'Extras',
  'Fixed',
  'Game',
  'LayerGraph',
  'Result',
  'Shapes',
  'Stage',
  'pick',
  'shape_of',
)


# Equal to itself alone: a static argument of jax.jit, or what jit is given.
@dataclasses.dataclass(frozen=True, eq=False)
class LayerGraph:
  """A network as a chain of stages; made by ``trace``.

  Attributes:
    stages: the stages in program order.
    unread: flat indices of the parameters without influence on the outputs;
      no stage has them, and their gradient is zero.
    paths: one '/'-joined path per flat parameter leaf.
    params: pytree of parameter shapes.
    inputs: pytree of input shapes; leading axis = batch.
    outputs: pytree of output shapes; leading axis = batch, but where an output
      is the same for all samples.
    kinds: what each flat output is, see ``outputs``.
    changed: pytree of the shapes of collections that the network changes.
    extras: collections and keys as given to ``trace``.
    batch_size: B.
    games: stages whose outputs meet in one add.
    mixed: whether samples are coupled, as by batch statistics: they meet in
      some value between inputs and outputs that depends on controls.
    order: 'program', or 'merge' where the players of a game come in a row, next
      to the add.
    finish: ``(c, v, fixed) -> outputs`` as flat leaves, rows of samples; ``v``
      = all parameters.
    network: the function that was traced, ``(params, inputs, extras) ->
      Result``.
    owner: maps a leaf's key path to its module.
    retrace: builds the graph of the same network for inputs of other shapes,
      given as tree structure and flat shapes, in an order; builds each once.
  """

  stages: tuple[Stage, ...]
  unread: tuple[int, ...]
  paths: tuple[str, ...]
  params: Any
  inputs: Any
  outputs: Any
  kinds: tuple[outputs_lib.Kind, ...]
  changed: Any
  extras: Extras
  batch_size: int
  games: tuple[Game, ...]
  mixed: bool
  order: str
  finish: Callable[[Arrays, Arrays, Fixed], Arrays]
  network: Any
  owner: Callable[[Any], Any]
  retrace: Callable[[Any, Shapes, str], LayerGraph]

  def __repr__(self) -> str:
    """One line; ``summary`` has a row per stage."""
    games = f', games {len(self.games)}' if self.games else ''
    return f'<LayerGraph: {_totals(self)}{games}>'

  def __call__(
    self, params: Any, inputs: Any, extras: Extras | None = None
  ) -> Any:
    """Runs the composed stages; equals ``apply_fn(params, inputs)``.

    Raises:
      ParameterTreeError: if ``params`` is not the tree that was traced.
    """
    return self.run(params, inputs, extras).outputs

  def run(
    self, params: Any, inputs: Any, extras: Extras | None = None
  ) -> Result:
    """Outputs and changed collections; ``extras`` default to those traced."""
    graph = self.for_inputs(inputs)
    leaves = graph.flatten(params)
    fixed = graph.surroundings(inputs, extras)
    state: Arrays = ()
    changed: dict[int, jax.Array] = {}
    for stage in graph.stages:
      u, v = pick(leaves, stage.control), pick(leaves, stage.shared)
      new = stage.collect(state, leaves, fixed)
      changed.update(zip(stage.collected, new, strict=True))
      state, aux = stage(state, u, v, fixed)
      fixed = dataclasses.replace(fixed, aux=aux)
    rows = graph.finish(state, leaves, fixed)
    outputs = outputs_lib.returned(rows, graph.kinds)
    return Result(
      jax.tree.unflatten(jax.tree.structure(self.outputs), outputs),
      self.changed_from(changed),
    )

  def carried(self, outputs: Any) -> Any:
    """Outputs of the network as ``finish`` has them, each a row per sample."""
    return outputs_lib.carried(outputs, self.kinds, self.batch_size)

  def surroundings(self, inputs: Any, extras: Extras | None = None) -> Fixed:
    """What the first stage reads and never differentiates."""
    leaves = tuple(map(jnp.asarray, jax.tree.leaves(inputs)))
    return Fixed((), leaves, tuple(jax.tree.leaves(extras or self.extras)))

  def changed_from(self, leaves: Mapping[int, jax.Array]) -> Any:
    """The changed collections from their flat leaves."""
    tree = jax.tree.structure(self.changed)
    return jax.tree.unflatten(tree, [leaves[i] for i in range(len(leaves))])

  def flatten(self, params: Any) -> Arrays:
    """The flat leaves of ``params``, complex numbers as pairs of real ones.

    Their containers may be others than those traced, if the paths are the same.

    Raises:
      ParameterTreeError: if structure, shapes or dtypes are not as traced.
    """
    found = checks.misfit(self.params, params)
    if found is not None:
      raise errors.ParameterTreeError(
        f'The parameters are not those that the graph was traced with: '
        f'{found}. {_remedy(found)}'
      )
    leaves = jax.tree.leaves(checks.like(self.params, params))
    return tuple(map(as_real, leaves))

  def unflatten(self, leaves: Sequence[jax.Array]) -> Any:
    """The inverse of ``flatten``, for what is like parameters."""
    shapes, tree = jax.tree.flatten(self.params)
    pairs = zip(leaves, shapes, strict=True)
    return jax.tree.unflatten(tree, [as_dtype(x, s.dtype) for x, s in pairs])

  def for_inputs(self, inputs: Any) -> LayerGraph:
    """This graph, or the one of the same network for other input shapes.

    Shapes are part of a trace; a batch of another size needs another trace
    (at tracing time only: a jitted step pays for it once per shape).
    """
    shapes = jax.tree.map(shape_of, inputs)
    if shapes == self.inputs:
      return self
    leaves, tree = jax.tree.flatten(shapes)
    return self.retrace(tree, tuple(leaves), self.order)

  def in_order(self, order: str) -> LayerGraph:
    """The same network with its stages in another order.

    Args:
      order: 'program', or 'merge': the players of a game come in a row, next to
        the add where they meet, and so see the latest states.

    Returns:
      The graph; parameters and results are the same.

    Raises:
      OptionError: for another word.
    """
    checks.check_option('order', order, ORDERS)
    if order == self.order:
      return self
    leaves, tree = jax.tree.flatten(self.inputs)
    return self.retrace(tree, tuple(leaves), order)

  def decisions(self, cooperate: bool) -> list[range]:
    """The stages of each decision: the players of a game, or one stage."""
    spans = {t: range(t, t + 1) for t in range(len(self.stages))}
    for game in self.games if cooperate else ():
      first, last = game.stages[0], game.stages[-1]
      if last - first == len(game.stages) - 1:
        for t in game.stages[1:]:
          del spans[t]
        spans[first] = range(first, last + 1)
    return list(spans.values())

  def game_of(self, span: range) -> Game:
    """The game that the stages of a decision play, of one player at least."""
    for game in self.games:
      if game.stages == tuple(span):
        return game
    return Game(tuple(span), (0,), direct=False)

  def has_kronecker(self, t: int) -> bool:
    """Whether stage ``t`` has a Kronecker curvature: it is not tied."""
    own = set(self.stages[t].control)
    tied = any(own & set(stage.shared) for stage in self.stages)
    return self.stages[t].closed_form is not None and not tied

  def for_batch(self, size: int) -> LayerGraph:
    """The graph of the same network for a batch of ``size`` samples."""
    return self.for_inputs(
      jax.tree.map(
        lambda s: varying.shaped((size, *s.shape[1:]), s.dtype, s),
        self.inputs,
      )
    )

  def of_few(self) -> LayerGraph:
    """The graph for the smallest batch of several samples but its own.

    At two sizes whatever is made for the whole batch has two shapes.
    """
    return self.for_batch(3 if self.batch_size == 2 else 2)

  def summary(self) -> str:
    """A table: one row per stage, then totals."""
    return summarize(self)


ORDERS = ('program', 'merge')


def _remedy(misfit: str) -> str:
  """What to do about parameters that are not those traced."""
  if not misfit.endswith(('got None', 'got MaskedNode')):
    return 'Give those, or trace the graph again with these.'
  return (
    'The network needs all of them. To freeze some, which optax.masked and '
    'optax.multi_transform around gt_ddp cannot, trace the others alone, '
    'trace(lambda p, x: apply_fn({**p, **frozen}, x), trained, x), or give '
    'gt_ddp a base whose step is zero there, optax.chain(sgd(lr), '
    'optax.masked(optax.set_to_zero(), frozen_mask)).'
  )


def summarize(graph: LayerGraph) -> str:
  """Renders ``graph`` as the table of ``LayerGraph.summary``.

  Columns: stage number; parameter path of the owner, with ``+path`` for earlier
  controls that the stage reads again; kind; shapes of the control leaves; size
  of the state before the stage in numbers per sample; curvatures supported;
  the other players whose outputs meet this stage's in one add, if any meet.
  """
  shapes = jax.tree.leaves(graph.params)
  head = ('stage', 'parameters', 'kind', 'control', 'state', 'curvature')
  rows: list[tuple[str, ...]] = [(*head, 'meets')]
  for t, stage in enumerate(graph.stages):
    again = sorted({graph.paths[i] for i in stage.shared})
    rows.append(
      (
        str(t),
        ' +'.join([stage.name, *again]),
        stage.kind,
        ' '.join(_show(shapes[i].shape) for i in stage.control),
        f'{_per_sample(stage.state, graph.batch_size):,}',
        'identity diagonal' + ' kronecker' * graph.has_kronecker(t),
        _partners(graph, t),
      )
    )
  if not graph.games:
    rows = [row[:-1] for row in rows]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = [
    '  '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))
    for row in rows
  ]
  lines.insert(1, '  '.join('-' * w for w in widths))
  largest = max(_per_sample(s.state, graph.batch_size) for s in graph.stages)
  lines.append(
    f'{_totals(graph)}, largest state {largest:,} numbers per sample'
  )
  lines += _notes(graph)
  return '\n'.join(line.rstrip() for line in lines)


def _notes(graph: LayerGraph) -> list[str]:
  """What is not in the chain of stages and samples."""
  notes = []
  keys = [path for path, _ in jax.tree_util.tree_leaves_with_path(graph.params)]
  for t, stage in enumerate(graph.stages):
    if len({graph.owner(keys[i]) for i in stage.control}) > 1:
      notes.append(
        f'stage {t}: a loop that reads the same parameters at every step, all '
        f'of them one control'
      )
  if graph.unread:
    paths = ', '.join(graph.paths[i] for i in graph.unread)
    notes.append(
      f'without influence on the outputs, stepped along a zero gradient: '
      f'{paths}'
    )
  keyed, _ = jax.tree_util.tree_flatten_with_path(graph.outputs)
  common = [
    checks.path_of(path)
    for (path, _), kind in zip(keyed, graph.kinds, strict=True)
    if kind == 'common'
  ]
  if common:
    notes.append(
      f'outputs that are the same for all samples: {", ".join(common)}'
    )
  return notes


def _totals(graph: LayerGraph) -> str:
  total = sum(math.prod(s.shape) for s in jax.tree.leaves(graph.params))
  return (
    f'{len(graph.stages)} stages, {total:,} parameters, batch '
    f'{graph.batch_size}'
  )


def _partners(graph: LayerGraph, t: int) -> str:
  players = [s for game in graph.games if t in game.stages for s in game.stages]
  return ' '.join(str(s) for s in players if s != t)


def _show(shape: tuple[int, ...]) -> str:
  return 'x'.join(map(str, shape)) if shape else 'scalar'


def _per_sample(shapes: Shapes, batch: int) -> int:
  return sum(math.prod(s.shape) for s in shapes) // batch
