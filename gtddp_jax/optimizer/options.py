"""Options: what ``gt_ddp`` refuses before anything is traced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax import checks, errors
from gtddp_jax import curvature as curvature_lib
from gtddp_jax import graph as graph_lib
from gtddp_jax import terminal as terminal_lib
from gtddp_jax import value as value_lib

COOPERATIONS = ('none', 'kronecker', 'schur')


def check(options: Mapping[str, Any]) -> None:
  """Raises ``OptionError`` for what cannot work, before anything is traced.

  Args:
    options: all of ``gt_ddp``, by name.
  """
  base, terminal = options['base'], terminal_lib.named(options['terminal'])
  terminal_lib.refuse_factory(terminal)
  bound = options['trust_region']
  is_base = hasattr(base, 'init') and hasattr(base, 'update')
  expected = {
    'graph': (isinstance(options['graph'], graph_lib.LayerGraph),
      'a LayerGraph; make one with trace(apply_fn, params, inputs)'),
    'loss': (callable(options['loss']),
      'a function (outputs, targets) -> [B], such as losses.squared_error'),
    'base': (is_base,
      'an optax transformation; call its factory, as in sgd(0.1)'),
    'terminal': (callable(terminal),
      "'gradient', 'gauss_newton', sampled(m), truncated(r), subset(...) or a "
      'TerminalValue'),
    'feedback': (isinstance(options['feedback'], bool), 'True or False'),
    'trust_region': (bound is None or _is_positive(bound),
      'a positive number or None'),
  }  # fmt: skip
  for name, (fine, wanted) in expected.items():
    if not fine:
      raise errors.OptionError(
        f'Invalid {name}: got {options[name]!r}, expected {wanted}.', name
      )
  _check_outputs(options['graph'])
  checks.check_option('cooperation', options['cooperation'], COOPERATIONS)
  level = value_lib.level(options['value'])
  if options['feedback'] and level != value_lib.frozen:
    _check_explicit(base)


def _check_outputs(graph: graph_lib.LayerGraph) -> None:
  """Outputs that the loss is differentiated by are real or complex numbers."""
  for path, shape in jax.tree_util.tree_flatten_with_path(graph.outputs)[0]:
    if not jnp.issubdtype(shape.dtype, jnp.inexact):
      raise errors.OptionError(
        f'Invalid graph: output {checks.path_of(path) or "(the whole)"!r} is '
        f'{shape.dtype}: expected floating-point numbers, by which the loss '
        f'has a derivative. Trace an apply_fn that leaves it out; the loss can '
        f'compute it from the others.',
        'graph',
      )


def _check_explicit(base: Any) -> None:
  """What a recursion needs of a base."""
  if not isinstance(base, (curvature_lib.Base, curvature_lib.Kronecker)):
    raise errors.OptionError(
      f'This value function needs a base with an explicit Q_uu: '
      f'expected one of sgd, rmsprop, adam, kfac, ekfac of this library, or a '
      f'Base, got {type(base).__name__}. Use one of them, or '
      f"value='frozen', which lifts any optax transformation. One of them "
      f'inside optax.chain is not seen: put the rest of the chain around '
      f'gt_ddp.',
      'value',
    )
  settings = getattr(base, 'settings', None)
  if settings is not None and settings.norm_constraint is not None:
    raise errors.OptionError(
      "Invalid norm_constraint: got one with a value other than 'frozen', "
      'whose recursion takes steps before all of them are known: expected '
      'None. Use trust_region, or a smaller learning rate.',
      'norm_constraint',
    )


def _is_positive(bound: Any) -> bool:
  if isinstance(bound, jax.core.Tracer):  # a hyperparameter in a state
    return True
  known = checks.is_number(bound) or isinstance(bound, jax.Array)
  return known and bool(bound > 0)
