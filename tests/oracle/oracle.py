"""The textbook recursion with dense matrices: what the library must equal.

A network is a chain of stages `x_{t+1} = f_t(x_t, u_t)`, written by hand for
ONE sample. Everything here is a dense Jacobian, a loop over samples and an
explicit inverse; nothing is shared with the library.

  symbol    equation                                 name below
  --------  ---------------------------------------  ------------
  f_x, f_u  Jacobians of a stage at the nominal      f_x, f_u
  V_x       f_x' V_x+ + Q_ux' k                      V_x
  V_xx      f_x' V_xx+ f_x - Q_ux' Q_uu^-1 Q_ux / B  V_xx
  Q_u       mean over samples of f_u' V_x+           Q_u
  Q_ux      f_u' V_xx+ f_x, one per sample           Q_ux
  Q_uu      M / eta, M from the base optimizer       Q_uu
  k, K      -Q_uu^-1 Q_u, -Q_uu^-1 Q_ux / B          k, K
  delta u   k + sum over samples of K (xhat - x)     du

(`+` marks the next stage, `'` a transpose, `xhat` the state under the controls
already updated upstream.) A parameter that is used again later is decided at
its first use; the hand-written stages carry it along in the state from there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from oracle_bases import Base, Memory, adam, rmsprop, sgd

Array = np.ndarray
Leaves = dict[str, Array]
__all__ = [
  'Base',
  'Memory',
  'adam',
  'leaves_of',
  'linearise',
  'rmsprop',
  'sgd',
  'solve',
  'solve_coupled',
]


class Stage(NamedTuple):
  """One control and all that is parameter-free up to the next one.

  Attributes:
    control: Paths of the control's leaves, such as `('l1/w', 'l1/b')`.
    step: `(state, control) -> next state` for one sample. The state is any
      pytree, the control a dict keyed by the last word of each path.
  """

  control: tuple[str, ...]
  step: Callable[[Any, dict[str, jax.Array]], Any]


def leaves_of(tree: Any) -> Leaves:
  """Flattens a pytree of arrays to a dict from 'path/of/leaf' to array."""
  pairs = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {
    # An nnx variable is a node of its own whose one child is called value.
    jax.tree_util.keystr(path, simple=True, separator='/').removesuffix(
      '/value'
    ): np.asarray(leaf)
    for path, leaf in pairs
  }


class Linear(NamedTuple):
  """A stage linearised at the nominal trajectory, samples leading."""

  control: tuple[str, ...]
  x: Array
  u: Array
  f_x: Array
  f_u: Array
  step: Callable[[Array, Array], Array]
  split: Callable[[Array], dict[str, Array]]


@functools.cache
def _compiled(step: Callable) -> tuple[Callable, Callable]:
  """A stage's step, and the Jacobians of a batch of samples."""

  def jacobians(c: Any, u: Any) -> tuple[jax.Array, jax.Array]:
    x, join = ravel_pytree(c)
    control, split = ravel_pytree(u)
    return jax.jacrev(
      lambda x, u: ravel_pytree(step(join(x), split(u)))[0], (0, 1)
    )(x, control)

  return jax.jit(step), jax.jit(jax.vmap(jacobians, (0, None)))


def linearise(
  chain: Sequence[Stage], leaves: Leaves, start: Any
) -> tuple[list[Linear], list[Any]]:
  """Rolls the chain out; returns its stages and the outputs by sample."""
  samples = [
    jax.tree.map(lambda a, i=i: a[i], start)
    for i in range(len(jax.tree.leaves(start)[0]))
  ]
  stages = []
  for stage in chain:
    follow, jacobians = _compiled(stage.step)
    control = {path.split('/')[-1]: leaves[path] for path in stage.control}
    u, split = ravel_pytree(control)
    join = ravel_pytree(samples[0])[1]

    def step(
      x: Array,
      u: Array,
      follow: Callable = follow,
      join: Callable = join,
      split: Callable = split,
    ) -> Array:
      return np.asarray(ravel_pytree(follow(join(x), split(u)))[0])

    x = np.stack([ravel_pytree(sample)[0] for sample in samples])
    batch = jax.tree.map(lambda *a: jnp.stack(a), *samples)
    f_x, f_u = map(np.asarray, jacobians(batch, control))
    stages.append(
      Linear(stage.control, x, np.asarray(u), f_x, f_u, step, split)
    )
    samples = [follow(sample, control) for sample in samples]
  return stages, samples


