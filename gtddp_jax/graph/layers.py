"""Layers: the part of a stage that sees the control, and its closed form.

The layer ``h = L(x, u)`` holds the equations of the stage that depend on the
control, up to the last one that reads it: ``x`` is what they read besides,
``h`` the one value that the rest reads of them. Which kind of layer it is, the
kinds say themselves (``closed_forms``).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from gtddp_jax.graph import closed_forms
from gtddp_jax.graph import cuts as cuts_lib
from gtddp_jax.graph import program as jaxprs
from gtddp_jax.graph.batch_axis import Batch


class Layer(NamedTuple):
  """A layer found in a stage.

  Attributes:
    x: what the layer reads besides the control.
    h: what it computes.
    closed_form: of its per-sample gradients, None if there is none.
  """

  x: tuple[jaxprs.Var, ...]
  h: jaxprs.Var
  closed_form: closed_forms.ClosedForm | None


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
  if not _is_smooth(h) or not batch.has_samples(h):
    return None
  body = program.slice([*x, *own], [h])
  if body.missing:
    return None
  on_data = [
    e for e in body.equations if flow.anchored[flow.made_by[e.outvars[0]]]
  ]
  form = closed_forms.find(
    closed_forms.Body(
      body.equations, tuple(on_data), tuple(x), tuple(own), h, batch
    )
  )
  # What has no derivative is a part of the state, unless a form says how.
  if form is None and not all(map(_is_smooth, x)):
    return None
  return Layer(tuple(x), h, form)


def _is_smooth(value: jaxprs.Var) -> bool:
  return jnp.issubdtype(jaxprs.abstract(value).dtype, jnp.inexact)
