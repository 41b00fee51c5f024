"""The dense recursion of `oracle` over a Kronecker base.

The symbols are those of `oracle`; what is new is that `Q_uu^-1 = rate M^-1` is
a dense matrix from `oracle_kronecker.Game`, observed at stage t from the value
function there, and that the players of a game are one control at one cut.

A network is a chain of decisions written once: it is the function that the
library traces (`as_function(network(chain))`) and what is linearised here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracle
from jax.flatten_util import ravel_pytree
from oracle import Terminal
from oracle_games import Game
from oracle_layers import applied, rows_of, unvec

Array = np.ndarray


class Decision(NamedTuple):
  """One or several players, and all that is parameter-free up to the next.

  `step(state, layer)` calls `layer(name, x, ...)` once for each player.
  """

  players: tuple[str, ...]
  step: Callable[[Any, Callable], Any]


Chain = tuple[Decision, ...]


@functools.cache
def network(chain: Chain) -> Callable:
  """`net(layer, inputs)`, as `oracle_layers` has it."""

  def net(layer: Callable, state: Any) -> Any:
    for decision in chain:
      state = decision.step(state, layer)
    return state

  return net


class Linear(NamedTuple):
  """A decision linearised at the nominal trajectory, samples leading.

  Attributes:
    players: names, with their shapes (c, a) in `shapes`.
    x: states, [B, n].
    u: the vec(W_p) end to end.
    rows: input rows of each player, [B, T, a].
    f_x, f_u: Jacobians of the next state.
    f_h: Jacobians in each player's output, [B, n', T c].
    step: (state, u) -> next state of one sample, flat.
  """

  players: tuple[str, ...]
  shapes: list[tuple[int, int]]
  x: Array
  u: Array
  rows: list[Array]
  f_x: Array
  f_u: Array
  f_h: list[Array]
  step: Callable[[Array, Array], Array]


def _split(u: Any, leaves: dict[str, Any]) -> dict[str, Any]:
  """vec(W) as the leaves w and b: the columns of W are the rows of w."""
  size = leaves['w'].size
  parts = {'w': u[:size].reshape(leaves['w'].shape)}
  return parts | ({'b': u[size:]} if 'b' in leaves else {})


def _parts(
  u: Any, given: dict[str, Any], players: Sequence[str]
) -> dict[str, Any]:
  """The leaves of all players in one vector, in the order of the players."""
  found, start = {}, 0
  for name in players:
    leaves = given[name]
    end = start + sum(leaf.size for leaf in leaves.values())
    found[name] = _split(u[start:end], leaves)
    start = end
  return found


@functools.cache
def _compiled(decision: Decision) -> tuple[Callable, Callable, dict[str, Any]]:
  """A decision's step, its Jacobians for a batch, and how layers are called."""
  how: dict[str, Any] = {}

  def follow(
    c: Any, given: dict[str, Any], u: Any, moved: Any = None
  ) -> tuple[Any, dict[str, Any]]:
    leaves, seen = _parts(u, given, decision.players), {}

    def layer(
      name: str,
      x: jax.Array,
      strides: Any = None,
      padding: Any = 'SAME',
      dilation: Any = None,
    ) -> jax.Array:
      h = applied(leaves[name], x, strides, padding, dilation)
      how[name] = strides, padding, dilation
      seen[name] = x, h
      return h if moved is None else h + moved[name]

    one = jax.tree.map(lambda a: a[None], c)
    after = decision.step(one, layer)
    return jax.tree.map(lambda a: a[0], after), seen

  def jacobians(c: Any, given: dict[str, Any], u: Any) -> Any:
    x, join = ravel_pytree(c)
    _, seen = follow(c, given, u)
    zeros = {name: jnp.zeros_like(h) for name, (_, h) in seen.items()}

    def after(x: Any, u: Any, moved: Any) -> Any:
      return ravel_pytree(follow(join(x), given, u, moved)[0])[0]

    inputs = {name: entry[0][0] for name, entry in seen.items()}
    return jax.jacrev(after, (0, 1, 2))(x, u, zeros), inputs

  step = jax.jit(lambda c, given, u: follow(c, given, u)[0])
  return step, jax.jit(jax.vmap(jacobians, (0, None, None))), how


