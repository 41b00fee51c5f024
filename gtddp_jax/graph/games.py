"""Games: stages whose outputs meet in one add.

Forward from each layer's output ``h``, through work that keeps every position
and feeds nothing else, to the add (of adds) where it ends::

    x_s = sigma_1(h_1) + sigma_2(h_2) + ...

Stages that end in the same add are the players of one game. None depends on
another, since each ``h`` leads to the add alone. In program order other stages
may stand between them; ``next_to_merge`` moves players down to the last one,
where they all see the latest states.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from gtddp_jax.graph import cuts as cuts_lib
from gtddp_jax.graph import layer_graph as graph_lib
from gtddp_jax.graph import layers
from gtddp_jax.graph import program as jaxprs
from gtddp_jax.graph.batch_axis import Batch

_ADDS = ('add', 'add_any')
_ELEMENTWISE = (
  'add',
  'convert_element_type',
  'custom_jvp_call',
  'erf',
  'logistic',
  'max',
  'min',
  'mul',
  'neg',
  'sub',
  'tanh',
)


class _Entrant(NamedTuple):
  """A stage that may play: where its output ends, and what tells it apart."""

  stage: int
  end: int  # the add, as an equation index
  direct: bool  # no work between output and add
  channels: tuple[int, ...]
  source: tuple[Any, ...]  # equal for stages with the same input rows


def find(
  program: jaxprs.Program,
  flow: cuts_lib.Flow,
  cuts: Sequence[cuts_lib.Cut],
  stages: Sequence[graph_lib.Stage],
  batch: Batch,
) -> list[graph_lib.Game]:
  """The games of a network.

  Args:
    program: the network.
    flow: its analysis.
    cuts: one per stage.
    stages: built from them.
    batch: where the samples are in its values.

  Returns:
    Games of at least two players, each in program order.
  """
  readers = _readers(program)
  starts = [*(c.position for c in cuts[1:]), len(program.equations)]
  tied = {i for stage in stages for i in stage.shared}
  found: dict[tuple[int, tuple[int, ...]], list[_Entrant]] = {}
  for t, (cut, end) in enumerate(zip(cuts, starts, strict=True)):
    form = stages[t].closed_form
    play = form.play if form else None
    if play is None or tied & set(cut.control):
      continue
    layer = layers.find(program, flow, cut, end, batch)
    goal = layer and _goal(program, readers, layer.h)
    if layer and goal:
      entrant = _Entrant(t, *goal, play.channels, (layer.x, play.rows))
      found.setdefault((goal[0], play.channels), []).append(entrant)
  return [_game(players) for players in found.values() if len(players) > 1]


def _game(players: Sequence[_Entrant]) -> graph_lib.Game:
  sources = [p.source for p in players]
  return graph_lib.Game(
    tuple(p.stage for p in players),
    tuple(map(sources.index, sources)),
    all(p.direct for p in players),
  )


def next_to_merge(
  program: jaxprs.Program,
  flow: cuts_lib.Flow,
  cuts: Sequence[cuts_lib.Cut],
  game: graph_lib.Game,
) -> jaxprs.Program:
  """The program with the players of a game right before the last of them."""
  *early, last = (cuts[t] for t in game.stages)
  first, end = early[0].position, last.position
  controls = {i for cut in early for i in cut.control}
  moved: list[jaxprs.Equation] = []
  kept: list[jaxprs.Equation] = []
  made: set[jaxprs.Var] = set()
  for index in range(first, end):
    equation = program.equations[index]
    depends = any(v in made for v in jaxprs.operands(equation))
    if depends or controls & set(flow.reads[index]):
      moved.append(equation)
      made.update(equation.outvars)
    else:
      kept.append(equation)
  equations = program.equations
  return dataclasses.replace(
    program,
    equations=(*equations[:first], *kept, *moved, *equations[end:]),
  )


def _readers(program: jaxprs.Program) -> dict[jaxprs.Var, list[int]]:
  """Equations that read each value; an output is read by equation -1."""
  readers: dict[jaxprs.Var, list[int]] = {}
  for index, equation in enumerate(program.equations):
    for value in set(jaxprs.operands(equation)):
      readers.setdefault(value, []).append(index)
  for value in program.outputs:
    if jaxprs.is_variable(value):
      readers.setdefault(value, []).append(-1)
  return readers


def _goal(
  program: jaxprs.Program, readers: dict[jaxprs.Var, list[int]], h: jaxprs.Var
) -> tuple[int, bool] | None:
  """The outermost add that a value ends in, and whether nothing is between."""
  value, goal, direct = h, None, True
  while True:
    then = readers.get(value, [])
    if len(then) != 1 or then[0] < 0:
      return goal
    equation = program.equations[then[0]]
    shapes = {jaxprs.abstract(v).shape for v in equation.outvars}
    if shapes != {jaxprs.abstract(value).shape} or len(equation.outvars) != 1:
      return goal
    operands = jaxprs.operands(equation)
    both = len(operands) == 2
    if both and equation.primitive.name in _ADDS:
      direct = direct and operands[0] is not operands[1]
      goal = then[0], direct
    elif goal or both or equation.primitive.name not in _ELEMENTWISE:
      return goal
    else:
      direct = False
    value = equation.outvars[0]
