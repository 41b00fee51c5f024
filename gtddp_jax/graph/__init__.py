"""A network as a chain of stages: programs, cuts, layers, games, tracing."""

from gtddp_jax.graph.batch_axis import analyse, as_dtype, as_real, real_shape
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
from gtddp_jax.graph.layers import supports
from gtddp_jax.graph.program import Program, abstract, capture, is_variable
from gtddp_jax.graph.tracing import ApplyFn, Network, Owner, build, module_of
from gtddp_jax.graph.varying import axes_of, cast

__all__ = (
  'ApplyFn',
  'Arrays',
  'Extras',
  'Fixed',
  'LayerGraph',
  'Network',
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
  'pick',
  'real_shape',
  'shape_of',
  'supports',
)
