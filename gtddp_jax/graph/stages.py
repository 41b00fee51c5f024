"""Building: the pieces of a program between two cuts become a stage.

All of a stage's functions are slices: from the state before it to the layer's
input, from there to the layer's output, from there to the state after it, and
to whatever else is computed on the way (values without derivative, changed
collections). They take and return values as states carry them: the rows of each
sample next to each other, complex numbers as pairs (``layout``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from gtddp_jax import errors
from gtddp_jax.graph import batch_axis, layers
from gtddp_jax.graph import cuts as cuts_lib
from gtddp_jax.graph import layer_graph as graph_lib
from gtddp_jax.graph import program as jaxprs
from gtddp_jax.graph.batch_axis import Batch

Piece = Callable[..., graph_lib.Arrays]


@dataclasses.dataclass(frozen=True)
class Builder:
  """Turns cuts into stages by slicing the program between them.

  Attributes:
    program: the network.
    flow: its analysis.
    batch: what its values have to do with the batch.
    paths: printable path of each parameter leaf.
    keys: the random keys, which are the program's last inputs.
    changed: the changed collections.
  """

  program: jaxprs.Program
  flow: cuts_lib.Flow
  batch: Batch
  paths: tuple[str, ...]
  keys: Sequence[Any]
  changed: Sequence[Any]

  def stage(
    self,
    cut: cuts_lib.Cut,
    span: range,
    after: tuple[tuple[jaxprs.Var, ...], tuple[jaxprs.Var, ...]],
  ) -> graph_lib.Stage:
    """The stage from ``cut`` to the next one, of the equations ``span``."""
    state, aux = after
    live = (*cut.state, *cut.aux)
    own = tuple(self.program.inputs[i] for i in cut.control)
    needs = self.program.slice(live, (*state, *aux)).missing
    leaves = self.program.inputs[: len(self.paths)]
    shared = tuple(
      i for i, v in enumerate(leaves) if v in needs and i not in cut.control
    )
    again = tuple(leaves[i] for i in shared)
    rest = (*again, *self.program.inputs[len(leaves) :])
    known = (*live, *own, *rest)
    layer = layers.find(self.program, self.flow, cut, span.stop, self.batch)
    pieces = None
    body = whole = self.program.slice(known, state)
    if layer:
      enter = self.program.slice((*live, *rest), layer.x)
      leave = self.program.slice((*live, layer.h, *rest), state)
      if not enter.missing and not leave.missing:
        body = self.program.slice((*layer.x, *own), (layer.h,))
        pieces = _affine(*map(self._carried, (enter, body, leave)))
    if not layer or not pieces:
      layer = None
      pieces = _whole(self._carried(whole))
    entries = layer.x if layer else cut.state
    self._check_known(entries, cut)
    draws = self._draws(known, (*state, *aux))
    collected = self._made_in(span)
    return graph_lib.Stage(
      name=_name(cut, self.paths),
      control=cut.control,
      shared=shared,
      state=self._shapes(cut.state),
      x=self._shapes(entries),
      has_samples=tuple(map(self.batch.has_samples, entries)),
      aux=self._shapes(cut.aux),
      enter=pieces[0],
      layer=pieces[1],
      leave=pieces[2],
      carry=_within(self._carried(self.program.slice(known, aux))),
      collected=collected,
      # Changed collections may read what no state needs.
      collect=self._of_all(live, [self.changed[i] for i in collected]),
      has_forward_derivative=jaxprs.has_forward_derivative(whole.equations),
      entangled=self._entangled(draws, whole),
      # A layer is one equation of inputs and control: it draws nothing.
      entangled_layer=self._entangled(draws and not layer, body),
      closed_form=layer.closed_form if layer else None,
    )

  def _carried(self, part: jaxprs.Slice) -> Piece:
    """A slice whose values are given and returned as states carry them."""
    run = self._decoded(part)

    def piece(*values: Any) -> graph_lib.Arrays:
      pairs = zip(part.targets, run(*values), strict=True)
      return tuple(self._encode(v, value) for v, value in pairs)

    return piece

  def _decoded(self, part: jaxprs.Slice) -> Piece:
    """A slice whose values are given as states carry them."""

    def piece(*values: Any) -> graph_lib.Arrays:
      pairs = zip(part.sources, values, strict=True)
      return part(*(self._decode(v, value) for v, value in pairs))

    return piece

  def _encode(self, name: Any, value: Any) -> Any:
    if self._has_samples(name):
      return batch_axis.encode(self.batch.layouts[name], self.batch.size, value)
    return batch_axis.as_real(value)

  def _decode(self, name: jaxprs.Var, value: Any) -> Any:
    dtype = jaxprs.abstract(name).dtype
    if self._has_samples(name):
      return batch_axis.decode(self.batch.layouts[name], dtype, value)
    return batch_axis.as_dtype(value, dtype)

  def _has_samples(self, name: Any) -> bool:
    return jaxprs.is_variable(name) and self.batch.has_samples(name)

  def _shapes(self, values: Sequence[jaxprs.Var]) -> graph_lib.Shapes:
    """Shapes of values as states carry them."""
    return tuple(map(self._shape, values))

  def _shape(self, value: jaxprs.Var) -> jax.ShapeDtypeStruct:
    shape = jaxprs.abstract(value)
    if self._has_samples(value):
      found = self.batch.layouts[value]
      return batch_axis.encoded(found, self.batch.size, shape.dtype)
    return batch_axis.real_shape(jax.ShapeDtypeStruct(shape.shape, shape.dtype))

  def _check_known(
    self, entries: Sequence[jaxprs.Var], cut: cuts_lib.Cut
  ) -> None:
    """Raises ``BatchAxisError`` where it cannot be told which sample is where.

    A value of which that is not known may be of one sample or of all.
    """
    for value in entries:
      unknown = self.batch.unknown(value)
      if unknown is not None:
        raise errors.BatchAxisError(
          f'What {_name(cut, self.paths)!r} reads is made by {unknown!r}, an '
          f'operation that does not say where the samples are in its result: '
          f'expected one of the operations of jax.numpy and jax.lax. Compute '
          f'that part before, and give it as an input.'
        )

  def _draws(
    self, known: Sequence[jaxprs.Var], wanted: Sequence[jaxprs.Var]
  ) -> bool:
    """Whether what leads from one to the other reads a random key."""
    needed = self.program.slice(known, wanted).needed
    keys = self.program.inputs[len(self.program.inputs) - len(self.keys) :]
    return any(key in needed for key in keys)

  def _entangled(self, draws: bool, part: jaxprs.Slice) -> tuple[str, ...]:
    """What in a slice, which may draw numbers, no sample has by itself."""
    made = (v for e in part.equations for v in e.outvars)
    mixes = any(v in self.batch.mixing for v in made)
    return ('random',) * draws + ('mixing',) * mixes

  def _made_in(self, span: range) -> tuple[int, ...]:
    """Which of the changed collections these equations compute.

    What no equation computes belongs to equation -1.
    """
    makers = [
      self.flow.made_by.get(v, -1) if jaxprs.is_variable(v) else -1
      for v in self.changed
    ]
    return tuple(i for i, maker in enumerate(makers) if maker in span)

  def _of_all(self, live: Sequence[jaxprs.Var], wanted: Sequence[Any]) -> Piece:
    """A map from live values and all parameters, ``(c, v, fixed)``."""
    part = self.program.slice((*live, *self.program.inputs), wanted)
    run = self._decoded(part)
    return lambda c, v, fixed: run(*c, *fixed.aux, *v, *fixed.leaves)

  def finish(
    self, state: tuple[jaxprs.Var, ...], aux: tuple[jaxprs.Var, ...]
  ) -> Piece:
    """The map from the last state (and all parameters) to the outputs."""
    return self._of_all((*state, *aux), self.program.outputs)


def _within(part: Piece) -> Piece:
  """A piece of a stage as a function of ``(c, u, v, fixed)``."""
  return lambda c, u, v, fixed: part(*c, *fixed.aux, *u, *v, *fixed.leaves)


def _affine(enter: Piece, body: Piece, leave: Piece) -> tuple[Piece, ...]:
  """Stage functions when the layer is a part of the stage."""
  return (
    lambda c, v, fixed: enter(*c, *fixed.aux, *v, *fixed.leaves),
    lambda x, u, v, fixed: body(*x, *u),
    lambda c, h, v, fixed: leave(*c, *fixed.aux, *h, *v, *fixed.leaves),
  )


def _whole(whole: Piece) -> tuple[Piece, ...]:
  """Stage functions when the layer is the whole stage."""
  return (
    lambda c, v, fixed: c,
    lambda x, u, v, fixed: whole(*x, *fixed.aux, *u, *v, *fixed.leaves),
    lambda c, h, v, fixed: h,
  )


def _name(cut: cuts_lib.Cut, paths: tuple[str, ...]) -> str:
  name, _ = cut.owner
  return name or paths[cut.control[0]] or '(root)'
