"""A base optimizer, one stage at a time.

The closed loop needs the step of stage ``t`` before the gradients of later
stages are final. The base's ``update`` is captured once over all parameters;
the step of one stage is the slice of it that leads to that stage's updates. If
the slice reads gradients of other stages (a global norm, say), it gets the best
known ones: final upstream, open-loop downstream.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from gtddp_jax import curvature, errors, jaxprs
from gtddp_jax import graph as graph_lib

Arrays = tuple[jax.Array, ...]
Known = Callable[[int], jax.Array]  # flat parameter index -> gradient


class Stagewise:
  """Steps, curvature and state of a base, by flat parameter index.

  Gradients are given as functions of the parameter index, so that only those
  that a step needs are computed.
  """

  def __init__(self, base: Any, state: Any, params: Any, extra_args: Any):
    """Captures ``base.update`` at ``state`` and ``params``."""
    explicit = isinstance(base, curvature.Base)
    self._size = len(jax.tree.leaves(params))
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

  def step(self, control: tuple[int, ...], g: Known, q: Known) -> Arrays:
    """The base's updates of the leaves of one control."""
    targets = [self._update.outputs[i] for i in control]
    return self._run(self._update, targets, g, q)

  def finish(self, g: Known, q: Known) -> Any:
    """The base's new state, once all gradients are final."""
    targets = self._update.outputs[self._size :]
    leaves = self._run(self._update, targets, g, q)
    return jax.tree.unflatten(jax.tree.structure(self._new_state), leaves)

  def inverse(self, control: tuple[int, ...], q: Known) -> Arrays:
    """Diagonal of ``Q_uu^-1`` of one control: a scalar or array per leaf."""
    targets = [self._inverse.outputs[i] for i in control]
    return self._run(self._inverse, targets, q, q)

  def is_isotropic(self, control: tuple[int, ...]) -> bool:
    """Whether ``Q_uu`` is a multiple of the identity on each leaf."""
    return all(
      jaxprs.abstract(self._inverse.outputs[i]).shape == () for i in control
    )

  def _run(
    self, program: jaxprs.Program, targets: Any, first: Known, second: Known
  ) -> Arrays:
    """Runs a slice; the program's inputs are two trees of gradients."""
    part = program.slice(program.inputs, targets)
    read = [i for i, v in enumerate(program.inputs) if v in part.needed]
    part = dataclasses.replace(
      part, sources=tuple(program.inputs[i] for i in read)
    )
    n = self._size
    return part(*(first(i) if i < n else second(i - n) for i in read))
