"""A network as a chain of stages: programs, cuts, layers, games, tracing."""

from gtddp_jax.graph.batch_axis import analyse, as_dtype, as_real, real_shape
from gtddp_jax.graph.closed_forms import (
  Ask,
  ClosedForm,
  Factors,
  MatrixForm,
  OnFactors,
  second_moment,
)
from gtddp_jax.graph.layer_graph import (
  Arrays,
  Extras,
  Fixed,
  LayerGraph,
  Result,
  Shapes,
  Stage,
  pick,
  shape_of,
)
from gtddp_jax.graph.loops import (
  over_samples,
  total_over_samples,
  weighted_sum,
)
from gtddp_jax.graph.program import Program, abstract, capture, is_variable
from gtddp_jax.graph.tracing import ApplyFn, Network, Owner, build, module_of
from gtddp_jax.graph.varying import axes_of, cast

__all__ = (
  'ApplyFn',
  'Arrays',
  'Ask',
  'ClosedForm',
  'Extras',
  'Factors',
  'Fixed',
  'LayerGraph',
  'MatrixForm',
  'Network',
  'OnFactors',
  'Owner',
  'Program',
  'Result',
  'Shapes',
  'Stage',
  'abstract',
  'analyse',
  'as_dtype',
  'as_real',
  'axes_of',
  'build',
  'capture',
  'cast',
  'is_variable',
  'module_of',
  'over_samples',
  'pick',
  'real_shape',
  'second_moment',
  'shape_of',
  'total_over_samples',
  'weighted_sum',
)
