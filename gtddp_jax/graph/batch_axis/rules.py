"""What each operation makes of the layouts of its operands.

A rule sees an equation and the layout of each operand, None for one that does
not depend on the inputs, and says the layout of each result. ``coupled`` is set
where samples meet in this very equation: a mean over the batch, a product of
two values whose samples are in different axes, an operation along an axis that
holds the batch. An operation without a rule makes nothing that can be told.
Operations that run a program of their own are in ``walk``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from gtddp_jax.graph import program as jaxprs
from gtddp_jax.graph.batch_axis import indices, parts, products, shapes
from gtddp_jax.graph.batch_axis.call import Call, lost
from gtddp_jax.graph.batch_axis.layout import (
  Factor,
  Layout,
  merged,
)


def apply(call: Call) -> list[Layout | None]:
  """The layouts of an equation's results, from those of its operands.

  ``coupled`` says whether samples meet in this equation.
  """
  known = [layout for layout in call.layouts if layout is not None]
  if not known:
    return [None] * len(call.equation.outvars)
  name = call.equation.primitive.name
  unknown = next((v.unknown for v in known if v.unknown), None)
  rule = RULES.get(name)
  if unknown or rule is None:
    reason = unknown or name
    return [lost(jaxprs.shape_of(v), reason) for v in call.equation.outvars]
  # What belongs to no sample, or to one as a whole, meets all samples.
  meet = any(not v.batch for v in known)
  found = [v and _single(v, call.batch) for v in rule(call)]
  return [v and _joined(v, meet) for v in found]


def _joined(layout: Layout, meet: bool) -> Layout:
  if layout.coupled or not (meet and layout.batch):
    return layout
  return layout._replace(coupled=True, joined=True)


def _single(layout: Layout, batch: int) -> Layout:
  """A layout in which no sample has two places: the first counts."""
  if math.prod(f.size for f in layout.batch) <= batch:
    return layout
  seen, axes = 1, []
  for axis in layout.axes:
    factors = []
    for factor in axis:
      again = factor.stride > 0 and seen * factor.size > batch
      seen *= factor.size if factor.stride > 0 and not again else 1
      factors.append(Factor(factor.size) if again else factor)
    axes.append(merged(factors))
  return Layout(tuple(axes), coupled=True)


_ELEMENTWISE = [
  'abs',
  'acos',
  'acosh',
  'add',
  'add_any',
  'and',
  'asin',
  'asinh',
  'atan',
  'atan2',
  'atanh',
  'bessel_i0e',
  'bessel_i1e',
  'cbrt',
  'ceil',
  'clamp',
  'clz',
  'complex',
  'conj',
  'convert_element_type',
  'copy',
  'copy_p',
  'cos',
  'cosh',
  'device_put',
  'digamma',
  'div',
  'eq',
  'eq_to',
  'erf',
  'erf_inv',
  'erfc',
  'exp',
  'exp2',
  'expm1',
  'floor',
  'ge',
  'gt',
  'igamma',
  'igamma_grad_a',
  'igammac',
  'imag',
  'integer_pow',
  'is_finite',
  'layout_constraint',
  'le',
  'le_to',
  'lgamma',
  'log',
  'log1p',
  'logistic',
  'lt',
  'lt_to',
  'max',
  'min',
  'mul',
  'mulhi',
  'name',
  'ne',
  'neg',
  'nextafter',
  'not',
  'optimization_barrier',
  'or',
  'pcast',
  'polygamma',
  'population_count',
  'pow',
  'pvary',
  'random_clone',
  'random_fold_in',
  'random_gamma',
  'random_seed',
  'real',
  'reduce_precision',
  'regularized_incomplete_beta',
  'rem',
  'reshard',
  'round',
  'rsqrt',
  'select_n',
  'sharding_constraint',
  'shift_left',
  'shift_right_arithmetic',
  'shift_right_logical',
  'sign',
  'sin',
  'sinh',
  'sqrt',
  'square',
  'stop_gradient',
  'sub',
  'tan',
  'tanh',
  'threefry2x32',
  'xor',
  'zeta',
  'zeros_like',
]
_REDUCTIONS = [
  'argmax',
  'argmin',
  'reduce',
  'reduce_and',
  'reduce_max',
  'reduce_min',
  'reduce_or',
  'reduce_prod',
  'reduce_sum',
  'reduce_xor',
]
_ALONG_ONE_AXIS = ['cumsum', 'cumprod', 'cummax', 'cummin', 'cumlogsumexp']
_WINDOWS = [
  'reduce_window',
  'reduce_window_max',
  'reduce_window_min',
  'reduce_window_sum',
  'select_and_gather_add',
]
_SCATTERS = [
  'scatter',
  'scatter-add',
  'scatter_add',
  'scatter-sub',
  'scatter_sub',
  'scatter-mul',
  'scatter_mul',
  'scatter-min',
  'scatter_min',
  'scatter-max',
  'scatter_max',
]
_OF_MATRICES = [
  'cholesky',
  'eig',
  'eigh',
  'hessenberg',
  'householder_product',
  'lu',
  'lu_pivots_to_permutation',
  'qr',
  'schur',
  'svd',
  'triangular_solve',
  'tridiagonal',
  'tridiagonal_solve',
]
_ACROSS_DEVICES = ['psum', 'psum2', 'psum_invariant', 'pmax', 'pmin']

RULES: dict[str, Callable[[Call], list[Layout | None]]] = {
  'bitcast_convert_type': shapes.bitcast,
  'broadcast_in_dim': shapes.broadcast,
  'concatenate': parts.concatenate,
  'conv_general_dilated': products.convolution,
  'dot_general': products.dot_general,
  'dynamic_slice': parts.dynamic_slice,
  'dynamic_update_slice': parts.dynamic_update,
  'fft': shapes.fft,
  'gather': indices.gather,
  'pad': shapes.pad,
  'random_bits': shapes.random,
  'random_split': shapes.random,
  'random_unwrap': shapes.random,
  'random_wrap': shapes.unwrapped,
  'reshape': shapes.reshape,
  'rev': shapes.reverse,
  'slice': parts.slice,
  'sort': shapes.sort,
  'split': parts.split,
  'squeeze': shapes.squeeze,
  'stack': parts.stack,
  'tile': parts.tile,
  'top_k': shapes.top_k,
  'approx_top_k': shapes.top_k,
  'transpose': shapes.transpose,
  'unstack': parts.unstack,
  **dict.fromkeys(_ACROSS_DEVICES, shapes.across_devices),
  **dict.fromkeys(_ALONG_ONE_AXIS, shapes.along_axis),
  **dict.fromkeys(_ELEMENTWISE, shapes.elementwise),
  **dict.fromkeys(_OF_MATRICES, products.matrices),
  **dict.fromkeys(_REDUCTIONS, shapes.reduce),
  **dict.fromkeys(_SCATTERS, indices.scatter),
  **dict.fromkeys(_WINDOWS, shapes.window),
}
