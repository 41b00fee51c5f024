"""Closed forms: kinds of layers whose per-sample gradients need no autodiff."""

from gtddp_jax.graph.closed_forms.convolution import Convolution
from gtddp_jax.graph.closed_forms.dense import Dense
from gtddp_jax.graph.closed_forms.embedding import Embedding
from gtddp_jax.graph.closed_forms.form import (
  Ask,
  Body,
  ClosedForm,
  Factors,
  OnFactors,
)
from gtddp_jax.graph.closed_forms.grouped import GroupedConvolution
from gtddp_jax.graph.closed_forms.matrix import MatrixForm, second_moment

__all__ = (
  'CLOSED_FORMS',
  'Ask',
  'Body',
  'ClosedForm',
  'Convolution',
  'Dense',
  'Embedding',
  'Factors',
  'GroupedConvolution',
  'MatrixForm',
  'OnFactors',
  'find',
  'second_moment',
)

CLOSED_FORMS: tuple[type[ClosedForm], ...] = (
  Dense,
  Convolution,
  GroupedConvolution,
  Embedding,
)


def find(body: Body) -> ClosedForm | None:
  """The closed form of a layer, None if no kind has one."""
  for kind in CLOSED_FORMS:
    found = kind.match(body)
    if found is not None:
      return found
  return None
