"""Networks with Kronecker curvature, and a step of both sides."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import oracle_layers as layers
from oracle_games import Game
from oracle_recursion import (
  Base,
  Chain,
  Decision,
  linearise,
  network,
  solve,
  solve_coupled,
)

import gtddp_jax as gt

Array = np.ndarray
RATE = 0.05


def squared(output: jax.Array, target: jax.Array) -> jax.Array:
  return 0.5 * jnp.sum((output - target) ** 2)


def cross_entropy(output: jax.Array, target: jax.Array) -> jax.Array:
  return jax.scipy.special.logsumexp(output) - output[target]


LOSSES = {
  squared: gt.losses.squared_error,
  cross_entropy: gt.losses.softmax_cross_entropy,
}


def draw(*shape: int, seed: int = 0) -> jax.Array:
  return jnp.asarray(0.7 * np.random.default_rng(seed).standard_normal(shape))


def parameters(
  shapes: dict[str, tuple[int, ...]], without_bias: Sequence[str] = ()
) -> Any:
  """Leaves w, and b but for the layers named."""
  return {
    name: {'w': draw(*shape, seed=10 + i)}
    | ({} if name in without_bias else {'b': draw(shape[-1], seed=50 + i)})
    for i, (name, shape) in enumerate(shapes.items())
  }


class Case(NamedTuple):
  """A network as a chain of decisions, with data.

  Attributes:
    chain: in program order, one player a decision.
    params: {name: {'w', 'b'}}.
    inputs, targets: a batch; `batch(t)` is that of step t.
    phi: the loss of one sample, one of `LOSSES`.
    joint: the chain of cooperation, with several players a decision.
    coincide: whether the players of the joint decision share all.
  """

  chain: Chain
  params: Any
  inputs: jax.Array
  targets: jax.Array
  phi: Callable = squared
  joint: Chain = ()
  coincide: bool = False

  def batch(self, t: int) -> tuple[jax.Array, jax.Array]:
    """Others of the same shape in every step."""
    x = self.inputs + draw(*self.inputs.shape, seed=100 + t)
    if self.phi is squared:
      return x, self.targets + draw(*self.targets.shape, seed=200 + t)
    return x, jnp.roll(self.targets, t)

  def function(self) -> Callable:
    return layers.as_function(network(self.chain))

  def trace(self) -> gt.LayerGraph:
    return gt.trace(self.function(), self.params, self.inputs)

  def data(
    self, params: Any = None, batch: Any = None
  ) -> dict[str, layers.LayerData]:
    x, y = batch or (self.inputs, self.targets)
    return layers.layer_data(
      network(self.chain), params or self.params, x, y, self.phi
    )


def mlp(
  act: Callable,
  widths: Sequence[int],
  x: jax.Array,
  y: jax.Array,
  phi: Callable = squared,
  bias: bool = True,
  end: Callable = lambda h: h,
) -> Case:
  """A chain l0, l1, ... with `act` between, and `end` of its outputs."""
  names = [f'l{i}' for i in range(len(widths) - 1)]
  shapes = {n: (widths[i], widths[i + 1]) for i, n in enumerate(names)}

  def step(name: str) -> Callable:
    last = end if name == names[-1] else act
    return lambda h, layer: last(layer(name, h))

  chain = tuple(Decision((name,), step(name)) for name in names)
  params = parameters(shapes, () if bias else names)
  return Case(chain, params, x, y, phi)


def stepper(tx: Any, **more: Any) -> Callable[..., Any]:
  """A compiled update `(state, params, batch, **kwargs)`."""
  return jax.jit(
    lambda state, params, batch, **given: tx.update(
      given.pop('grads', None), state, params, batch=batch, **given, **more
    )
  )


def matrices(updates: Any) -> dict[str, Array]:
  """Updates by player, c x a."""
  return {name: layers.matrix_of(leaves) for name, leaves in updates.items()}


def assert_close(
  actual: dict[str, Array], expected: dict[str, Array], tolerance: float
) -> None:
  """Player by player, relative to the player's largest number."""
  assert actual.keys() == expected.keys()
  for name, step in expected.items():
    np.testing.assert_allclose(
      actual[name],
      step,
      rtol=0,
      atol=tolerance * np.max(np.abs(step)),
      err_msg=name,
    )


