"""Building: the pieces of a program between two cuts become a stage.

All of a stage's functions are slices: from the state before it to the layer's
input, from there to the layer's output, from there to the state after it, and
to whatever else is computed on the way (values without derivative, changed
collections).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from gtddp_jax.graph import batch_axis as batches
from gtddp_jax.graph import cuts as cuts_lib
from gtddp_jax.graph import layer_graph as graph_lib
from gtddp_jax.graph import layers
from gtddp_jax.graph import program as jaxprs


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
  batch: batches.Batch
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
    scales = self.batch.leading
    layer = layers.find(self.program, self.flow, cut, span.stop, scales)
    pieces = None
    body = whole = self.program.slice(known, state)
    if layer:
      enter = self.program.slice((*live, *rest), layer.x)
      leave = self.program.slice((*live, layer.h, *rest), state)
      if not enter.missing and not leave.missing:
        body = self.program.slice((*layer.x, *own), (layer.h,))
        pieces = _affine(enter, body, leave)
    if not layer or not pieces:
      layer = None
      pieces = _whole(whole)
    draws = self._draws(known, (*state, *aux))
    collected = self._made_in(span)
    return graph_lib.Stage(
      name=_name(cut, self.paths),
      kind=layer.kind if layer else 'generic',
      control=cut.control,
      kernel=layer.kernel if layer else None,
      bias=layer.bias if layer else None,
      shared=shared,
      state=_shapes(cut.state),
      spread=tuple(scales[v] for v in (layer.x if layer else cut.state)),
      aux=_shapes(cut.aux),
      enter=pieces[0],
      layer=pieces[1],
      leave=pieces[2],
      carry=_within(self.program.slice(known, aux)),
      collected=collected,
      # Changed collections may read what no state needs.
      collect=self._of_all(live, [self.changed[i] for i in collected]),
      entangled=self._entangled(draws, whole),
      # A layer is one equation of inputs and control: it draws nothing.
      entangled_layer=self._entangled(draws and not layer, body),
      equation=layer.equation if layer else {},
      kronecker=layer is not None and layers.supports(layer),
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

  def _of_all(
    self, live: Sequence[jaxprs.Var], wanted: Sequence[Any]
  ) -> Callable[..., graph_lib.Arrays]:
    """A map from live values and all parameters, ``(c, v, fixed)``."""
    part = self.program.slice((*live, *self.program.inputs), wanted)
    return lambda c, v, fixed: part(*c, *fixed.aux, *v, *fixed.leaves)

  def finish(
    self, state: tuple[jaxprs.Var, ...], aux: tuple[jaxprs.Var, ...]
  ) -> Callable[..., graph_lib.Arrays]:
    """The map from the last state (and all parameters) to the outputs."""
    return self._of_all((*state, *aux), self.program.outputs)


def _within(part: jaxprs.Slice) -> Callable[..., graph_lib.Arrays]:
  """A slice of a stage as a function of ``(c, u, v, fixed)``."""
  return lambda c, u, v, fixed: part(*c, *fixed.aux, *u, *v, *fixed.leaves)


def _affine(
  enter: jaxprs.Slice, body: jaxprs.Slice, leave: jaxprs.Slice
) -> tuple[Callable[..., graph_lib.Arrays], ...]:
  """Stage functions when the layer is a part of the stage."""
  return (
    lambda c, v, fixed: enter(*c, *fixed.aux, *v, *fixed.leaves),
    lambda x, u, v, fixed: body(*x, *u),
    lambda c, h, v, fixed: leave(*c, *fixed.aux, *h, *v, *fixed.leaves),
  )


def _whole(whole: jaxprs.Slice) -> tuple[Callable[..., graph_lib.Arrays], ...]:
  """Stage functions when the layer is the whole stage."""
  return (
    lambda c, v, fixed: c,
    lambda x, u, v, fixed: whole(*x, *fixed.aux, *u, *v, *fixed.leaves),
    lambda c, h, v, fixed: h,
  )


def _shapes(values: tuple[jaxprs.Var, ...]) -> graph_lib.Shapes:
  return tuple(map(jaxprs.abstract, values))


def _name(cut: cuts_lib.Cut, paths: tuple[str, ...]) -> str:
  name, _ = cut.owner
  return name or paths[cut.control[0]] or '(root)'
