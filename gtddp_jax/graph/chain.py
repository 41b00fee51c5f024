"""What the chain of a network is made of: its stages and what they read.

Stage ``t`` maps the state ``c_t`` (every value already computed and still
needed) and its control ``u_t`` (the parameters of one module call) to the next
state, ``c_{t+1} = F_t(c_t, u_t)``. Within a stage only the *layer* sees the
control, so ``F_t = leave . layer . enter``::

    x = enter(c)        h = layer(x, u)        c' = leave(c, h)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gtddp_jax.graph import closed_forms, varying

Arrays = tuple[jax.Array, ...]
Shapes = tuple[jax.ShapeDtypeStruct, ...]


@dataclasses.dataclass(frozen=True)
class Fixed:
  """What a stage reads besides state and control, and never differentiates.

  Attributes:
    aux: live values that have no derivative (integers, booleans).
    inputs: the flat leaves of the network's inputs.
    extras: the flat leaves of ``Extras``.
  """

  aux: Arrays
  inputs: Arrays
  extras: Arrays = ()

  @property
  def leaves(self) -> Arrays:
    """All that does not change from stage to stage."""
    return (*self.inputs, *self.extras)


jax.tree_util.register_dataclass(Fixed, ['aux', 'inputs', 'extras'], [])


class Extras(NamedTuple):
  """What a network reads besides parameters and inputs, in Flax's words.

  Attributes:
    collections: variables that are no parameters (batch statistics), or {}.
    rngs: random keys by name, or {}.
  """

  collections: Any
  rngs: Any


class Result(NamedTuple):
  """What a network returns: outputs, and collections that it changed."""

  outputs: Any
  collections: Any


@dataclasses.dataclass(frozen=True)
class Stage:
  """One stage ``c' = F(c, u)``; ``v`` are controls that were decided earlier.

  Attributes:
    name: parameter path of the module that owns the control.
    control: indices (into the flat parameters) of the leaves decided here.
    shared: indices of earlier controls that this stage reads again.
    state: shapes of ``c``, as ``layout`` carries it: rows of each sample next
      to each other along the leading axis.
    x: shapes of ``x``, likewise.
    has_samples: for each of ``x``, whether every sample has its part in it.
    aux: shapes of the live values without derivative.
    enter: ``(c, v, fixed) -> x``.
    layer: ``(x, u, v, fixed) -> h``.
    leave: ``(c, h, v, fixed) -> c'``.
    carry: ``(c, u, v, fixed) -> aux'``.
    collected: which of the flat changed collections are computed here.
    collect: ``(c, v, fixed) ->`` these; ``v`` = all parameters.
    has_forward_derivative: whether ``jax.jvp`` takes its functions, which it
      does not where ``jax.custom_vjp`` is among them.
    entangled: what in the stage no sample has by itself: 'random' numbers,
      'mixing' of several samples.
    entangled_layer: the same of its layer.
    closed_form: the kind of its layer, of which per-sample gradients and their
      products are known; None where they are left to differentiation.
  """

  name: str
  control: tuple[int, ...]
  shared: tuple[int, ...]
  state: Shapes
  x: Shapes
  has_samples: tuple[bool, ...]
  aux: Shapes
  enter: Callable[[Arrays, Arrays, Fixed], Arrays]
  layer: Callable[[Arrays, Arrays, Arrays, Fixed], Arrays]
  leave: Callable[[Arrays, Arrays, Arrays, Fixed], Arrays]
  carry: Callable[[Arrays, Arrays, Arrays, Fixed], Arrays]
  collected: tuple[int, ...]
  collect: Callable[[Arrays, Arrays, Fixed], Arrays]
  has_forward_derivative: bool = True
  entangled: tuple[str, ...] = ()
  entangled_layer: tuple[str, ...] = ()
  closed_form: closed_forms.ClosedForm | None = None

  @property
  def kind(self) -> str:
    """The kind of its layer: 'dense', 'conv', ...; 'generic' for any other."""
    return self.closed_form.kind if self.closed_form else 'generic'

  def __repr__(self) -> str:
    """Its name and kind; ``summary`` of the graph has more."""
    return f'<Stage {self.name!r}: {self.kind}>'

  def __call__(
    self, c: Arrays, u: Arrays, v: Arrays, fixed: Fixed
  ) -> tuple[Arrays, Arrays]:
    """Runs the stage: ``(c', aux')``."""
    h = self.layer(self.enter(c, v, fixed), u, v, fixed)
    return self.leave(c, h, v, fixed), self.carry(c, u, v, fixed)


class Game(NamedTuple):
  """Stages whose outputs meet in one add, and that a joint update may take.

  Attributes:
    stages: the players, in order.
    alike: for each, the first player with the same input rows.
    direct: whether outputs are added as they are, so that all players have the
      same cotangent.
  """

  stages: tuple[int, ...]
  alike: tuple[int, ...]
  direct: bool


def pick(
  leaves: Arrays | Mapping[int, jax.Array], indices: tuple[int, ...]
) -> Arrays:
  """``leaves`` at ``indices``."""
  return tuple(leaves[i] for i in indices)


def shape_of(value: Any) -> jax.ShapeDtypeStruct:
  """Shape and dtype of an array-like, a random key or an abstract value."""
  dtype = getattr(value, 'dtype', None)
  dtype = jnp.result_type(value) if dtype is None else dtype
  return varying.shaped(jnp.shape(value), dtype, value)
