"""Tracing: a pure function becomes a chain of stages.

The function is captured as a program, its cuts are found (``cuts``), and the
pieces of the program between them become the stages' functions (``building``).
Where the samples are in each value, and where they meet, is found on the way
(``batch_axis``).
"""

from __future__ import annotations

import dataclasses
import functools
import numbers
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax import checks, errors
from gtddp_jax.graph import cuts as cuts_lib
from gtddp_jax.graph import games as game_lib
from gtddp_jax.graph import layer_graph as graph_lib
from gtddp_jax.graph import outputs as outputs_lib
from gtddp_jax.graph import program as jaxprs
from gtddp_jax.graph import stages as building
from gtddp_jax.graph import varying
from gtddp_jax.graph.batch_axis import Batch, analyse

KeyPath = tuple[Any, ...]
ApplyFn = Callable[..., Any]
Owner = Callable[[KeyPath], Hashable]


def module_of(path: KeyPath) -> Hashable:
  """The default owner of a leaf: its path without the last key.

  A leaf at the root of the tree owns itself. Wrappers that end a path in
  ``.value`` (Flax nnx variables, linen's partitioned boxes) are looked through.
  """
  path = checks.unboxed(path)
  return path[:-1] if len(path) > 1 else path


def build(
  network: Network, params: Any, inputs: Any, owner: Owner, strict: bool = False
) -> graph_lib.LayerGraph:
  """Builds the layer graph of a network; see ``trace`` for what is refused.

  Args:
    network: with its collections and keys.
    params: pytree of parameters, or shapes.
    inputs: pytree of arrays, or shapes.
    owner: maps a leaf's key path to its module.
    strict: whether every parameter has to influence the outputs.

  Returns:
    The graph.

  Raises:
    OptionError: for an ``owner`` that is no function.
    UnownedParameterError: for a parameter without influence, if ``strict``.
  """
  if not callable(owner):
    raise errors.OptionError(
      f'Invalid owner: got {owner!r}, expected a function of a key path, such '
      f'as module_of.'
    )
  _check_arrays(params)
  shapes = jax.tree.map(graph_lib.shape_of, (params, inputs))
  graph = _build(network, owner, *shapes)
  if strict and graph.unread:
    unread = ', '.join(repr(graph.paths[i]) for i in graph.unread)
    raise errors.UnownedParameterError(
      f'No stage owns the parameter(s) {unread}: expected every leaf to '
      f'influence the outputs, as strict=True asks. Drop them from params, or '
      f'close over them in apply_fn.'
    )
  return graph


class Network:
  """``apply_fn`` as a function ``(params, inputs, extras) -> Result``."""

  def __init__(
    self, apply_fn: ApplyFn, collections: Any, rngs: Any, mutable: Any
  ):
    """Takes what was given to ``trace``."""
    self.extras = graph_lib.Extras(collections or {}, rngs or {})
    self._apply, self._mutable = apply_fn, mutable

  def __call__(
    self, params: Any, inputs: Any, extras: graph_lib.Extras
  ) -> graph_lib.Result:
    """Runs the network."""
    keywords: dict[str, Any] = {'rngs': extras.rngs} if extras.rngs else {}
    variables = params
    if extras.collections:
      variables = {**params, **extras.collections}
    if not self._mutable:
      outputs = self._apply(variables, inputs, **keywords)
      return graph_lib.Result(outputs, {})
    outputs, changed = self._apply(
      variables, inputs, **keywords, mutable=self._mutable
    )
    if 'params' in changed:
      raise errors.ParameterTreeError(
        f'trace(..., mutable={self._mutable!r}) lets the network change its '
        f'parameters: expected the names of the other collections that it '
        f"changes, as in mutable=['batch_stats']."
      )
    for name in changed:
      if name not in extras.collections:
        raise errors.ParameterTreeError(
          f'The network changes the collection {name!r}: expected it among '
          f'trace(..., collections=...), got {sorted(extras.collections)}. '
          f'Give its first value there, or take it out of mutable.'
          f'{checks.nearest(name, extras.collections)}'
        )
      misfit = checks.misfit(
        jax.tree.map(graph_lib.shape_of, extras.collections[name]),
        changed[name],
      )
      if misfit is not None:
        raise errors.ParameterTreeError(
          f'The network changes the collection {name!r} to one that is not '
          f'like the one it was given: {misfit}. Give trace(..., collections='
          f'...) a tree like the one that it returns.'
        )
    return graph_lib.Result(outputs, changed)


