"""Whether the linearised chain is the derivative of its network.

What a step works with is compared with ``jax.vjp`` of the network on random
cotangents ``Z``, where ``w`` weighs the samples::

    sum_i w_i g_i      = gradient of <w Z, outputs>       in every control
    P_t of samples     = 0 in the rows of other samples   if they do not meet
    g_i of one sample  = gradient of <Z_i, outputs_i>     likewise

The first two at the batch given, with cotangents for half of the samples; the
first, made of gradients of single samples, and the last at a second batch size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gtddp_jax import errors
from gtddp_jax import graph as graph_lib
from gtddp_jax.gradients import control as control_lib
from gtddp_jax.gradients import trajectory as trajectory_lib

Array = jax.Array

# The program runs once: optimising it would take longer than it runs.
_QUICK: dict[str, Any] = {
  'xla_backend_optimization_level': 0,
  'xla_llvm_disable_expensive_passes': True,
}
_QUICKER = {**_QUICK, 'xla_cpu_use_fusion_emitters': False}  # by older jaxlibs


class Check(NamedTuple):
  """Two arrays that should be equal.

  Attributes:
    name: what they are.
    kind: of numbers that they are computed in.
    expected: by the network.
    got: by its graph.
    is_gradient: whether rounding is that of all gradients together.
  """

  name: str
  kind: Any
  expected: Any
  got: Any
  is_gradient: bool = False

  @property
  def size(self) -> float:
    """The largest number expected; NaN where there is none."""
    known = np.isfinite(self.expected)
    if not known.any() and known.size:
      return float('nan')
    return float(np.max(np.abs(self.expected), initial=0, where=known))

  @property
  def error(self) -> float:
    """The largest difference; what is not finite in both is none."""
    expected, got = self.expected, self.got
    same = (expected == got) | (np.isnan(expected) & np.isnan(got))
    with np.errstate(invalid='ignore'):
      difference = np.abs(expected - got)
    return float(np.max(difference, initial=0, where=~same))


def verify(
  graph: graph_lib.LayerGraph,
  params: Any,
  inputs: Any,
  extras: graph_lib.Extras | None = None,
) -> int:
  """Compares a network with the linearisation of its graph.

  Args:
    graph: of the network.
    params: pytree of parameters.
    inputs: a batch.
    extras: collections and keys, those of the graph by default.

  Returns:
    How many arrays were compared.

  Raises:
    TraceMismatchError: if they differ by more than rounding.
  """
  names: list[list[Check]] = []  # once the program is traced

  def compared(params: Any, inputs: Any, extras: Any) -> list[tuple[Any, Any]]:
    checks = _at_batch(graph, params, inputs, extras)
    checks += _at_second_batch(graph, params, inputs, extras)
    names.append(checks)
    return [(check.expected, check.got) for check in checks]

  arguments = params, inputs, extras or graph.extras
  lowered = jax.jit(compared).lower(*arguments)
  try:
    program = lowered.compile(_QUICKER)
  except Exception:  # of any kind: no such flag
    program = lowered.compile(_QUICK)
  found = zip(names[-1], jax.device_get(program(*arguments)), strict=True)
  _judge(
    [
      check._replace(expected=_numbers(expected), got=_numbers(got))
      for check, (expected, got) in found
    ],
    _precision(graph),
  )
  return len(names[-1])


def _numbers(values: np.ndarray) -> np.ndarray:
  """Values as numbers that NumPy computes with."""
  return (
    values.astype(np.promote_types(np.float32, values.dtype))
    if (values.dtype.kind in 'fc')
    else values.astype(np.float32)
  )


def _at_batch(
  graph: graph_lib.LayerGraph, params: Any, inputs: Any, extras: Any
) -> list[Check]:
  """Results, and gradients of samples weighed at random."""
  nominal = trajectory_lib.linearize(
    graph, graph.flatten(params), inputs, extras
  )
  result, pull = _pulled(graph, params, inputs, extras)
  checks = [
    Check(f'output {i}', a.dtype, a, b)
    for i, (a, b) in enumerate(
      zip(
        jax.tree.leaves(jax.tree.map(graph_lib.as_real, result.outputs)),
        jax.tree.leaves(nominal.outputs),
        strict=True,
      )
    )
  ] + [
    Check(f'changed collection {i}', a.dtype, a, b)
    for i, (a, b) in enumerate(
      zip(
        jax.tree.leaves(result.collections),
        jax.tree.leaves(nominal.collections),
        strict=True,
      )
    )
  ]
  if pull is None:
    return checks
  z = _scaled(_cotangents(nominal.outputs), _some(graph))
  weights = _weights(graph)
  expected = pull(_scaled(z, weights))
  directions = trajectory_lib.propagate(nominal, jax.tree.map(_one, z))
  for t, stage in enumerate(graph.stages):
    player = control_lib.Player(graph, nominal, directions, t)
    got = player.combine(weights[:, None])
    checks += _gradients(graph, stage, expected, got)
    checks += _leaks(graph, stage, directions[t])
  for i in graph.unread:
    name = f'gradient of {graph.paths[i]!r} (without influence)'
    nothing = jnp.zeros_like(expected[i])
    checks.append(Check(name, nothing.dtype, expected[i], nothing, True))
  return checks


def _at_second_batch(
  graph: graph_lib.LayerGraph, params: Any, inputs: Any, extras: Any
) -> list[Check]:
  """Gradients of single samples, for the smallest batch but that given."""
  try:
    small = graph.of_few()
  except Exception:  # of any kind: it may be written for one batch size
    return []
  inputs = jax.tree.map(
    lambda x: x[jnp.arange(small.batch_size) % graph.batch_size], inputs
  )
  nominal = trajectory_lib.linearize(
    small, small.flatten(params), inputs, extras
  )
  _, pull = _pulled(small, params, inputs, extras)
  if pull is None:
    return []
  z = _cotangents(nominal.outputs)
  weights = _weights(small)
  of_both = jax.vmap(pull)(
    jax.tree.map(
      lambda a, b: jnp.stack([a, b]),
      _scaled(z, weights),
      _scaled(z, _first(small)),
    )
  )
  of_all, of_first = ([g[n] for g in of_both] for n in range(2))
  directions = trajectory_lib.propagate(nominal, jax.tree.map(_one, z))
  checks: list[Check] = []
  for t, stage in enumerate(small.stages):
    player = control_lib.Player(small, nominal, directions, t)
    try:
      rows = player.rows(player.samples())[:, 0]  # [B, p]
    except errors.OptionError:  # no sample has a gradient of its own
      continue
    total = player.packing.unpack(weights.astype(rows.dtype) @ rows)
    checks += _gradients(small, stage, of_all, total)
    if not small.mixed:
      own = player.packing.unpack(rows[0])
      checks += _gradients(small, stage, of_first, own, ' of one sample')
  return checks


def _pulled(
  graph: graph_lib.LayerGraph, params: Any, inputs: Any, extras: Any
) -> tuple[Any, Callable[[Any], tuple[Array, ...]] | None]:
  """What the network returns, and cotangents pulled to all parameters.

  Cotangents are those of outputs as pairs of real numbers, and gradients are
  such pairs; None if an output has no derivative.
  """

  def run(leaves: tuple[Array, ...]) -> tuple[Any, Any]:
    result = graph.network(graph.unflatten(leaves), inputs, extras)
    result = result._replace(outputs=graph.carried(result.outputs))
    return jax.tree.map(graph_lib.as_real, result.outputs), result

  outputs, pull, result = jax.vjp(run, graph.flatten(params), has_aux=True)
  kinds = [leaf.dtype for leaf in jax.tree.leaves(outputs)]
  if not all(jnp.issubdtype(kind, jnp.inexact) for kind in kinds):
    return result, None
  return result, lambda z: pull(z)[0]


def _gradients(
  graph: graph_lib.LayerGraph,
  stage: graph_lib.Stage,
  expected: Sequence[Array],
  got: Sequence[Array],
  which: str = '',
) -> list[Check]:
  """One check for each leaf of a stage's control."""
  return [
    Check(
      f'gradient{which} of {graph.paths[i]!r} (stage {stage.name!r})',
      g.dtype,
      expected[i],
      g,
      is_gradient=True,
    )
    for i, g in zip(stage.control, got, strict=True)
  ]