def bases_of(state: Any) -> list[Any]:
  """The eigenvectors of each decision, one pair a frame, as the oracle takes
  them: where an eigenvalue is repeated they are not unique."""

  def square(vectors: jax.Array) -> Array:
    return np.eye(len(vectors)) if vectors.ndim == 1 else np.asarray(vectors)

  return [
    [(square(f.into.vectors), square(f.out.vectors)) for f in block.frames]
    for block in state.base.blocks
  ]


class Rival:
  """The oracle of `gt_ddp` over one case."""

  def __init__(
    self,
    case: Case,
    kind: str,
    damping: float,
    *,
    rate: float = RATE,
    cooperation: str = 'none',
    terminal: str = 'gradient',
    value: str = 'frozen',
    feedback: bool = True,
    momentum: float = 0.0,
    source: str = 'slope',
    **statistics: Any,
  ):
    self.chain = case.chain if cooperation == 'none' else case.joint
    self.case, self.value, self.feedback = case, value, feedback
    self.terminal = terminal
    games = [
      Game(
        cooperation if len(d.players) > 1 else 'none',
        [layers.matrix_of(case.params[p]).shape for p in d.players],
        kind,
        joint_samples=False,
        coincide=case.coincide and len(d.players) > 1,
        damping=damping,
        **statistics,
      )
      for d in self.chain
    ]
    self.base = Base(games, rate, momentum, source)

  def step(
    self, params: Any, batch: Any, bases: Any = None
  ) -> tuple[dict[str, Array], float]:
    """Updates by player, and the smallest factor of the sweep."""
    x, y = batch
    stages, outputs = linearise(self.chain, params, x)
    end = oracle.terminal_value(outputs, y, self.case.phi, self.terminal)
    if self.value == 'coupled' and self.feedback:
      return solve_coupled(stages, end, self.base, bases)
    return solve(stages, end, self.base, bases, self.value, self.feedback)


def assert_statistics(block: Any, game: Game, tolerance: float) -> None:
  """A, B and s of a decision."""
  alone = len(game.players) == 1
  whole = game.players[0] if alone else game.joint
  parts = [whole] if game.cooperation == 'kronecker' else game.players
  pairs = [(block.a, whole.A), (block.b, whole.B)]
  if parts[0].kind == 'ekfac':
    pairs += [(f.moment, p.s) for f, p in zip(block.frames, parts, strict=True)]
  for found, expected in pairs:
    if found.ndim == 1:
      found = np.diag(found)
    scale = np.max(np.abs(expected))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)


@functools.cache
def graph_of(build: Callable[[], Case]) -> tuple[Case, gt.LayerGraph]:
  case = build()
  return case, case.trace()


def compare(
  build: Callable[[], Case],
  kind: str,
  cooperation: str = 'none',
  *,
  damping: float = 0.2,
  value: Any = 'frozen',
  terminal: str = 'gradient',
  feedback: bool = True,
  momentum: float | None = None,
  steps: int = 4,
  tolerance: float = 1e-10,
  **statistics: Any,
) -> None:
  """Steps of the library beside steps of the oracle, on new batches."""
  statistics = {'every': 3, 'basis_every': 4, 'decay': 0.7} | statistics
  case, graph = graph_of(build)
  base = getattr(gt, kind)(
    RATE, damping, momentum=momentum, statistics=gt.Statistics(**statistics)
  )
  tx = gt.gt_ddp(
    graph,
    LOSSES[case.phi],
    base,
    terminal,
    value,
    cooperation,
    feedback,
    trust_region=None,
  )
  rival = Rival(
    case,
    kind,
    damping,
    cooperation=cooperation,
    terminal=terminal,
    value=value if isinstance(value, str) else type(value).__name__.lower(),
    feedback=feedback,
    momentum=momentum or 0.0,
    **statistics,
  )
  step, params = stepper(tx), case.params
  state = tx.init(params)
  for t in range(steps):
    updates, state = step(state, params, case.batch(t))
    expected, smallest = rival.step(params, case.batch(t), bases_of(state))
    assert smallest > 0
    if rival.value == 'bellman' and feedback:
      found = gt.metrics(state)['smallest_factor']
      np.testing.assert_allclose(found, smallest, rtol=1e-5)
    assert_close(matrices(updates), expected, tolerance)
    for block, game in zip(state.base.blocks, rival.base.games, strict=True):
      assert_statistics(block, game, tolerance)
    params = jax.tree.map(jnp.add, params, updates)
