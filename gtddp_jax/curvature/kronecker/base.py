"""``kfac`` and ``ekfac``: base optimizers with a Kronecker curvature.

They need the inputs and cotangents of every layer, so they step through
``gt_ddp`` alone: ``gt_ddp(graph, loss, kfac(lr), feedback=False)`` is KFAC.
Arguments are checked here; ``bound`` ties a base to a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from gtddp_jax import checks, errors
from gtddp_jax import graph as graph_lib
from gtddp_jax.curvature import diagonal, protocol
from gtddp_jax.curvature.kronecker import bound
from gtddp_jax.curvature.kronecker import factors as factors_lib
from gtddp_jax.curvature.kronecker import step as step_lib

Array = jax.Array


class Kronecker(protocol.GraphBase):
  """A base that steps through ``gt_ddp`` alone."""

  settings: step_lib.Settings

  couples_players = True
  refusal = (
    'kfac and ekfac need the layers of a network: expected them as the '
    'base of gt_ddp, got a call of their own init or update. Use '
    'gt_ddp(graph, loss, kfac(lr), feedback=False), which is KFAC.'
  )

  def check_recursion(self) -> None:
    """See ``BaseOptimizer``."""
    if self.settings.norm_constraint is not None:
      raise errors.OptionError(
        "Invalid norm_constraint: got one with a value other than 'frozen', "
        'whose recursion takes steps before all of them are known: expected '
        'None. Use trust_region, or a smaller learning rate.',
        'norm_constraint',
      )

  def bind(
    self,
    graph: graph_lib.LayerGraph,
    decisions: Sequence[range],
    cooperation: str,
  ) -> bound.BoundKronecker:
    """See ``BaseOptimizer``.

    Raises:
      OptionError: for a control without a Kronecker rule, if no diagonal is
        named; for players whose joint factors would be too large.
    """
    return bound.bind(self.settings, graph, decisions, cooperation)


def kfac(
  learning_rate: diagonal.ScalarOrSchedule,
  damping: float | Array = 1e-3,
  *,
  momentum: float | None = None,
  norm_constraint: float | None = None,
  diagonal: diagonal.Base | None = None,
  statistics: factors_lib.Statistics = factors_lib.Statistics(),  # noqa: B008
) -> Kronecker:
  r"""KFAC: ``Q_uu = (A + pi sqrt(gamma)) x (B + sqrt(gamma) / pi) / eta``.

  Args:
    learning_rate: eta, a number or a schedule over steps.
    damping: gamma, in units of the curvature ``A x B``.
    momentum: decay of the trace of past preconditioned gradients.
    norm_constraint: bound c on ``eta^2 sum <Q_u, M^-1 Q_u>``, above which all
      steps are shortened alike; None for none.
    diagonal: base for controls without a Kronecker rule (scales of norms,
      tied kernels), such as ``adam(1e-3)``; its learning rate is its own. None
      refuses such controls.
    statistics: how ``A`` and ``B`` are estimated, and how often.

  Returns:
    A base for ``gt_ddp``. Source: arXiv 1503.05671, convolutions 1602.01407.

  Raises:
    OptionError: for a number that is not positive.
  """
  return _base(step_lib.Settings(
    learning_rate, damping, momentum, norm_constraint, diagonal, statistics,
    ekfac=False,
  ))  # fmt: skip


def ekfac(
  learning_rate: diagonal.ScalarOrSchedule,
  damping: float | Array = 1e-3,
  *,
  momentum: float | None = None,
  norm_constraint: float | None = None,
  diagonal: diagonal.Base | None = None,
  statistics: factors_lib.Statistics = factors_lib.Statistics(),  # noqa: B008
) -> Kronecker:
  r"""EKFAC: KFAC's eigenvectors with the eigenvalues that gradients have there.

  ``Q_uu = (U_A x U_B) (s + gamma) (U_A x U_B)^T / eta``, with
  ``s = E[(U_B^T G_i U_A)^2]``.
  With feedback, give ``gt_ddp`` a bound: ``gt_ddp(graph, loss, ekfac(0.01,
  0.01), trust_region=0.3)``; without one it may explode where EKFAC alone is
  best.

  Args:
    learning_rate: eta, a number or a schedule over steps.
    damping: gamma, in units of squared per-sample gradients.
    momentum: as in ``kfac``.
    norm_constraint: as in ``kfac``.
    diagonal: as in ``kfac``.
    statistics: as in ``kfac``.

  Returns:
    A base for ``gt_ddp``. Source: arXiv 1806.03884.

  Raises:
    OptionError: for a number that is not positive.
  """
  return _base(step_lib.Settings(
    learning_rate, damping, momentum, norm_constraint, diagonal, statistics,
    ekfac=True,
  ))  # fmt: skip


def _base(settings: step_lib.Settings) -> Kronecker:
  name = 'ekfac' if settings.ekfac else 'kfac'
  rate: Any = settings.learning_rate
  known = checks.is_number(rate) and rate > 0
  if not (known or isinstance(rate, Array) or callable(rate)):
    raise errors.OptionError(
      f'Invalid {name}: learning_rate: got {rate!r}, expected a positive '
      f'number or a schedule.',
      'learning_rate',
    )
  for key, optional in (('damping', False), ('norm_constraint', True)):
    value: Any = getattr(settings, key)
    number = checks.is_number(value) and value > 0
    # An array may be traced: a hyperparameter in a state.
    if not (number or isinstance(value, Array) or (optional and value is None)):
      raise errors.OptionError(
        f'Invalid {name}: {key}: got {value!r}, expected a positive number '
        f'(for one that changes, wrap the optimizer in '
        f'optax.inject_hyperparams).',
        key,
      )
  if settings.momentum is not None:
    checks.check_fraction(f'{name}: momentum', settings.momentum)
  for key, kind, example in (
    ('diagonal', (diagonal.Base, type(None)), 'adam(1e-3)'),
    ('statistics', factors_lib.Statistics, 'Statistics(every=1)'),
  ):
    value = getattr(settings, key)
    if not isinstance(value, kind):
      raise errors.OptionError(
        f'Invalid {name}: {key}: got {value!r}, expected one like {example}.',
        key,
      )
  return Kronecker(settings)
