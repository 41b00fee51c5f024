"""One step of one's own optimizer, model and batch, checked in several ways.

What a step must fulfil whatever the network is: without feedback it is the
base's step (Prop. 1, 4), with feedback bounded to nothing too; the gradients of
single samples add up to the gradient; nothing is infinite; and the recursion
on ``d`` and ``S`` gives what dense matrices in float64 give (``dense_step``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gtddp_jax import checks, errors
from gtddp_jax import gradients as gradients_lib
from gtddp_jax import graph as graph_lib
from gtddp_jax import value as value_lib
from gtddp_jax.optimizer import dense_step, transform

_NOTHING = 1e-9  # a trust region that leaves no feedback


class StepCheck(NamedTuple):
  """One line of a report.

  Attributes:
    name: what is checked.
    ok: whether it holds; None where it does not apply.
    detail: the relative difference that was found, or why it does not apply.
  """

  name: str
  ok: bool | None
  detail: str


class StepReport(NamedTuple):
  """What ``verify_step`` found; ``str`` is a table of one line per check.

  Attributes:
    checks: all checks.
  """

  checks: tuple[StepCheck, ...]

  @property
  def ok(self) -> bool:
    """Whether every check that applies holds."""
    return all(check.ok is not False for check in self.checks)

  def __str__(self) -> str:
    """One line per check, then the outcome."""
    words = {True: 'ok', False: 'FAILS', None: '-'}
    width = max(len(check.name) for check in self.checks)
    lines = [
      f'{check.name.ljust(width)}  {words[check.ok].ljust(5)}  {check.detail}'
      for check in self.checks
    ]
    return '\n'.join([*lines, 'all hold' if self.ok else 'some FAIL'])


def verify_step(
  tx: optax.GradientTransformationExtraArgs,
  params: Any,
  batch: tuple[Any, Any],
  *,
  state: Any = None,
  rngs: Mapping[str, Any] = MappingProxyType({}),
) -> StepReport:
  """Checks one step on a batch of one's own; nothing is changed.

  Args:
    tx: what ``gt_ddp`` returned.
    params: where to take the step.
    batch: inputs and targets.
    state: of ``tx``; None for that before the first step.
    rngs: as for ``update``.

  Returns:
    A report with ``ok`` and one line per check.

  Raises:
    OptionError: if ``tx`` is not of ``gt_ddp`` itself.
  """
  if not isinstance(tx, transform.GtDdp):
    raise errors.OptionError(
      f'verify_step: expected what gt_ddp returned, got a '
      f'{type(tx).__name__}; give it the gt_ddp inside a chain, with its part '
      f'of the state.'
    )
  state = tx.init(params) if state is None else state
  case = _Case(tx, params, batch, state, rngs)
  return StepReport(
    (
      _agree('no feedback is the base', case.without_feedback),
      _agree('feedback bounded to nothing is the base', case.bounded),
      _sums(case),
      _finite(case),
      _agree('dense matrices in float64', case.dense),
    )
  )


class _NotApplicableError(Exception):
  """A check that does not apply, and why."""


class _Case:
  """A step and its variants."""

  def __init__(
    self, tx: transform.GtDdp, params: Any, batch: Any, state: Any, rngs: Any
  ):
    self.options, self.batch = tx.options, batch
    self.params = checks.like(tx.options.graph.params, params)
    self.state, self.rngs = state, rngs
    self.graph = self.options.graph.for_inputs(batch[0])
    self.extras = graph_lib.Extras(state.collections, dict(rngs))
    self.result = self._run(tx, state)

  def _run(self, tx: Any, state: Any) -> Any:
    return jax.jit(
      lambda params, batch, state: tx.update(
        None, state, params, batch=batch, rngs=self.rngs
      )
    )(self.params, self.batch, state)

  def _variant(self, **changed: Any) -> Any:
    given = [f.name for f in dataclasses.fields(self.options) if f.init]
    arguments = {name: getattr(self.options, name) for name in given}
    variant = transform.gt_ddp(**(arguments | changed))
    return self._run(variant, self.state)

  def without_feedback(self) -> tuple[Any, Any, float]:
    """The step without feedback, and the base's own."""
    return self._variant(feedback=False)[0], self._base_step(), 1e-4

  def bounded(self) -> tuple[Any, Any, float]:
    """The step with next to no feedback, and the base's own."""
    if self.options.cooperation != 'none':
      raise _NotApplicableError('players decide jointly')
    if isinstance(self.options.value, value_lib.Coupled):
      raise _NotApplicableError("'coupled' keeps a Q_uu of its own")
    found = self._variant(feedback=True, trust_region=_NOTHING)[0]
    return found, self._base_step(), 1e-4

  def _base_step(self) -> Any:
    """The step of the base alone, from the gradient of the network."""
    base = self.options.base
    if base.needs_operators:
      raise _NotApplicableError('the base steps by the graph alone')
    inputs, targets = self.batch

    def mean_loss(params: Any) -> jax.Array:
      outputs = self.graph.network(params, inputs, self.extras).outputs
      return jnp.mean(self.options.loss(outputs, targets))

    grads = jax.tree.map(jnp.conj, jax.grad(mean_loss)(self.params))
    return base.update(grads, self.state.base, self.params)[0]

  def dense(self) -> tuple[Any, Any, float]:
    """The step, and the same by dense matrices in float64."""
    reason = dense_step.refusal(self.graph, self.options)
    if reason is not None:
      raise _NotApplicableError(reason)
    with _float64():
      wide = jax.tree.map(_widened, (self.params, self.batch, self.state))
      found = dense_step.dense_step(self.options, *wide)
    tolerance = 1e-8 if _is_wide(self.params) else 1e-2
    return self.result[0], found, tolerance