class Terminal(NamedTuple):
  """Losses, V_x and V_xx of each sample at the output."""

  loss: Array
  V_x: list[Array]
  V_xx: list[Array]


def terminal_value(
  outputs: Sequence[Any], targets: Any, phi: Callable, kind: str
) -> Terminal:
  """Expands `phi(output, target)` at each sample: 'gradient' or
  'gauss_newton'."""
  loss, V_x, V_xx = [], [], []
  for i, output in enumerate(outputs):
    flat, join = ravel_pytree(output)
    target = jax.tree.map(lambda a, i=i: a[i], targets)

    def cost(
      flat: Array, join: Callable = join, target: Any = target
    ) -> jax.Array:
      return phi(join(flat), target)

    phi_x = np.asarray(jax.grad(cost)(flat))
    if kind == 'gradient':
      phi_xx = np.outer(phi_x, phi_x)
    else:
      value, vector = np.linalg.eigh(np.asarray(jax.hessian(cost)(flat)))
      phi_xx = vector @ np.diag(np.maximum(value, 0)) @ vector.T
    loss.append(np.asarray(cost(flat)))
    V_x.append(phi_x)
    V_xx.append(phi_xx)
  return Terminal(np.asarray(loss), V_x, V_xx)


class Solution(NamedTuple):
  """Updates by leaf path, the memory to pass on, and the value functions
  `V_x[t][i]`, `V_xx[t][i]` (with 'coupled' one matrix over all samples).

  `smallest_factor` is the least eigenvalue of `I - N S / B` over stages and
  samples: where it is negative the recursion leaves the realm of sense."""

  updates: Leaves
  memory: list[Memory]
  V_x: list[Any]
  V_xx: list[Any]
  smallest_factor: float = 1.0


class Backward(NamedTuple):
  """The backward sweep: per stage Q_u, Q_ux^i and (not 'frozen') Q_uu^-1."""

  gains: list[tuple[Array, list[Array], Array | None]]
  memory: list[Memory]
  V_x: list[Any]
  V_xx: list[Any]
  smallest_factor: float


def backward(
  stages: Sequence[Linear],
  terminal: Terminal,
  base: Base,
  memory: Sequence[Memory] | None = None,
  level: str = 'bellman',
  feedback: bool = True,
) -> Backward:
  """The recursion of 'frozen' or 'bellman', from the last stage back."""
  B = len(terminal.V_x)
  memory = list(memory or [Memory()] * len(stages))
  V_x, V_xx = [terminal.V_x], [terminal.V_xx]
  gains: list[Any] = []
  smallest = 1.0
  for t in reversed(range(len(stages))):
    f_x, f_u, inverse = stages[t].f_x, stages[t].f_u, None
    Q_u = sum(f_u[i].T @ V_x[0][i] for i in range(B)) / B
    Q_ux = [f_u[i].T @ V_xx[0][i] @ f_x[i] * feedback for i in range(B)]
    Q_x = [f_x[i].T @ V_x[0][i] for i in range(B)]
    Q_xx = [f_x[i].T @ V_xx[0][i] @ f_x[i] for i in range(B)]
    if level == 'bellman':
      M, memory[t] = base.curvature(memory[t], Q_u)
      Q_uu = _matrix(M) / base.rate
      inverse = np.linalg.inv(Q_uu)
      k = -inverse @ base.direction(memory[t], Q_u)[0]
      factors = [_factor(inverse, f_u[i], V_xx[0][i], B) for i in range(B)]
      # Nobody upstream reads the value function before the first stage.
      smallest = min(smallest, *(factors if t > 0 else []), 1.0)
      Q_x = [Q_x[i] + Q_ux[i].T @ k for i in range(B)]
      Q_xx = [Q_xx[i] - Q_ux[i].T @ inverse @ Q_ux[i] / B for i in range(B)]
    gains.insert(0, (Q_u, Q_ux, inverse))
    V_x.insert(0, Q_x)
    V_xx.insert(0, Q_xx)
  return Backward(gains, memory, V_x, V_xx, smallest)


