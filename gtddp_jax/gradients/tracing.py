"""``trace``: a network becomes its layer graph, and is compared with it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypedDict, Unpack

import jax

from gtddp_jax import checks, errors
from gtddp_jax import graph as graph_lib
from gtddp_jax.gradients import verify as verify_lib


class TraceChecks(TypedDict, total=False):
  """What ``trace`` checks; see there."""

  verify: bool
  strict: bool


_WORDS = ('collections', 'rngs', 'mutable', 'owner', 'verify', 'strict')


def trace(
  apply_fn: graph_lib.ApplyFn,
  params: Any,
  inputs: Any,
  *,
  collections: Any = None,
  rngs: Any = None,
  mutable: Any = False,
  owner: graph_lib.Owner = graph_lib.module_of,
  **checked: Unpack[TraceChecks],
) -> graph_lib.LayerGraph:
  """Traces a network into its layer graph.

  Args:
    apply_fn: pure ``(params, inputs) -> outputs``; pytrees of arrays, the
      leading axis of every input and output leaf is the batch. Beside them
      outputs may be the same for all samples (a parameter, a batch mean).
    params: pytree of floating-point or complex arrays (or shapes). One without
      influence on the outputs gets the base's step for a zero gradient.
    inputs: pytree of arrays (or shapes), an example batch.
    collections: variables that are no parameters, by name; the network is then
      called with ``{**params, **collections}``.
    rngs: random keys by name, passed on to ``apply_fn``.
    mutable: names of collections that the network changes, passed on; it then
      returns ``(outputs, changed)``. All three are words of Flax.
    owner: maps a leaf's key path to its module; leaves with equal owners that
      are read in a row form one control.
    **checked: ``verify=True``, whether to compare results of the graph,
      gradients and those of single samples with ``apply_fn`` on the example and
      at a second batch size (skipped for abstract values); ``strict=False``,
      whether every parameter has to influence the outputs.

  Returns:
    The graph; ``graph(params, inputs)`` equals ``apply_fn``.

  Raises:
    UnownedParameterError: no parameter influences the outputs, or, if
      ``strict``, one does not.
    ControlDtypeError: a parameter is neither floating-point nor complex.
    BatchAxisError: an input, or every output, has no leading batch axis, or an
      output has it elsewhere; samples have no place of their own in the state
      at a cut, or an operation does not say where they are in what it makes.
    UncuttableStageError: an opaque equation mixes parameters of modules.
    ParameterTreeError: other collections stand beside 'params', or a leaf is no
      array; the network changes its parameters, or the kind of a collection.
    TraceMismatchError: the graph does not reproduce ``apply_fn``.
    OptionError: for an ``owner`` that names no module, or another check.
  """
  _check_words(checked)
  network = graph_lib.Network(apply_fn, collections, rngs, mutable)
  graph = graph_lib.build(
    network, params, inputs, owner, checked.get('strict', False)
  )
  abstract = (jax.ShapeDtypeStruct, jax.core.Tracer)
  leaves = jax.tree.leaves((params, inputs))
  if checked.get('verify', True) and not any(
    isinstance(x, abstract) for x in leaves
  ):
    verify_lib.verify(graph, params, inputs)
  return graph


def _check_words(checked: Iterable[str]) -> None:
  """Raises ``OptionError`` for a keyword that ``trace`` does not know."""
  for name in checked:
    if name not in TraceChecks.__annotations__:
      raise errors.OptionError(
        f'trace: got the argument {name!r}, expected one of '
        f'{", ".join(_WORDS)}.{checks.nearest(name, _WORDS)}',
        name,
      )