def _sums(case: _Case) -> StepCheck:
  name = 'gradients of single samples add up'
  try:
    count = gradients_lib.verify(
      case.graph, case.params, case.batch[0], case.extras
    )
  except errors.TraceMismatchError as error:
    return StepCheck(name, False, str(error))
  return StepCheck(name, True, f'{count} arrays compared')


def _finite(case: _Case) -> StepCheck:
  updates, new = case.result
  skipped = new.skipped_steps - case.state.skipped_steps
  fine = not int(skipped) and all(
    bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(updates)
  )
  outcome = 'skipped' if skipped else 'taken'
  return StepCheck('the step is finite', fine, outcome)


def _agree(name: str, compared: Any) -> StepCheck:
  """Whether two steps are equal up to rounding."""
  try:
    found, expected, tolerance = compared()
  except _NotApplicableError as reason:
    return StepCheck(name, None, str(reason))
  except errors.OptionError as error:
    return StepCheck(name, None, str(error))
  got, wanted = (
    [np.asarray(leaf) for leaf in jax.tree.leaves(step)]
    for step in (found, expected)
  )
  difference = _norm([a - b for a, b in zip(got, wanted, strict=True)])
  size = _norm(wanted)
  relative = float(difference / max(size, np.finfo(np.float64).tiny))
  return StepCheck(name, relative <= tolerance, f'differs by {relative:.1e}')


def _norm(leaves: list[np.ndarray]) -> float:
  return float(np.sqrt(sum(np.sum(np.abs(leaf) ** 2) for leaf in leaves)))


def _is_wide(params: Any) -> bool:
  return all(
    jnp.finfo(leaf.dtype).bits == 64 for leaf in jax.tree.leaves(params)
  )


def _widened(leaf: Any) -> Any:
  """A number in float64 or complex128; others as they are."""
  leaf = jnp.asarray(leaf)
  if not jnp.issubdtype(leaf.dtype, jnp.inexact):
    return leaf
  return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float64))


def _float64() -> contextlib.AbstractContextManager[Any]:
  if hasattr(jax, 'enable_x64'):
    return jax.enable_x64(True)
  experimental: Any = importlib.import_module('jax.experimental')
  return experimental.enable_x64(True)