def linearise(
  chain: Chain, params: Any, inputs: Any
) -> tuple[list[Linear], list[Any]]:
  """Rolls the chain out; returns its decisions and the outputs by sample."""
  stages = []
  state = jax.tree.map(jnp.asarray, inputs)
  for decision in chain:
    step, jacobians, how = _compiled(decision)
    given = {name: params[name] for name in decision.players}
    u = np.concatenate(
      [
        leaves[k].ravel()
        for leaves in given.values()
        for k in sorted(leaves)[::-1]
      ]
    )
    (f_x, f_u, f_h), layer_inputs = jacobians(state, given, u)
    one = jax.tree.map(lambda a: a[0], state)
    join = ravel_pytree(one)[1]
    x = np.stack(
      [
        ravel_pytree(jax.tree.map(lambda a, i=i: a[i], state))[0]
        for i in range(len(f_x))
      ]
    )

    def flat_step(
      x: Array,
      u: Array,
      step: Callable = step,
      join: Callable = join,
      given: Any = given,
    ) -> Array:
      return np.asarray(ravel_pytree(step(join(x), given, u))[0])

    names = decision.players
    rows = [
      rows_of(params[n], np.asarray(layer_inputs[n]), how[n]) for n in names
    ]
    shapes = [
      (params[n]['w'].shape[-1], row.shape[2])
      for n, row in zip(names, rows, strict=True)
    ]
    f_hs = [np.asarray(f_h[n]).reshape(*f_x.shape[:2], -1) for n in names]
    stages.append(
      Linear(
        names, shapes, x, u, rows, np.asarray(f_x), np.asarray(f_u), f_hs,
        flat_step,
      )
    )  # fmt: skip
    state = jax.vmap(step, (0, None, None))(state, given, u)
  outputs = [jax.tree.map(lambda a, i=i: a[i], state) for i in range(len(f_x))]
  return stages, outputs


def cotangents(stage: Linear, V: Sequence[Array]) -> list[Array]:
  """Of each player, [B, R, T, c]; `V` holds [n', R] a sample."""
  return [
    np.stack(
      [(f_h[i].T @ V[i]).T.reshape(V[i].shape[1], -1, c) for i in range(len(V))]
    )
    for f_h, (c, _) in zip(stage.f_h, stage.shapes, strict=True)
  ]


class Base:
  """A Kronecker base over a chain: one game a decision, and a momentum."""

  def __init__(
    self,
    games: Sequence[Game],
    rate: float,
    momentum: float = 0.0,
    source: str = 'slope',
  ):
    self.games, self.rate, self.momentum = games, rate, momentum
    self.source, self.count = source, 0
    self.trace: list[Any] = [0.0] * len(games)

  def observe(
    self, n: int, stage: Linear, V: Sequence[Array], bases: Any
  ) -> Array:
    """M^-1 of decision n, from `V` [n', R] of each sample there."""
    hs = cotangents(stage, V)
    self.games[n].observe(self.count, stage.rows, hs, bases)
    return self.games[n].inverse()

  def step(self, n: int, v: Array, keep: bool = False) -> Array:
    """The update along v = M^-1 q."""
    direction = v + self.momentum * self.trace[n]
    if keep:
      self.trace[n] = direction
    return -self.rate * direction


def _roots(V_xx: Sequence[Array]) -> list[Array]:
  found = []
  for matrix in V_xx:
    value, vector = np.linalg.eigh(matrix)
    found.append(vector * np.sqrt(np.maximum(value, 0)))
  return found