def solve(
  stages: Sequence[Linear],
  terminal: Terminal,
  base: Base,
  memory: Sequence[Memory] | None = None,
  level: str = 'bellman',
  feedback: bool = True,
) -> Solution:
  """One step of 'frozen' or 'bellman': backward, then forward."""
  gains, memory, *values = backward(
    stages, terminal, base, memory, level, feedback
  )
  B = len(terminal.V_x)
  updates: Leaves = {}
  xhat = stages[0].x
  for t, stage in enumerate(stages):
    Q_u, Q_ux, inverse = gains[t]
    q = Q_u + sum(Q_ux[i] @ (xhat[i] - stage.x[i]) for i in range(B)) / B
    if inverse is None:
      M, memory[t] = base.curvature(memory[t], q)
      inverse = np.linalg.inv(_matrix(M) / base.rate)
    direction, memory[t] = base.direction(memory[t], q)
    du = -inverse @ direction
    updates |= _named(stage, du)
    xhat = np.stack([stage.step(xhat[i], stage.u + du) for i in range(B)])
  return Solution(updates, memory, *values)


def solve_coupled(
  stages: Sequence[Linear],
  terminal: Terminal,
  base: Base,
  memory: Sequence[Memory] | None = None,
  linear_rollout: bool = False,
  keep: Callable[[Array], Array] = lambda V_XX: V_XX,
) -> Solution:
  """One step on the batch-augmented state X = (x^1 ... x^B), nothing dropped:
  `Q_uu = M / eta + f_u' V_XX f_u` with the whole V_XX, or with what `keep`
  leaves of it."""
  B = len(terminal.V_x)
  memory = list(memory or [Memory()] * len(stages))
  V_X = [np.concatenate(terminal.V_x) / B]
  V_XX = [_block_diagonal(terminal.V_xx) / B]
  gains: list[Any] = []
  for t in reversed(range(len(stages))):
    f_X, f_u = _block_diagonal(stages[t].f_x), np.concatenate(stages[t].f_u)
    Q_u = f_u.T @ V_X[0]
    M, memory[t] = base.curvature(memory[t], Q_u)
    Q_uu = _matrix(M) / base.rate + f_u.T @ V_XX[0] @ f_u
    Q_uX = f_u.T @ V_XX[0] @ f_X
    k, K = -np.linalg.inv(Q_uu) @ Q_u, -np.linalg.inv(Q_uu) @ Q_uX
    gains.insert(0, (k, K, M))
    V_X.insert(0, f_X.T @ V_X[0] + Q_uX.T @ k)
    V_XX.insert(0, keep(f_X.T @ V_XX[0] @ f_X + Q_uX.T @ K))

  updates: Leaves = {}
  dX = np.zeros(stages[0].x.size)
  for t, stage in enumerate(stages):
    k, K, M = gains[t]
    # The gradient whose plain step M / eta would be this very step.
    q = -_matrix(M) @ (k + K @ dX) / base.rate
    direction, memory[t] = base.direction(memory[t], q)
    du = -base.rate * np.linalg.solve(_matrix(M), direction)
    updates |= _named(stage, du)
    if linear_rollout:
      f_X = _block_diagonal(stage.f_x)
      dX = f_X @ dX + np.concatenate(stage.f_u) @ du
    else:
      xhat = stage.x + dX.reshape(stage.x.shape)
      both = ((xhat[i], stage.x[i]) for i in range(B))
      dX = np.concatenate(
        [stage.step(a, stage.u + du) - stage.step(b, stage.u) for a, b in both]
      )
  return Solution(updates, memory, V_X, V_XX)


def _factor(inverse: Array, f_u: Array, V_xx: Array, B: int) -> float:
  root = np.linalg.cholesky(inverse)
  inner = root.T @ f_u.T @ V_xx @ f_u @ root / B
  return float(1 - np.linalg.eigvalsh(inner)[-1])


def _matrix(M: Array) -> Array:
  """A curvature, given as a matrix or as its diagonal."""
  return np.diag(M) if M.ndim == 1 else M


def _named(stage: Linear, du: Array) -> Leaves:
  """Splits a flat update by leaf path."""
  parts = stage.split(du)
  return {p: np.asarray(parts[p.split('/')[-1]]) for p in stage.control}


def _block_diagonal(blocks: Sequence[Array]) -> Array:
  """Puts matrices on the diagonal of a large one."""
  height = sum(len(block) for block in blocks)
  width = sum(block.shape[1] for block in blocks)
  whole = np.zeros((height, width))
  row = column = 0
  for block in blocks:
    end, side = row + block.shape[0], column + block.shape[1]
    whole[row:end, column:side] = block
    row, column = end, side
  return whole
