"""Outputs that are not one for each sample, carried as rows of samples.

A loss of sample ``i`` may read what a network returns once for all samples: a
constant, a parameter, a mean over the batch. Such an output ``o`` is *common*,
and the chain ends with its copies, ``o_i = o``, so that each sample has a
derivative by its own::

    loss_i(y_i, o_i)        dL/do = mean_i d loss_i / d o_i

The stage that makes the copies reads the parameter, as a control of its own if
nothing has read it before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from gtddp_jax import checks, errors
from gtddp_jax.graph import chain, varying
from gtddp_jax.graph import program as jaxprs
from gtddp_jax.graph.batch_axis import Batch, leading

Shape = tuple[int, ...]
# 'own': of each sample, made of its inputs. 'rows': one row for each sample,
# made of parameters alone. 'common': the same for all samples.
Kind = Literal['own', 'rows', 'common']


def kinds(
  program: jaxprs.Program,
  batch: Batch,
  shapes_at: Callable[[int], Sequence[Shape] | None],
) -> list[Kind]:
  """What each output of a program is.

  Args:
    program: the network.
    batch: where the samples are in its values.
    shapes_at: of the outputs in a batch of another size; None if that is not
      known. An axis that is as long as the batch is it only if both grow.

  Returns:
    One kind for each output.

  Raises:
    BatchAxisError: for an output that is none of them, or if none is of each
      sample.
  """
  keyed = jax.tree_util.tree_flatten_with_path(program.out_shape)[0]
  leads = [
    _leads(value, shape.shape, batch)
    for (_, shape), value in zip(keyed, program.outputs, strict=True)
  ]
  found: list[Kind] = ['own'] * len(keyed)
  if not all(leads) or batch.size == 1:
    other = 3 if batch.size == 2 else 2
    fixed, grows = _compared(
      [shape.shape for _, shape in keyed], batch.size, other, shapes_at(other)
    )
    for n, ((path, shape), value) in enumerate(
      zip(keyed, program.outputs, strict=True)
    ):
      if fixed[n]:
        found[n] = 'common'
      elif not leads[n] and grows[n] and not _has_data(value, batch):
        found[n] = 'rows'
      elif not leads[n]:
        raise _without_batch(path, shape, batch.size)
  if keyed and 'own' not in found:
    raise _without_batch(*keyed[0], batch.size)
  return found


def _compared(
  shapes: Sequence[Shape],
  size: int,
  other: int,
  others: Sequence[Shape] | None,
) -> tuple[list[bool], list[bool]]:
  """Whether each shape stays in another batch; whether its first axis grows."""
  if others is None:  # the network is written for one batch size
    grows = [shape[:1] == (size,) for shape in shapes]
    return [not g for g in grows], grows
  pairs = list(zip(shapes, others, strict=True))
  return [a == b for a, b in pairs], [
    a[:1] == (size,) and b == (other, *a[1:]) for a, b in pairs
  ]


def _leads(value: Any, shape: Shape, batch: Batch) -> bool:
  """Whether a value is ``[B, ...]``, a row for each sample."""
  if not jaxprs.is_variable(value) or not batch.has_samples(value):
    return False
  layout = batch.layouts[value]
  return shape[:1] == (batch.size,) and (
    layout.axes == leading(shape, batch.size).axes
  )


def _has_data(value: Any, batch: Batch) -> bool:
  return jaxprs.is_variable(value) and value in batch.layouts


def _without_batch(path: Any, shape: Any, size: int) -> errors.BatchAxisError:
  return errors.BatchAxisError(
    f'Output {checks.path_of(path) or "(the whole)"!r} has shape '
    f'{list(shape.shape)}: expected the batch, {size}, as its leading axis. '
    f'Return per-sample outputs; the loss takes their mean. (Beside one of '
    f'them, an output of a shape that no batch size changes is the same for '
    f'all samples.)'
  )


def carrying(network: Any, found: Sequence[Kind], size: int) -> Any:
  """A network whose outputs are rows of samples, made by its last equations."""

  def run(params: Any, inputs: Any, extras: chain.Extras) -> chain.Result:
    result = network(params, inputs, extras)
    return result._replace(outputs=carried(result.outputs, found, size, fresh))

  def fresh(rows: Any) -> Any:  # an equation that makes them at the end
    return jnp.copy(rows)

  return run


def carried(
  outputs: Any,
  found: Sequence[Kind],
  size: int,
  of_rows: Callable[[Any], Any] = lambda rows: rows,
) -> Any:
  """Outputs of a network as rows of samples."""

  def of(leaf: Any, kind: Kind) -> Any:
    if kind == 'common':
      return jax.lax.broadcast(jnp.asarray(leaf), (size,))
    return of_rows(leaf) if kind == 'rows' else leaf

  leaves, tree = jax.tree.flatten(outputs)
  # A constant varies along no mesh axis, but its cotangent does.
  rows = varying.cast(list(map(of, leaves, found)), varying.axes_of(leaves))
  return jax.tree.unflatten(tree, rows)


def returned(leaves: Sequence[Any], found: Sequence[Kind]) -> list[Any]:
  """The inverse of ``carried``, of flat leaves."""
  pairs = zip(leaves, found, strict=True)
  return [leaf[0] if kind == 'common' else leaf for leaf, kind in pairs]


def returned_shapes(shapes: Any, found: Sequence[Kind]) -> Any:
  """Shapes of outputs as a network returns them, from those of rows."""

  def of(shape: Any, kind: Kind) -> Any:
    if kind != 'common':
      return shape
    return varying.shaped(shape.shape[1:], shape.dtype, shape)

  leaves, tree = jax.tree.flatten(shapes)
  return jax.tree.unflatten(tree, list(map(of, leaves, found)))


def located(
  program: jaxprs.Program, batch: Batch, found: Sequence[Kind]
) -> Batch:
  """With the rows that a network ``carrying`` its outputs ends with."""
  rows = {
    v: leading(jaxprs.shape_of(v), batch.size)
    for v, kind in zip(program.outputs, found, strict=False)
    if kind != 'own'
  }
  return batch._replace(layouts={**batch.layouts, **rows})
