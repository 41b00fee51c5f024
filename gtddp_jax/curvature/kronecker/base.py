"""``kfac`` and ``ekfac``: base optimizers with a Kronecker curvature.

They need the inputs and cotangents of every layer, so they step through
``gt_ddp`` alone: ``gt_ddp(graph, loss, kfac(lr), feedback=False)`` is KFAC.
``bind`` ties one to a graph: which decisions have a Kronecker rule, and which
controls take the diagonal that the user named.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gtddp_jax import checks, errors
from gtddp_jax import gradients as gradients_lib
from gtddp_jax import graph as graph_lib
from gtddp_jax.curvature import diagonal
from gtddp_jax.curvature.kronecker import block as block_lib
from gtddp_jax.curvature.kronecker import factors as factors_lib

Array = jax.Array


class Settings(NamedTuple):
  """Arguments of ``kfac`` and ``ekfac``; ``corrected`` tells them apart."""

  learning_rate: diagonal.ScalarOrSchedule
  damping: float | Array
  momentum: float | None
  norm_constraint: float | None
  diagonal: diagonal.Base | None
  statistics: factors_lib.Statistics
  corrected: bool


class Kronecker(optax.GradientTransformationExtraArgs):
  """A base that ``gt_ddp`` binds to a graph; cannot step by itself.

  Attributes:
    settings: what it was made with.
  """

  settings: Settings

  def __new__(cls, settings: Settings) -> Kronecker:
    """Makes a base from its settings."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
      raise errors.OptionError(
        'kfac and ekfac need the layers of a network: expected them as the '
        'base of gt_ddp, got a call of their own init or update. Use '
        'gt_ddp(graph, loss, kfac(lr), feedback=False), which is KFAC.'
      )

    self = super().__new__(cls, refuse, refuse)
    self.settings = settings
    return self

  def __reduce__(self) -> Any:
    """What copies are made of."""
    return type(self), (self.settings,)


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
      embeddings, tied or grouped kernels), such as ``adam(1e-3)``; its learning
      rate is its own. None refuses such controls.
    statistics: how ``A`` and ``B`` are estimated, and how often.

  Returns:
    A base for ``gt_ddp``. Source: arXiv 1503.05671, convolutions 1602.01407.

  Raises:
    OptionError: for a number that is not positive.
  """
  return _base(Settings(
    learning_rate, damping, momentum, norm_constraint, diagonal, statistics,
    corrected=False,
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
  return _base(Settings(
    learning_rate, damping, momentum, norm_constraint, diagonal, statistics,
    corrected=True,
  ))  # fmt: skip


def _base(settings: Settings) -> Kronecker:
  name = 'ekfac' if settings.corrected else 'kfac'
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


class KroneckerState(NamedTuple):
  """State of a bound base.

  Attributes:
    steps: so far, int32.
    blocks: of each decision with a Kronecker rule.
    chain: of momentum and learning rate, over the leaves of these decisions.
    diagonal: of the diagonal base, over all other leaves.
  """

  steps: Array
  blocks: tuple[block_lib.Block, ...]
  chain: Any
  diagonal: Any


class Bound(NamedTuple):
  """A Kronecker base on a graph.

  Attributes:
    settings: of the base.
    layouts: by the control of a decision, for those with a Kronecker rule.
    others: flat indices of all other leaves.
    chain: momentum, then learning rate.
  """

  settings: Settings
  layouts: dict[tuple[int, ...], block_lib.Layout]
  others: tuple[int, ...]
  chain: optax.GradientTransformationExtraArgs

  def init(self, params: Any) -> KroneckerState:
    """The state before the first step."""
    leaves = jax.tree.leaves(params)
    kept = self.kept(leaves)
    dtype = jnp.result_type(jnp.float32, *kept)
    largest, diagonal = self.settings.statistics.largest, self.settings.diagonal
    return KroneckerState(
      jnp.zeros((), jnp.int32),
      tuple(
        block_lib.init(layout, largest, dtype)
        for layout in self.layouts.values()
      ),
      self.chain.init(kept),
      diagonal.init([leaves[i] for i in self.others]) if diagonal else (),
    )

  def kept(self, leaves: Sequence[Any]) -> list[Any]:
    """The leaves of the decisions with a Kronecker rule, in their order."""
    return [leaves[i] for control in self.layouts for i in control]


def bind(
  base: Kronecker,
  graph: graph_lib.LayerGraph,
  spans: Sequence[range],
  cooperation: str,
) -> Bound:
  """Ties a base to a graph.

  Args:
    base: of ``kfac`` or ``ekfac``.
    graph: the network.
    spans: the stages of each decision.
    cooperation: 'none', 'kronecker' or 'schur'.

  Returns:
    The base on the graph.

  Raises:
    OptionError: for a control without a Kronecker rule, if no diagonal is
      named; for players whose joint factors would be too large.
  """
  settings = base.settings
  layouts: dict[tuple[int, ...], block_lib.Layout] = {}
  others: list[int] = []
  shapes = jax.tree.leaves(graph.params)
  for span in spans:
    stages = [graph.stages[t] for t in span]
    control = tuple(i for stage in stages for i in stage.control)
    if not all(graph.has_kronecker(t) for t in span):
      if settings.diagonal is None:
        raise errors.OptionError(
          _without_rule(graph, span, settings), 'diagonal'
        )
      others.extend(control)
      continue
    products = [
      gradients_lib.Contraction(s, [shapes[i] for i in s.control])
      for s in stages
    ]
    layouts[control] = _layout(graph, span, products, settings, cooperation)
  parts = [
    optax.identity() if settings.momentum is None
    else optax.trace(settings.momentum),
    optax.scale_by_learning_rate(settings.learning_rate),
  ]  # fmt: skip
  return Bound(settings, layouts, tuple(others), optax.chain(*parts))


def _layout(
  graph: graph_lib.LayerGraph,
  span: range,
  products: Sequence[gradients_lib.Contraction],
  settings: Settings,
  cooperation: str,
) -> block_lib.Layout:
  out, into = [p.c for p in products], [p.width for p in products]
  names = ', '.join(repr(graph.stages[t].name) for t in span)
  largest = settings.statistics.largest
  if len(span) > 1 and max(sum(out), sum(into)) > largest:
    raise errors.OptionError(
      f'The players {names} decide together: expected joint factors of at most '
      f'Statistics(largest={largest}) rows, got {max(sum(out), sum(into))}. '
      f"Raise it, or use cooperation='none'.",
      'largest',
    )
  game = graph.game_of(span)
  return block_lib.Layout(
    tuple(out),
    tuple(into),
    game.alike,
    apart=cooperation == 'schur' and len(span) > 1,
    coincide=game.direct and not any(game.alike),
    corrected=settings.corrected,
  )


def _without_rule(
  graph: graph_lib.LayerGraph, span: range, settings: Settings
) -> str:
  name = 'ekfac' if settings.corrected else 'kfac'
  stages = [graph.stages[t] for t in span if not graph.has_kronecker(t)]
  paths = ', '.join(repr(graph.paths[i]) for s in stages for i in s.control)
  return (
    f'{name} has no Kronecker rule for {paths} (stage of kind '
    f'{stages[0].kind!r}): expected the kernel and bias of a dense layer or of '
    f'a convolution without groups, read once. Name a diagonal for the rest: '
    f'{name}(lr, diagonal=adam(1e-3)).'
  )
