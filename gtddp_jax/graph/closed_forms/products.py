"""Layers that are a product of their input and a kernel, and a bias added."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from gtddp_jax.graph import program as jaxprs
from gtddp_jax.graph.batch_axis import is_within
from gtddp_jax.graph.closed_forms.form import CAST, Body, is_real


class Product(NamedTuple):
  """A product found in a layer.

  Attributes:
    equation: of the product.
    kernel: position of the kernel within the control.
    bias: position of the bias, None if there is none.
    channels: axes of the output that come from the kernel.
  """

  equation: jaxprs.Equation
  kernel: int
  bias: int | None
  channels: range


def find(
  body: Body,
  primitive: str,
  channels_of: Callable[[jaxprs.Equation, int], range],
  contracted: Callable[[jaxprs.Equation], Sequence[int]],
) -> Product | None:
  """The product that a layer is, if it is one of its input and a kernel.

  Args:
    body: the layer.
    primitive: name of the operation.
    channels_of: from the equation and the number of axes of its result, those
      that come from the kernel; empty if it is of another form.
    contracted: the axes of the input that it sums over.

  Returns:
    The product, None if the layer is anything else: if it does more than to
    add a bias along all channels, or sums over samples.
  """
  first, rest = body.on_data[0], body.on_data[1:]
  if first.primitive.name != primitive or len(body.x) != 1:
    return None
  lhs, rhs = first.invars
  casts = body.casts_to(rhs)
  rhs = casts[-1].invars[0] if casts else rhs
  shape = jaxprs.shape_of(first.outvars[0])
  if lhs is not body.x[0] or rhs not in body.control:
    return None
  if shape != jaxprs.shape_of(body.h):
    return None
  if not all(map(is_real, (*body.x, *body.control, body.h))):
    return None
  channels = channels_of(first, len(shape))
  biases = [v for v in body.control if v is not rhs]
  if (
    not channels
    or len(biases) > 1
    or not _keeps_samples(first, body, contracted(first))
  ):
    return None
  path, where = _path(body.equations, biases[0]) if biases else ([], [])
  if [e for e in rest if e.primitive.name == 'add'] != path[-1:]:
    return None
  if not body.is_made_of([first, *path, *casts]):
    return None
  if biases and where != [axis for axis in channels if shape[axis] > 1]:
    return None
  place = body.control.index
  return Product(
    first, place(rhs), place(biases[0]) if biases else None, channels
  )


def _keeps_samples(
  product: jaxprs.Equation, body: Body, contracted: Sequence[int]
) -> bool:
  """Whether samples are in axes that a product leaves alone."""
  data = product.invars[0]
  if not jaxprs.is_variable(data) or not body.batch.has_samples(data):
    return False
  axes = body.batch.layouts[data].axes
  return all(is_within(axes[axis]) for axis in contracted)


def _path(
  equations: Sequence[jaxprs.Equation], bias: jaxprs.Var
) -> tuple[list[jaxprs.Equation], list[int] | None]:
  """The bias' way to the add that it ends in, and the axes it is added along.

  Axes of size one do not count. The axes are None if the bias goes any way but
  by reshapes, casts and broadcasts to one add.
  """
  at, where, path = bias, _wide(jaxprs.shape_of(bias)), []
  for equation in equations:
    if at not in jaxprs.operands(equation):
      continue
    path.append(equation)
    name, (out,) = equation.primitive.name, equation.outvars
    if name in ('reshape', 'squeeze'):
      sizes = [jaxprs.shape_of(at)[axis] for axis in where]
      where = _wide(jaxprs.shape_of(out))
      if [jaxprs.shape_of(out)[axis] for axis in where] != sizes:
        return path, None
    elif name == 'broadcast_in_dim':
      places = equation.params['broadcast_dimensions']
      where = [places[axis] for axis in where]
    elif name != CAST:
      return path, where if name == 'add' else None
    at = out
  return path, None


def _wide(shape: tuple[int, ...]) -> list[int]:
  return [axis for axis, size in enumerate(shape) if size > 1]
