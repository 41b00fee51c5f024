"""Layers: the part of a stage that sees the control, and its closed form.

The layer ``h = L(x, u)`` holds the equations of the stage that depend on the
control, up to the last one that reads it: ``x`` is what they read besides,
``h`` the one value that the rest reads of them. If it is a contraction of a
single ``x`` with a kernel leaf plus an optional bias, it is 'dense'
(``dot_general``) or 'conv'; anything else is 'generic'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp

from gtddp_jax.graph import cuts as cuts_lib
from gtddp_jax.graph import program as jaxprs
from gtddp_jax.graph.batch_axis import Batch, is_within

_CAST = 'convert_element_type'
_KINDS = {'dot_general': 'dense', 'conv_general_dilated': 'conv'}


class Layer(NamedTuple):
  """A layer found in a stage.

  Attributes:
    kind: 'dense', 'conv' or 'generic'.
    x: what the layer reads besides the control.
    h: what it computes.
    kernel: position of the kernel within the control, or None.
    bias: position of the bias, or None.
    equation: the contraction's own parameters; empty for 'generic'.
    channels: axes of the output that come from the kernel.
  """

  kind: str
  x: tuple[jaxprs.Var, ...]
  h: jaxprs.Var
  kernel: int | None
  bias: int | None
  equation: dict[str, Any]
  channels: range = range(0)


def find(
  program: jaxprs.Program,
  flow: cuts_lib.Flow,
  cut: cuts_lib.Cut,
  end: int,
  batch: Batch,
) -> Layer | None:
  """The layer of the stage that spans equations ``cut.position .. end``.

  Returns:
    The layer, or None if the rest reads several values of it; the whole stage
    is then its layer.
  """
  own = [program.inputs[i] for i in cut.control]
  equations = program.equations[cut.position : end]
  reads = flow.reads[cut.position : end]
  readers = [i for i, read in enumerate(reads) if set(read) & set(cut.control)]
  if not readers:
    return None
  made: set[jaxprs.Var] = set()  # values that depend on the control
  x: dict[jaxprs.Var, None] = {}
  for i in range(readers[-1] + 1):
    operands = jaxprs.operands(equations[i])
    if i in readers or any(v in made for v in operands):
      made.update(equations[i].outvars)
      x.update({v: None for v in operands if v in flow.data and v not in made})
  later = [v for e in equations[readers[-1] + 1 :] for v in jaxprs.operands(e)]
  last = set(equations[readers[-1]].outvars)
  # What lies beyond the stage reads of it what the last equation made.
  used = {v for v in later if v in made} | last
  if len(used) != 1 or not x:
    return None
  (h,) = used
  if not all(_is_smooth(v) for v in (*x, h)) or not batch.has_samples(h):
    return None
  body = program.slice([*x, *own], [h])
  if body.missing:
    return None
  kernel, bias = _contraction(program, flow, body, own, batch)
  if kernel is None:
    return Layer('generic', tuple(x), h, None, None, {})
  first = equations[readers[0]]
  kind = _KINDS[first.primitive.name]
  channels = _channels(first, jaxprs.abstract(h).ndim)
  return Layer(kind, tuple(x), h, kernel, bias, dict(first.params), channels)


def _is_smooth(value: jaxprs.Var) -> bool:
  return jnp.issubdtype(jaxprs.abstract(value).dtype, jnp.inexact)


def _is_real(value: jaxprs.Var) -> bool:
  return jnp.issubdtype(jaxprs.abstract(value).dtype, jnp.floating)


def _contraction(
  program: jaxprs.Program,
  flow: cuts_lib.Flow,
  body: jaxprs.Slice,
  own: list[jaxprs.Var],
  batch: Batch,
) -> tuple[int | None, int | None]:
  """Positions of kernel and bias if ``body`` is a contraction plus bias."""
  nothing = None, None
  on_data = [
    e for e in body.equations if flow.anchored[flow.made_by[e.outvars[0]]]
  ]
  first, rest = on_data[0], on_data[1:]
  if first.primitive.name not in _KINDS or len(body.sources) != 1 + len(own):
    return nothing
  lhs, rhs = first.invars
  (h,) = body.targets
  shapes = [jaxprs.abstract(v).shape for v in (first.outvars[0], h)]
  casts = _casts(body.equations, rhs)
  rhs = casts[-1].invars[0] if casts else rhs
  if lhs is not body.sources[0] or rhs not in own or shapes[0] != shapes[1]:
    return nothing
  if not all(map(_is_real, (*body.sources, h))):
    return nothing
  channels = _channels(first, len(shapes[0]))
  if not _keeps_samples(first, batch):
    return nothing
  biases = [v for v in own if v is not rhs]
  if not channels or len(biases) > 1:
    return nothing
  path, where = _path(body.equations, biases[0]) if biases else ([], [])
  adds = [e for e in rest if e.primitive.name == 'add']
  known = [*path, *casts, *(e for e in rest if e.primitive.name == _CAST)]
  if (
    adds != path[-1:]
    or {*map(id, body.equations)} - {*map(id, (first, *known))}
    or (biases and where != [a for a in channels if shapes[0][a] > 1])
  ):
    return nothing
  return own.index(rhs), own.index(biases[0]) if biases else None


def _channels(product: jaxprs.Equation, ndim: int) -> range:
  """Axes of the product that come from the kernel; empty if not separable."""
  numbers = product.params['dimension_numbers']
  if product.primitive.name == 'conv_general_dilated':
    return range(numbers.out_spec[1], numbers.out_spec[1] + 1)
  (_, rows), (batch, _) = numbers
  if batch:
    return range(0)
  free = jaxprs.abstract(product.invars[1]).ndim - len(rows)
  return range(ndim - free, ndim)


def _keeps_samples(product: jaxprs.Equation, batch: Batch) -> bool:
  """Whether samples are in axes that a product leaves alone."""
  data = product.invars[0]
  if not jaxprs.is_variable(data) or not batch.has_samples(data):
    return False
  layout = batch.layouts[data]
  numbers = product.params['dimension_numbers']
  if product.primitive.name == 'conv_general_dilated':
    axes = numbers.lhs_spec[1:]
  else:
    axes = numbers[0][0]
  return all(is_within(layout.axes[axis]) for axis in axes)


def _casts(
  equations: Sequence[jaxprs.Equation], value: Any
) -> list[jaxprs.Equation]:
  """The casts that lead to a value, the last one first."""
  for equation in equations:
    if value in equation.outvars and equation.primitive.name == _CAST:
      return [equation, *_casts(equations, equation.invars[0])]
  return []


def _path(
  equations: Sequence[jaxprs.Equation], bias: jaxprs.Var
) -> tuple[list[jaxprs.Equation], list[int] | None]:
  """The bias' way to the add that it ends in, and the axes it is added along.

  Axes of size one do not count. The axes are None if the bias goes any way but
  by reshapes, casts and broadcasts to one add.
  """
  at, where, path = bias, _wide(jaxprs.abstract(bias).shape), []
  for equation in equations:
    if at not in jaxprs.operands(equation):
      continue
    path.append(equation)
    name, (out,) = equation.primitive.name, equation.outvars
    if name in ('reshape', 'squeeze'):
      sizes = [jaxprs.abstract(at).shape[axis] for axis in where]
      where = _wide(jaxprs.abstract(out).shape)
      if [jaxprs.abstract(out).shape[axis] for axis in where] != sizes:
        return path, None
    elif name == 'broadcast_in_dim':
      places = equation.params['broadcast_dimensions']
      where = [places[axis] for axis in where]
    elif name != _CAST:
      return path, where if name == 'add' else None
    at = out
  return path, None


def _wide(shape: tuple[int, ...]) -> list[int]:
  return [axis for axis, size in enumerate(shape) if size > 1]


class Product(Protocol):
  """What says which product a layer is: a stage, or a layer found in one."""

  @property
  def kind(self) -> str:
    """'dense', 'conv' or 'generic'."""

  @property
  def equation(self) -> dict[str, Any]:
    """Parameters of the contraction."""


def supports(stage: Product) -> bool:
  """Whether ``Contraction`` covers the layer of ``stage``.

  Grouped and transposed convolutions are left to differentiation.
  """
  if stage.kind != 'conv':
    return stage.kind == 'dense'
  equation = stage.equation
  spec = equation['dimension_numbers']
  return (
    equation['feature_group_count'] == 1
    and equation['batch_group_count'] == 1
    and set(equation['lhs_dilation']) == {1}
    and spec.lhs_spec[0] == 0
    and spec.out_spec[0] == 0
  )
