"""Options of ``gt_ddp``, checked and resolved once, before any tracing."""

from __future__ import annotations

import dataclasses
import functools
import warnings
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


@dataclasses.dataclass(frozen=True)
class StepOptions:
  """What a step is made of.

  The first eight are those of ``gt_ddp``, by its names; names are resolved.

  Attributes:
    graph: the network, with players next to their merge if they cooperate.
    loss: ``(outputs, targets) -> [B]``.
    base: the base optimizer, lifted.
    terminal: the value function at the outputs.
    value: the value recursion.
    cooperation: 'none' too where it would change nothing.
    feedback: whether layers react to the updates of those before them.
    trust_region: bound on the feedback weights, or None; 'auto' is resolved.
    bound: the base on the graph.
    decisions: the stages of each decision.
  """

  graph: graph_lib.LayerGraph
  loss: terminal_lib.Loss
  base: Any
  terminal: Any = 'gradient'
  value: Any = 'frozen'
  cooperation: str = 'none'
  feedback: bool = True
  trust_region: Any = 'auto'
  bound: curvature_lib.BoundBase = dataclasses.field(init=False)
  decisions: list[range] = dataclasses.field(init=False)

  def __post_init__(self) -> None:
    """Checks and resolves.

    Raises:
      OptionError: for an option that has no meaning, or a base without
        ``Q_uu`` where the value recursion needs it.
    """
    resolve = functools.partial(object.__setattr__, self)
    resolve('terminal', terminal_lib.named(self.terminal))
    self._check_kinds()
    _check_outputs(self.graph)
    checks.check_option('cooperation', self.cooperation, COOPERATIONS)
    resolve('value', value_lib.recursion(self.value))
    if isinstance(self.trust_region, str):
      resolve('trust_region', self.value.trust_region)
    resolve('base', curvature_lib.lift(self.base))
    if self.feedback and self.value.needs_curvature:
      self.base.check_recursion()
    if self.cooperation != 'none' and not self._players_cooperate():
      resolve('cooperation', 'none')
    if self.cooperation != 'none':
      resolve('graph', self.graph.in_order('merge'))
    resolve('decisions', self.graph.decisions(self.cooperation != 'none'))
    bound = self.base.bind(self.graph, self.decisions, self.cooperation)
    resolve('bound', bound)
    if self.sizes_step:
      _check_sized(self)

  @property
  def sizes_step(self) -> bool:
    """Whether the base damps and sizes its step, see ``SizedBase``."""
    return getattr(self.bound, 'sizes_step', False)

  @property
  def measured(self) -> Mapping[str, float]:
    """What the base measures beyond the rest, before the first step."""
    return getattr(self.bound, 'measured', {})

  def _check_kinds(self) -> None:
    """Raises ``OptionError`` for an option of another kind than expected."""
    terminal_lib.refuse_factory(self.terminal)
    bound = self.trust_region
    is_base = hasattr(self.base, 'init') and hasattr(self.base, 'update')
    expected = {
      'graph': (isinstance(self.graph, graph_lib.LayerGraph),
        'a LayerGraph; make one with trace(apply_fn, params, inputs)'),
      'loss': (callable(self.loss),
        'a function (outputs, targets) -> [B], such as losses.squared_error'),
      'base': (is_base,
        'an optax transformation; call its factory, as in sgd(0.1)'),
      'terminal': (callable(self.terminal),
        "'gradient', 'gauss_newton', sampled(m), truncated(r), subset(...) or "
        'a TerminalValue'),
      'feedback': (isinstance(self.feedback, bool), 'True or False'),
      'trust_region': (bound is None or _is_bound(bound),
        "a positive number, None, or 'auto'"),
    }  # fmt: skip
    for name, (fine, wanted) in expected.items():
      if not fine:
        raise errors.OptionError(
          f'Invalid {name}: got {getattr(self, name)!r}, expected {wanted}.',
          name,
        )

  def _players_cooperate(self) -> bool:
    """Whether cooperation changes anything; warns if it does not."""
    missing = (
      'no stages whose outputs meet in one add (see graph.summary(); a norm '
      'between output and add ends a game)'
    )
    if not self.base.couples_players:
      missing = 'a first-order base, which has no curvature between players'
    elif self.graph.games:
      return True
    warnings.warn(
      f'cooperation changes nothing here: got {missing}. Use kfac or ekfac on '
      f"a network with parallel layers, or cooperation='none'.",
      errors.NoGameWarning,
      stacklevel=5,
    )
    return False


def _check_sized(options: StepOptions) -> None:
  """What a base that sizes its step needs: the joint curvature of the batch."""
  if not isinstance(options.value, value_lib.Coupled):
    raise errors.OptionError(
      f"Invalid value: got {options.value!r}, expected 'coupled' or "
      f'Coupled(memory): levenberg_marquardt damps the Gauss-Newton matrix of '
      f'the whole batch, and sizes its step by what that predicts. No other '
      f'value recursion has it. For {options.value!r} use sgd or adam.',
      'value',
    )
  partial = getattr(options.terminal, 'samples', None) is not None
  if options.terminal is terminal_lib.gradient or partial:
    shown = "'gradient'" if not partial else options.terminal
    raise errors.OptionError(
      f"Invalid terminal: got {shown!r}, expected 'gauss_newton' (or "
      f'truncated(r), sampled(m)): levenberg_marquardt needs the curvature of '
      f'the loss at the outputs of every sample of the batch.',
      'terminal',
    )


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


def _is_bound(bound: Any) -> bool:
  if isinstance(bound, str):
    return bound == 'auto'
  if isinstance(bound, jax.core.Tracer):  # a hyperparameter in a state
    return True
  known = checks.is_number(bound) or isinstance(bound, jax.Array)
  return known and bool(bound > 0)
