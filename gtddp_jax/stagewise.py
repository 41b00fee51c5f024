"""A base optimizer, one stage at a time.

The closed loop needs the step of stage ``t`` before the gradients of later
stages are final. The base's ``update`` is captured once over all parameters;
the step of one stage is the slice of it that leads to that stage's updates. If
the slice reads gradients of other stages (a global norm, say), it gets the best
known ones: final upstream, open-loop downstream.

Curvature is taken from what a backward sweep has *observed* of a control, its
``Q_u``; of what was not observed, from the final gradient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax

from gtddp_jax import curvature, errors, inverses, jaxprs
from gtddp_jax import graph as graph_lib

Arrays = tuple[jax.Array, ...]
Known = Callable[[int], jax.Array]  # flat parameter index -> gradient


class Decider(Protocol):
  """A base optimizer, asked one control at a time."""

  def observe(
    self, control: tuple[int, ...], slope: jax.Array, q_u: Arrays
  ) -> None:
    """Takes the curvature of a control from ``d`` and ``Q_u`` there."""

  def observe_rest(self, slope: jax.Array) -> None:
    """Takes that of all other controls from ``d``."""

  def is_isotropic(self, control: tuple[int, ...]) -> bool:
    """Whether ``Q_uu^-1`` is a number on each leaf, or between factors."""

  def inverse(self, control: tuple[int, ...]) -> inverses.Inverse:
    """``Q_uu^-1`` of a control that was observed."""

  def step(self, control: tuple[int, ...], g: Known) -> Arrays:
    """The base's updates of the leaves of one control."""

  def finish(self, g: Known) -> Any:
    """The base's new state, once all gradients are final."""


class Stagewise:
  """Steps, curvature and state of a base, by flat parameter index.

  Gradients are given as functions of the parameter index, so that only those
  that a step needs are computed.
  """

  def __init__(self, base: Any, state: Any, params: Any, extra_args: Any):
    """Captures ``base.update`` at ``state`` and ``params``."""
    explicit = isinstance(base, curvature.Base)
    self._size = len(jax.tree.leaves(params))
    self._observed: dict[int, jax.Array] = {}
    shapes = jax.tree.map(graph_lib.shape_of, params)

    def update(g: Any, q: Any) -> Any:
      observed = {'observed': q} if explicit else {}
      return base.update(g, state, params, **extra_args, **observed)

    self._update = jaxprs.capture(update, shapes, shapes)
    updates, self._new_state = self._update.out_shape
    got: Any = jax.tree.structure(updates)
    expected: Any = jax.tree.structure(params)
    if got != expected:
      raise errors.OptionError(
        f'The base optimizer returned updates of structure {got}: expected '
        f'that of the parameters, {expected}.'
      )
    if explicit:
      # The first tree of gradients is there only to be like ``update``.
      self._inverse = jaxprs.capture(
        lambda _, q: base.inverse(state, params, observed=q), shapes, shapes
      )

  def observe(
    self, control: tuple[int, ...], slope: jax.Array, q_u: Arrays
  ) -> None:
    """See ``Decider``."""
    del slope
    self._observed.update(zip(control, q_u, strict=True))

  def observe_rest(self, slope: jax.Array) -> None:
    """See ``Decider``; the final gradients will do."""

  def step(self, control: tuple[int, ...], g: Known) -> Arrays:
    """See ``Decider``."""
    targets = [self._update.outputs[i] for i in control]
    return self._run(self._update, targets, g)

  def finish(self, g: Known) -> Any:
    """See ``Decider``."""
    targets = self._update.outputs[self._size :]
    leaves = self._run(self._update, targets, g)
    return jax.tree.unflatten(jax.tree.structure(self._new_state), leaves)

  def inverse(self, control: tuple[int, ...]) -> inverses.Diagonal:
    """See ``Decider``."""
    targets = [self._inverse.outputs[i] for i in control]
    observed = self._observed.__getitem__
    return inverses.Diagonal(self._run(self._inverse, targets, observed))

  def is_isotropic(self, control: tuple[int, ...]) -> bool:
    """See ``Decider``."""
    return all(
      jaxprs.abstract(self._inverse.outputs[i]).shape == () for i in control
    )

  def _run(self, program: jaxprs.Program, targets: Any, g: Known) -> Arrays:
    """Runs a slice; the program's inputs are gradients and observed ones."""
    part = program.slice(program.inputs, targets)
    read = [i for i, v in enumerate(program.inputs) if v in part.needed]
    part = dataclasses.replace(
      part, sources=tuple(program.inputs[i] for i in read)
    )
    n, known = self._size, self._observed

    def value(i: int) -> jax.Array:
      if i < n:
        return g(i)
      return known[i - n] if i - n in known else g(i - n)

    return part(*map(value, read))