def _leaks(
  graph: graph_lib.LayerGraph,
  stage: graph_lib.Stage,
  directions: trajectory_lib.Directions,
) -> list[Check]:
  """What a direction of some samples has in the rows of the others."""
  first = _count(graph)
  if first == graph.batch_size:
    return []
  found = []
  for values, where in (
    (directions.state, 'the state before'),
    (directions.layer, 'the layer of'),
  ):
    for value in values:
      others = value[0, first * (value.shape[1] // graph.batch_size) :]
      name = f'derivative by other samples, {where} stage {stage.name!r},'
      found.append(Check(name, others.dtype, jnp.zeros_like(others), others))
  return found


def _precision(graph: graph_lib.LayerGraph) -> float:
  """``eps`` of the coarsest numbers that the network computes with."""
  shapes = [*jax.tree.leaves((graph.params, graph.outputs))]
  for stage in graph.stages:
    shapes += [*stage.state, *stage.x]
  return max(
    float(jnp.finfo(s.dtype).eps)
    for s in shapes
    if jnp.issubdtype(s.dtype, jnp.inexact)
  )


def _judge(checks: Sequence[Check], eps: float) -> None:
  """Raises ``TraceMismatchError`` for a difference beyond rounding."""
  sizes = [check.size for check in checks]
  for check, size in zip(checks, sizes, strict=True):
    unknown = np.isnan(check.expected) & ~np.isnan(check.got)
    if np.isnan(size) or unknown.any():
      found = 'no finite number' if np.isnan(size) else 'NaN in apply_fn itself'
      raise errors.TraceMismatchError(
        f'The traced graph cannot be compared with apply_fn: {check.name} has '
        f'{found} for this example, expected finite numbers. Give an example '
        f'batch like those of the training, or trace(..., verify=False).'
      )
  # A gradient that should vanish (a bias before a batch normalisation) is
  # rounding of the others.
  usual = max(
    (s for c, s in zip(checks, sizes, strict=True) if c.is_gradient),
    default=0.0,
  )
  for check, size in zip(checks, sizes, strict=True):
    exact = not jnp.issubdtype(check.kind, jnp.inexact)
    rounding = 0.0 if exact else min(1e3 * eps, 0.1)
    most = rounding * (size + 0.1 * usual + rounding)
    if not check.error <= most:
      raise errors.TraceMismatchError(
        f'The traced graph does not reproduce apply_fn: {check.name} differs '
        f'by {check.error:.3g}, at most {most:.3g} is rounding. Expected a '
        f'pure function of (params, inputs): remove side effects, pass '
        f'randomness as rngs. If it is pure and only very sensitive to '
        f'rounding, trace(..., verify=False).'
      )


def _cotangents(outputs: Any) -> Any:
  """A fixed number for each of the outputs, none of them special."""

  def of(leaf: Array) -> Array:
    numbers = jnp.cos(jnp.arange(leaf.size, dtype=jnp.float32))
    return numbers.reshape(leaf.shape).astype(leaf.dtype)

  return jax.tree.map(of, outputs)


def _weights(graph: graph_lib.LayerGraph) -> Array:
  """``w``, ``[B]``: all different, but where samples meet."""
  batch = graph.batch_size
  if graph.mixed:
    return jnp.ones(batch)
  return jnp.sin(1 + 2 * jnp.arange(batch, dtype=jnp.float32))


def _scaled(z: Any, weights: Array) -> Any:
  def of(leaf: Array) -> Array:
    shape = (-1, *(1,) * (leaf.ndim - 1))
    return weights.reshape(shape).astype(leaf.dtype) * leaf

  return jax.tree.map(of, z)


def _first(graph: graph_lib.LayerGraph) -> Array:
  return jnp.zeros(graph.batch_size).at[0].set(1)


def _count(graph: graph_lib.LayerGraph) -> int:
  """How many samples have a cotangent: half of them, where they do not meet."""
  batch = graph.batch_size
  return batch if graph.mixed else -(-batch // 2)


def _some(graph: graph_lib.LayerGraph) -> Array:
  return (jnp.arange(graph.batch_size) < _count(graph)).astype(jnp.float32)


def _one(leaf: Array) -> Array:
  return leaf[None]
