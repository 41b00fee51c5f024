"""A network as a chain of stages: programs, cuts, layers, games, tracing."""

from gtddp_jax.graph.batch_axis import analyse, at_twice
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
from gtddp_jax.graph.program import Program, abstract, capture
from gtddp_jax.graph.tracing import module_of, trace

__all__ = (
  'Arrays',
  'Extras',
  'Fixed',
  'LayerGraph',
  'Program',
  'Result',
  'Shapes',
  'Stage',
  'abstract',
  'analyse',
  'at_twice',
  'capture',
  'module_of',
  'pick',
  'shape_of',
  'supports',
  'trace',
)
