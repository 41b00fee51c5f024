"""The loss expanded in a few output directions, ``(Z, d, S)``.

At the outputs ``c_T`` of sample ``i`` the value function is, with directions
``Z`` (one column per direction, R of them)::

    V_x = Z d        V_xx = Z S Z^T        d in R^R,  S in R^(R x R)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from gtddp_jax import checks, errors
from gtddp_jax import graph as graph_lib

Array = jax.Array

Loss = Callable[[Any, Any], Array]


class Expansion(NamedTuple):
  """Second-order expansion of the per-sample losses.

  Attributes:
    directions: ``Z``, a pytree like the outputs with leaves ``[R, B, ...]``.
    slope: ``d``, ``[B, R]``.
    curvature: ``S``, ``[B, R, R]``, symmetric positive semi-definite.
  """

  directions: Any
  slope: Array
  curvature: Array


class TerminalValue(Protocol):
  """What ``gt_ddp(terminal=...)`` takes: expands a loss at the outputs.

  A function of ``loss``, ``outputs`` (a pytree, leaves ``[B, ...]``) and
  ``targets``. Three attributes are optional:

  - ``rng``: a name; the function is also given the key of
    ``update(..., rngs={name: key})``.
  - ``samples``: a number n; the function is given the first n samples of a
    batch only.
  - ``uniform``: True if ``d`` is the same for all samples. Where samples are
    coupled, all others get a direction more, see ``with_gradient``.
  """

  def __call__(self, *args: Any, **kwargs: Any) -> Expansion:
    """Returns the value function at the outputs."""


def check(expansion: Any, outputs: Any) -> Expansion:
  """An expansion as a terminal value function has to return it.

  Raises:
    LossError: if a part of it has another structure or shape.
  """
  if not isinstance(expansion, Expansion):
    raise errors.LossError(
      f'The terminal returned a {type(expansion).__name__}: expected '
      f'Expansion(directions, slope, curvature).'
    )
  leaves, tree = jax.tree.flatten(outputs)
  z: list[Array] = jax.tree.leaves(expansion.directions)
  batch, shape = leaves[0].shape[0], jnp.shape(expansion.slope)
  rank = shape[-1] if shape else 0
  found: list[tuple[str, Any, Any]] = [
    ('slope', shape, (batch, max(rank, 1))),
    ('curvature', jnp.shape(expansion.curvature), (batch, rank, rank)),
    ('directions', jax.tree.structure(expansion.directions), tree),
    *(
      ('directions', jnp.shape(got), (rank, *leaf.shape))
      for got, leaf in zip(z, leaves, strict=False)
    ),
  ]
  for name, got, expected in found:
    if got != expected:
      raise errors.LossError(
        f'The terminal returned {name} of shape {got}: expected {expected}, '
        f'with B = {batch} samples and R directions: slope [B, R], curvature '
        f'[B, R, R], directions like the outputs with R in front.'
      )
  return expansion


def with_gradient(expansion: Expansion) -> Expansion:
  """The same value function with its gradient as a direction of its own.

  Where samples are coupled, a direction of one sample reaches the states of
  others, and directions that are summed over samples can no longer be weighed
  one sample at a time: ``sum_r d_i^r P^{i,r}`` is the gradient only if ``d`` is
  the same for all. So the gradient comes first, with ``d = (1, 0 ... 0)``::

      Z <- [Z d, Z]      S <- diag(0, S)
  """
  z, slope, curvature = expansion

  def gradient(leaf: Array) -> Array:
    weights = slope.T.reshape(*leaf.shape[:2], *(1,) * (leaf.ndim - 2))
    return jnp.sum(weights * leaf, axis=0).astype(leaf.dtype)

  return with_leading_gradient(jax.tree.map(gradient, z), z, curvature)


def with_leading_gradient(
  gradient: Any, directions: Any, curvature: Array
) -> Expansion:
  """``Z = [V_x, Z]``, ``d = (1, 0 ... 0)`` and ``S = diag(0, S)``."""
  widened = jnp.pad(curvature, ((0, 0), (1, 0), (1, 0)))
  return Expansion(
    jax.tree.map(
      lambda g, z: jnp.concatenate([g[None], z]), gradient, directions
    ),
    jnp.zeros_like(widened[..., 0]).at[:, 0].set(1),
    widened,
  )


def sample_losses(
  loss: Loss, outputs: Any, targets: Any, batch: int | None = None
) -> Array:
  """Evaluates a loss and checks that it has one value per sample, ``[B]``.

  Args:
    loss: of the outputs.
    outputs: what it reads.
    targets: likewise.
    batch: B; None where every output has it as its leading axis.

  Returns:
    The values.

  Raises:
    LossError: if they have another shape.
  """
  if batch is None:
    batch = jax.tree.leaves(outputs)[0].shape[0]
  values = loss(outputs, targets)
  if jnp.shape(values) != (batch,):
    raise errors.LossError(
      f'The loss returned shape {jnp.shape(values)}: expected one value per '
      f'sample, ({batch},). Do not average over the batch in the loss.'
    )
  return values


def on_rows(loss: Loss, graph: graph_lib.LayerGraph, targets: Any) -> Loss:
  """A loss as a function of the outputs as the end of a chain has them.

  These are real numbers, pairs of them where an output is complex; and rows of
  samples, also of what the network returns once for all of them. That has a
  derivative for each sample then, so that the loss is taken one sample at a
  time.

  Args:
    loss: of the outputs as the network returns them.
    graph: of the network.
    targets: a batch of them.

  Returns:
    The loss itself if each output is of each sample, and none complex.

  Raises:
    LossError: if some output is the same for all samples, and the loss does
      not return one value per sample, each made of that sample alone.
  """
  shapes, tree = jax.tree.flatten(graph.outputs)
  common = [kind == 'common' for kind in graph.kinds]
  if not (any(common) or any(jnp.iscomplexobj(s) for s in shapes)):
    return loss

  def complete(leaves: list[Any]) -> Any:
    return jax.tree.unflatten(
      tree, [as_(x, s.dtype) for x, s in zip(leaves, shapes, strict=True)]
    )

  as_ = graph_lib.as_dtype
  if not any(common):
    return lambda rows, targets: loss(complete(jax.tree.leaves(rows)), targets)
  _check_common(loss, graph, targets)

  def of_sample(row: list[Any], target: Any) -> Array:
    leaves = [
      leaf if once else leaf[None]
      for leaf, once in zip(row, common, strict=True)
    ]
    return loss(complete(leaves), jax.tree.map(lambda t: t[None], target))[0]

  return lambda rows, targets: jax.vmap(of_sample)(
    jax.tree.leaves(rows), targets
  )


def _check_common(
  loss: Loss, graph: graph_lib.LayerGraph, targets: Any
) -> None:
  """Raises ``LossError`` unless a loss can be taken sample by sample."""
  keyed, _ = jax.tree_util.tree_flatten_with_path(graph.outputs)
  names = ', '.join(
    repr(checks.path_of(path))
    for (path, _), kind in zip(keyed, graph.kinds, strict=True)
    if kind == 'common'
  )
  size = graph.batch_size
  for path, leaf in jax.tree_util.tree_flatten_with_path(targets)[0]:
    if jnp.shape(leaf)[:1] != (size,):
      raise errors.LossError(
        f'Target {checks.path_of(path) or "(the whole)"!r} has shape '
        f'{list(jnp.shape(leaf))}: expected the batch, {size}, as its leading '
        f'axis, since output {names} is the same for all samples, and the loss '
        f'is taken sample by sample. Close over it in the loss.'
      )
  given = jax.tree.map(graph_lib.shape_of, (graph.outputs, targets))
  batched = [
    *(kind != 'common' for kind in graph.kinds),
    *(True for _ in jax.tree.leaves(targets)),
  ]
  check_own(
    lambda o, t: sample_losses(loss, o, t, size),
    given,
    size,
    f'output {names} is the same for all samples, and has a derivative by each',
    batched,
  )


def check_own(
  loss: Loss,
  given: tuple[Any, Any],
  size: int,
  why: str,
  batched: list[bool] | None = None,
) -> None:
  """Checks that a loss makes each of its values from one sample alone.

  Args:
    loss: a function of outputs and targets.
    given: shapes of these.
    size: B.
    why: it has to.
    batched: which leaves of these have the batch as leading axis; None if all.

  Raises:
    LossError: if it makes one from several samples.
  """
  program = graph_lib.capture(loss, *given)
  of_samples = [
    value
    for n, value in enumerate(program.inputs)
    if batched is None or batched[n]
  ]
  batch = graph_lib.analyse(program, of_samples, size)
  (values,) = program.outputs
  unknown = graph_lib.is_variable(values) and batch.unknown(values)
  if unknown:
    raise errors.LossError(
      f'The operation {unknown!r} in the loss does not say which numbers are '
      f'of which sample: expected operations of jax.numpy and jax.lax, as '
      f'{why}.'
    )
  if batch.meeting:
    raise errors.LossError(
      f'The loss computes a value from several samples (a mean over the batch, '
      f'say): expected each of its numbers from one sample alone, as {why}. '
      f'Compute weights outside, and hand them in with the targets.'
    )


def square_root(matrices: Array) -> Array:
  """``L`` with ``S = L L^T`` for positive semi-definite ``[B, R, R]``."""
  if matrices.shape[-1] == 1:
    return jnp.sqrt(jnp.maximum(matrices, 0))
  values, vectors = jnp.linalg.eigh(matrices)
  return vectors * jnp.sqrt(jnp.maximum(values, 0))[:, None, :]
