"""Layers: the part of a stage that sees the control, and its closed form.

Between the first and the last equation that read the stage's own parameters
lies the layer ``h = L(x, u)``. If it is one contraction of ``x`` with a kernel
leaf plus an optional bias, it is 'dense' (``dot_general``) or 'conv'; anything
else is 'generic'.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from gtddp_jax import cuts, jaxprs

_KINDS = {'dot_general': 'dense', 'conv_general_dilated': 'conv'}
_SHAPE_ONLY = (
  'reshape',
  'convert_element_type',
  'squeeze',
  'broadcast_in_dim',
  'add',
)


class Layer(NamedTuple):
  """A layer found in a stage: ``x`` and ``h`` are single values.

  ``kernel`` is the position of the kernel within the control, and ``equation``
  holds the contraction's own parameters (None and empty for 'generic').
  """

  kind: str
  x: jaxprs.Var
  h: jaxprs.Var
  kernel: int | None
  equation: dict[str, Any]


def find(
  program: jaxprs.Program,
  flow: cuts.Flow,
  cut: cuts.Cut,
  end: int,
  scales: dict[jaxprs.Var, bool],
) -> Layer | None:
  """The layer of the stage that spans equations ``cut.position .. end``.

  Returns:
    The layer, or None if the own parameters are read in a way that has no
    single input and output; the whole stage is then its layer.
  """
  own = [program.inputs[i] for i in cut.control]
  readers = [
    i for i in range(cut.position, end) if set(flow.reads[i]) & set(cut.control)
  ]
  if not readers:
    return None
  first, last = (program.equations[readers[i]] for i in (0, -1))
  sources = [v for v in jaxprs.operands(first) if v in flow.data]
  if len(set(sources)) != 1 or len(last.outvars) != 1:
    return None
  x, h = sources[0], last.outvars[0]
  if not all(
    scales[v] and jnp.issubdtype(jaxprs.abstract(v).dtype, jnp.floating)
    for v in (x, h)
  ):
    return None
  body = program.slice([x, *own], [h])
  if body.missing:
    return None
  kernel = _kernel(program, flow, body, own, x)
  if kernel is None:
    return Layer('generic', x, h, None, {})
  kind = _KINDS[first.primitive.name]
  return Layer(kind, x, h, kernel, dict(first.params))


def _kernel(
  program: jaxprs.Program,
  flow: cuts.Flow,
  body: jaxprs.Slice,
  own: list[jaxprs.Var],
  x: jaxprs.Var,
) -> int | None:
  """Position of the kernel if ``body`` is a contraction plus bias."""
  on_data = [
    e for e in body.equations if flow.anchored[flow.made_by[e.outvars[0]]]
  ]
  first, rest = on_data[0], on_data[1:]
  if first.primitive.name not in _KINDS:
    return None
  lhs, rhs = first.invars
  if lhs is not x or rhs not in own or rhs is lhs:
    return None
  if any(e.primitive.name not in _SHAPE_ONLY for e in rest):
    return None
  if any(rhs in jaxprs.operands(e) for e in body.equations if e is not first):
    return None
  adds = [e for e in rest if e.primitive.name == 'add']
  if any(sum(v in flow.data for v in jaxprs.operands(e)) != 1 for e in adds):
    return None
  if first.primitive.name == 'dot_general':
    (contracted, _), (batch, _) = first.params['dimension_numbers']
    if batch or 0 in contracted:
      return None
  made = jaxprs.abstract(first.outvars[0]).shape
  if made != jaxprs.abstract(body.targets[0]).shape:
    return None
  return own.index(rhs)
