"""A base optimizer, one stage at a time.

The closed loop needs the step of stage ``t`` before the gradients of later
stages are final. The base's ``update`` is captured once over all parameters;
the step of one stage is the slice of it that leads to that stage's updates. If
the slice reads gradients of other stages (a global norm, say), it gets the best
known ones: final upstream, open-loop downstream.

Curvature is taken from what a backward sweep has *observed* of a control, its
``Q_u``; of what was not observed, from the final gradient.

A complex parameter is two real ones to whoever asks. To the base its gradient
is ``dL/dx + i dL/dy``, the conjugate of what ``jax.grad`` returns, as optax
expects it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from gtddp_jax import errors
from gtddp_jax import gradients as gradients_lib
from gtddp_jax import graph as graph_lib
from gtddp_jax.curvature import diagonal

Arrays = tuple[jax.Array, ...]


class Stagewise:
  """Steps, curvature and state of a base, by flat parameter index.

  Gradients are given as functions of the parameter index, so that only those
  that a step needs are computed.
  """

  def __init__(self, base: Any, state: Any, params: Any, extra_args: Any):
    """Captures ``base.update`` at ``state`` and ``params``."""
    explicit = isinstance(base, diagonal.Base)
    self._size = len(jax.tree.leaves(params))
    self._observed: dict[int, jax.Array] = {}
    shapes = jax.tree.map(
      lambda p: graph_lib.real_shape(graph_lib.shape_of(p)), params
    )

    def like_parameters(pairs: Any) -> Any:
      return jax.tree.map(
        lambda x, p: graph_lib.as_dtype(x, jnp.result_type(p)), pairs, params
      )

    def update(g: Any, q: Any) -> Any:
      observed = {'observed': like_parameters(q)} if explicit else {}
      g = like_parameters(g)
      updates, new = base.update(g, state, params, **extra_args, **observed)
      _check_updates(updates, params)
      return jax.tree.map(graph_lib.as_real, updates), new

    # The first tree of gradients is there only to be like ``update``.
    def inverse(_: Any, q: Any) -> Any:
      diagonal = base.inverse(state, params, observed=like_parameters(q))
      return jax.tree.map(_of_pairs, diagonal, params)

    self._update = graph_lib.capture(update, shapes, shapes)
    _, self._new_state = self._update.out_shape
    if explicit:
      self._inverse = graph_lib.capture(inverse, shapes, shapes)

  def observe(
    self, control: tuple[int, ...], slope: jax.Array, q_u: Arrays
  ) -> None:
    """See ``value.Decider``."""
    del slope
    self._observed.update(zip(control, q_u, strict=True))

  def observe_rest(self, slope: jax.Array) -> None:
    """See ``value.Decider``; the final gradients will do."""

  def step(self, control: tuple[int, ...], g: gradients_lib.Known) -> Arrays:
    """See ``value.Decider``."""
    targets = [self._update.outputs[i] for i in control]
    return self._run(self._update, targets, g)

  def finish(self, g: gradients_lib.Known) -> Any:
    """See ``value.Decider``."""
    targets = self._update.outputs[self._size :]
    leaves = self._run(self._update, targets, g)
    return jax.tree.unflatten(jax.tree.structure(self._new_state), leaves)

  def inverse(self, control: tuple[int, ...]) -> diagonal.Diagonal:
    """See ``value.Decider``."""
    targets = [self._inverse.outputs[i] for i in control]
    observed = self._observed.__getitem__
    return diagonal.Diagonal(self._run(self._inverse, targets, observed))

  def is_isotropic(self, control: tuple[int, ...]) -> bool:
    """See ``value.Decider``."""
    return all(
      graph_lib.abstract(self._inverse.outputs[i]).shape == () for i in control
    )

  def _run(
    self, program: graph_lib.Program, targets: Any, g: gradients_lib.Known
  ) -> Arrays:
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


def _check_updates(updates: Any, params: Any) -> None:
  got: Any = jax.tree.structure(updates)
  expected: Any = jax.tree.structure(params)
  if got != expected:
    raise errors.OptionError(
      f'The base optimizer returned updates of structure {got}: expected '
      f'that of the parameters, {expected}.'
    )


def _of_pairs(diagonal: jax.Array, param: Any) -> jax.Array:
  """The diagonal for real and imaginary part of a complex parameter."""
  if not jnp.iscomplexobj(param):
    return diagonal
  diagonal = jnp.real(diagonal)
  if not diagonal.ndim:
    return diagonal
  return jnp.broadcast_to(diagonal[..., None], (*diagonal.shape, 2))