def solve(
  stages: Sequence[Linear],
  terminal: Terminal,
  base: Base,
  bases: Sequence[Any] | None = None,
  level: str = 'frozen',
  feedback: bool = True,
) -> tuple[dict[str, Any], float]:
  """One step of 'frozen' or 'bellman': updates by player, and the least
  eigenvalue of `I - N S / B` in the sweep."""
  B = len(terminal.V_x)
  V_x, V_xx = terminal.V_x, terminal.V_xx
  columns = _roots(V_xx)
  gains: list[Any] = []
  smallest = 1.0
  for n in reversed(range(len(stages))):
    f_x, f_u = stages[n].f_x, stages[n].f_u
    V = columns if base.source == 'curvature' else [v[:, None] for v in V_x]
    inverse = base.observe(n, stages[n], V, bases and bases[n])
    Q_u = sum(f_u[i].T @ V_x[i] for i in range(B)) / B
    Q_ux = [f_u[i].T @ V_xx[i] @ f_x[i] * feedback for i in range(B)]
    if level == 'bellman' and feedback and n > 0:
      Q_uu_inverse = base.rate * inverse
      smallest = min(
        smallest, *(_factor(Q_uu_inverse, f_u[i], V_xx[i], B) for i in range(B))
      )
      k = base.step(n, inverse @ Q_u)
      V_x = [f_x[i].T @ V_x[i] + Q_ux[i].T @ k for i in range(B)]
      V_xx = [
        f_x[i].T @ V_xx[i] @ f_x[i] - Q_ux[i].T @ Q_uu_inverse @ Q_ux[i] / B
        for i in range(B)
      ]
    else:
      V_x = [f_x[i].T @ V_x[i] for i in range(B)]
      V_xx = [f_x[i].T @ V_xx[i] @ f_x[i] for i in range(B)]
    columns = [f_x[i].T @ columns[i] for i in range(B)]
    gains.insert(0, (Q_u, Q_ux, inverse))
  updates: dict[str, Any] = {}
  xhat = stages[0].x
  for n, stage in enumerate(stages):
    Q_u, Q_ux, inverse = gains[n]
    q = Q_u
    if feedback:
      q = q + sum(Q_ux[i] @ (xhat[i] - stage.x[i]) for i in range(B)) / B
    du = base.step(n, inverse @ q, keep=True)
    updates |= named(stage, du)
    if feedback:
      xhat = np.stack([stage.step(xhat[i], stage.u + du) for i in range(B)])
  base.count += 1
  return updates, smallest


def solve_coupled(
  stages: Sequence[Linear],
  terminal: Terminal,
  base: Base,
  bases: Sequence[Any] | None = None,
) -> tuple[dict[str, Any], float]:
  """One step on the batch-augmented state, as `oracle.solve_coupled`."""
  B = len(terminal.V_x)
  V_X = np.concatenate(terminal.V_x) / B
  V_XX = oracle._block_diagonal(terminal.V_xx) / B
  columns = _roots(terminal.V_xx)
  gains: list[Any] = []
  for n in reversed(range(len(stages))):
    f_X = oracle._block_diagonal(stages[n].f_x)
    f_u = np.concatenate(stages[n].f_u)
    V = columns
    if base.source == 'slope':
      V = [B * v[:, None] for v in np.split(V_X, B)]
    inverse = base.observe(n, stages[n], V, bases and bases[n])
    M = np.linalg.inv(inverse)
    Q_uu = M / base.rate + f_u.T @ V_XX @ f_u
    Q_u, Q_uX = f_u.T @ V_X, f_u.T @ V_XX @ f_X
    k, K = -np.linalg.solve(Q_uu, Q_u), -np.linalg.solve(Q_uu, Q_uX)
    gains.insert(0, (k, K))
    V_X = f_X.T @ V_X + Q_uX.T @ k
    V_XX = f_X.T @ V_XX @ f_X + Q_uX.T @ K
    columns = [stages[n].f_x[i].T @ column for i, column in enumerate(columns)]
  updates: dict[str, Any] = {}
  dX = np.zeros(stages[0].x.size)
  for n, stage in enumerate(stages):
    k, K = gains[n]
    # The plain step M / eta along q would be this very step.
    du = base.step(n, -(k + K @ dX) / base.rate, keep=True)
    updates |= named(stage, du)
    xhat = stage.x + dX.reshape(stage.x.shape)
    both = zip(xhat, stage.x, strict=True)
    dX = np.concatenate(
      [stage.step(a, stage.u + du) - stage.step(b, stage.u) for a, b in both]
    )
  base.count += 1
  return updates, 1.0


def named(stage: Linear, du: Array) -> dict[str, Any]:
  """An update by player, c x a."""
  ends = np.cumsum([c * a for c, a in stage.shapes])[:-1]
  return {
    name: unvec(part, shape)
    for name, part, shape in zip(
      stage.players, np.split(du, ends), stage.shapes, strict=True
    )
  }


def _factor(inverse: Array, f_u: Array, V_xx: Array, B: int) -> float:
  N = _roots([V_xx])[0].T @ f_u @ inverse @ f_u.T @ _roots([V_xx])[0]
  return float(1 - np.linalg.eigvalsh(N / B)[-1])