def _build(
  network: Network,
  owner: Owner,
  params: Any,
  inputs: Any,
  order: str = 'program',
) -> graph_lib.LayerGraph:
  """Builds the graph from shapes alone."""
  keyed = _controls(params)
  paths = tuple(checks.path_of(path) for path, _ in keyed)
  owners = [_owner(owner, path) for path, _ in keyed]
  complete, batch, kinds = _carried(network, params, inputs)
  shapes = complete.out_shape
  n_outputs = len(kinds)
  # Changed collections are read off on the way, and are live nowhere.
  program = dataclasses.replace(
    complete,
    outputs=complete.outputs[:n_outputs],
    out_shape=shapes.outputs,
  )
  chain = functools.partial(
    _chain,
    owners=owners,
    paths=paths,
    batch=batch,
    keys=jax.tree.leaves(network.extras.rngs),
    changed=complete.outputs[n_outputs:],
  )
  found = chain(program)
  while order == 'merge' and (moved := _next_to_merge(found)):
    found = chain(moved)
  owned = {i for stage in found.stages for i in stage.control}
  return graph_lib.LayerGraph(
    stages=found.stages,
    unread=tuple(i for i in range(len(paths)) if i not in owned),
    paths=paths,
    params=params,
    inputs=inputs,
    outputs=outputs_lib.returned_shapes(shapes.outputs, kinds),
    kinds=tuple(kinds),
    changed=shapes.collections,
    extras=network.extras,
    batch_size=_batch_size(inputs),
    games=found.games,
    mixed=any(v in batch.meeting for v in found.flow.moving),
    order=order,
    finish=found.finish,
    network=network,
    owner=owner,
    retrace=functools.cache(
      lambda tree, leaves, order: _build(
        network, owner, params, jax.tree.unflatten(tree, leaves), order
      )
    ),
  )


class _Chain(NamedTuple):
  """A program cut into stages."""

  program: jaxprs.Program
  flow: cuts_lib.Flow
  cuts: list[cuts_lib.Cut]
  stages: tuple[graph_lib.Stage, ...]
  games: tuple[graph_lib.Game, ...]
  finish: Callable[..., graph_lib.Arrays]


def _chain(
  program: jaxprs.Program,
  owners: Sequence[tuple[str, str]],
  paths: tuple[str, ...],
  batch: Batch,
  keys: Sequence[Any],
  changed: Sequence[Any],
) -> _Chain:
  """Cuts a program, whose outputs are those of the network alone."""
  flow = cuts_lib.analyse(program, len(paths))
  cuts = cuts_lib.find(program, flow, owners, paths, batch)
  outputs = tuple(
    dict.fromkeys(
      v for v in program.outputs if jaxprs.is_variable(v) and v in flow.moving
    )
  )
  starts = [-1, *(c.position for c in cuts[1:])]
  spans = map(range, starts, [*starts[1:], len(program.equations)])
  after = [(c.state, c.aux) for c in cuts[1:]] + [cuts_lib.split(outputs)]
  builder = building.Builder(program, flow, batch, paths, keys, changed)
  stages = tuple(map(builder.stage, cuts, spans, after))
  games = tuple(game_lib.find(program, flow, cuts, stages, batch))
  return _Chain(program, flow, cuts, stages, games, builder.finish(*after[-1]))


def _next_to_merge(chain: _Chain) -> jaxprs.Program | None:
  """The program with one more game's players in a row, if one is not."""
  for game in chain.games:
    if game.stages[-1] - game.stages[0] >= len(game.stages):
      return game_lib.next_to_merge(chain.program, chain.flow, chain.cuts, game)
  return None


def _check_arrays(params: Any) -> None:
  """Raises ``ParameterTreeError`` for a leaf that is no array."""
  for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
    if not (hasattr(leaf, 'dtype') or isinstance(leaf, numbers.Number)):
      raise errors.ParameterTreeError(
        f'Parameter {checks.path_of(path)!r}: expected an array, got a '
        f'{type(leaf).__name__}. Trace the arrays alone, as in arrays, static '
        f'= eqx.partition(model, eqx.is_inexact_array); trace(lambda p, x: '
        f'jax.vmap(eqx.combine(p, static))(x), arrays, x).'
      )


def _controls(params: Any) -> list[tuple[KeyPath, Any]]:
  """The parameter leaves with their key paths.

  Raises:
    ControlDtypeError: if one is neither floating-point nor complex.
    ParameterTreeError: if there are other collections of Flax among them.
    UnownedParameterError: if there is none.
  """
  if isinstance(params, Mapping) and 'params' in params and len(params) > 1:
    others = sorted(set(params) - {'params'})
    raise errors.ParameterTreeError(
      f"The parameters have {others} beside 'params': expected the collection "
      f"'params' alone, since all that is given is trained. Give the others to "
      f'trace(..., collections=...); for one that is to be trained, take '
      f"another name than 'params' for the first."
    )
  keyed, _ = jax.tree_util.tree_flatten_with_path(params)
  for path, leaf in keyed:
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
      raise errors.ControlDtypeError(
        f'Parameter {checks.path_of(path)!r}: expected a floating-point '
        f'or complex array, got {leaf.dtype}. Close over it in apply_fn '
        f'instead of passing it as a parameter.'
      )
  if not keyed:
    raise errors.UnownedParameterError(
      'The network has no parameters: expected at least one leaf in params.'
    )
  return keyed


