"""Where the samples of a batch are in every value, and where they meet."""

from gtddp_jax.graph.batch_axis.layout import (
  Layout,
  as_dtype,
  as_real,
  decode,
  encode,
  encoded,
  is_within,
  leading,
  real_shape,
)
from gtddp_jax.graph.batch_axis.walk import Batch, analyse

__all__ = (
  'Batch',
  'Layout',
  'analyse',
  'as_dtype',
  'as_real',
  'decode',
  'encode',
  'encoded',
  'is_within',
  'leading',
  'real_shape',
)