def _owner(owner: Owner, path: KeyPath) -> tuple[str, str]:
  """What ``owner`` says of a path: a name, and what is compared."""
  found: Any = owner(path)
  if isinstance(found, (str, int)):
    return str(found), str(found)
  keys = found if isinstance(found, tuple) else (found,)
  try:
    return checks.path_of(keys), jax.tree_util.keystr(keys)
  except (TypeError, ValueError, AttributeError):
    raise errors.OptionError(
      f'owner({checks.path_of(path)!r}) returned {found!r}: expected a string '
      f'or keys of the path, equal for the leaves of one control.'
    ) from None


def _capture(
  network: Any, params: Any, inputs: Any, extras: Any = None
) -> jaxprs.Program:
  """Captures the network without dead equations or calls that hide controls."""
  extras = network.extras if extras is None else extras
  like = jax.tree.leaves(inputs)[0]
  params, extras = jax.tree.map(
    lambda v: varying.shaped(v.shape, v.dtype, like),
    jax.tree.map(graph_lib.shape_of, (params, extras)),
  )
  program = jaxprs.capture(network, params, inputs, extras)
  n_params = len(jax.tree.leaves(params))
  while True:
    live = program.slice(program.inputs, program.outputs).equations
    program = dataclasses.replace(program, equations=live)
    flow = cuts_lib.analyse(program, n_params)
    hiding = {id(e) for e, read in zip(live, flow.reads, strict=True) if read}
    expanded = program.expand(_any_of(hiding))
    if expanded is program:
      return program
    program = expanded


def _carried(
  network: Network, params: Any, inputs: Any
) -> tuple[jaxprs.Program, Batch, list[outputs_lib.Kind]]:
  """A network with rows of samples as outputs, and where the samples are."""
  program = _capture(network, params, inputs)
  batch = _analysed(params, inputs, program)
  flow = cuts_lib.analyse(program, len(jax.tree.leaves(params)))
  _check_known(flow, batch)

  def shapes_at(size: int) -> list[tuple[int, ...]] | None:
    other = jax.tree.map(
      lambda s: varying.shaped((size, *s.shape[1:]), s.dtype, s), inputs
    )
    try:
      shapes = _capture(network, params, other).out_shape.outputs
    except Exception:  # of any kind: it may be written for one batch size
      return None
    return [s.shape for s in jax.tree.leaves(shapes)]

  of_outputs = dataclasses.replace(
    program,
    outputs=program.outputs[: len(jax.tree.leaves(program.out_shape.outputs))],
    out_shape=program.out_shape.outputs,
  )
  kinds = outputs_lib.kinds(of_outputs, batch, shapes_at)
  if all(kind == 'own' for kind in kinds):
    return program, batch, kinds
  carrying = outputs_lib.carrying(network, kinds, batch.size)
  program = _capture(carrying, params, inputs, network.extras)
  batch = _analysed(params, inputs, program)
  return program, outputs_lib.located(program, batch, kinds), kinds


def _any_of(equations: set[int]) -> Callable[[jaxprs.Equation], bool]:
  """Whether an equation is one of these, or only calls a function."""
  return lambda e: id(e) in equations or jaxprs.is_plain_call(e)


def _batch_size(inputs: Any) -> int:
  leading = {s.shape[:1] for s in jax.tree.leaves(inputs)}
  sizes = [size for axes in leading for size in axes]
  if len(leading) != 1 or len(sizes) != 1:
    shapes = [list(s.shape) for s in jax.tree.leaves(inputs)]
    raise errors.BatchAxisError(
      f'The input leaves have shapes {shapes}: expected one leading axis of '
      f'equal size, the batch, on each. Close over arrays without batch axis.'
    )
  if not sizes[0]:
    raise errors.BatchAxisError(
      'The inputs are a batch of no samples: expected at least one.'
    )
  return int(sizes[0])


def _analysed(params: Any, inputs: Any, program: jaxprs.Program) -> Batch:
  """Where the samples are in the values of a program."""
  first = len(jax.tree.leaves(params))
  batched = program.inputs[first : first + len(jax.tree.leaves(inputs))]
  return analyse(program, batched, _batch_size(inputs))


def _check_known(flow: cuts_lib.Flow, batch: Batch) -> None:
  """Raises ``BatchAxisError`` where it cannot be told if samples meet."""
  for value in flow.moving:
    unknown = batch.unknown(value)
    if unknown is not None:
      shape = list(jaxprs.abstract(value).shape)
      raise errors.BatchAxisError(
        f'The operation {unknown!r} does not say where the samples are in what '
        f'it makes, on the way to a value of shape {shape}: expected one of '
        f'the operations of jax.numpy and jax.lax between the parameters and '
        f'the outputs, whose results are known sample by sample. Write that '
        f'part with them, or leave it to the loss.'
      )
