"""KFAC beside that of kfac-jax: the same factors, and what a step costs.

::

    pip install '.[experiments]' kfac-jax==0.0.8 jax==0.8.1 jaxlib==0.8.1
    python -m experiments.studies.costs.kfac_jax --every=10

kfac-jax is no dependency: it takes an environment of its own, and its release
0.0.8 does not run with JAX 0.10. On the network of ``costs.benchmark``, one
batch: factors renewed at every step, inverses every ``--every`` steps. Both
keep the diagonal alone of the linear layer's 6,273 inputs, unless ``--whole``.

Prints how far factors differ, with their scales matched: kfac-jax has the
cotangents of the mean loss, ``1/B`` of ours, and means over positions where
``B = E[h hᵀ]`` has sums. Then the seconds to the first step, and the medians of
later steps, which take turns: those that renew inverses and those that do not.
"""

from __future__ import annotations

import importlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gtddp_jax as gt
from experiments import refusals
from experiments.report import tables
from experiments.runs import cli, flags
from experiments.studies.costs import timing

_BATCH, _RATE, _DAMPING, _DECAY = 128, 1e-3, 0.03, 0.95


class Peer(NamedTuple):
  """One implementation."""

  title: str  # for the table
  start: Callable[[Any], Any]  # returns the state before the first step
  # ``(params, state) -> (params, state)``
  step: Callable[[Any, Any], tuple[Any, Any]]


def ours(problem: timing.Problem, every: int, whole: bool) -> Peer:
  """Returns ``gt.kfac`` without feedback; tracing is in its start."""
  made: dict[str, Any] = {}
  network, _, batch = problem

  def start(params: Any) -> Any:
    graph = gt.trace(network.apply, params, batch[0])
    leaves = jax.tree.leaves(params)
    # Rows of a kernel as a matrix, with one for the bias.
    rows = [leaf.size // leaf.shape[-1] + 1 for leaf in leaves]
    size = max(rows) if whole else 4096
    renewals = gt.Statistics(
      decay=_DECAY, every=1, basis_every=every, largest=size
    )
    base = gt.kfac(_RATE, _DAMPING, statistics=renewals)
    loss = gt.losses.softmax_cross_entropy
    tx = gt.gt_ddp(graph, loss, base, feedback=False)

    made['step'] = jax.jit(timing.gt_ddp_step(tx))
    return tx.init(params)

  return Peer(
    'gtddp_jax', start, lambda p, state: made['step'](p, state, batch)
  )


def theirs(problem: timing.Problem, every: int, whole: bool) -> Peer:
  """Returns kfac-jax's optimizer with the empirical Fisher matrix."""
  network, _, batch = problem
  kfac_jax = importlib.import_module('kfac_jax')

  def loss(params: Any, batch: Any) -> jax.Array:
    logits = network.apply(params, batch[0])
    kfac_jax.register_softmax_cross_entropy_loss(logits, batch[1])
    return jnp.mean(gt.losses.softmax_cross_entropy(logits, batch[1]))

  blocks = None if whole else {'dense': kfac_jax.DenseDiagonal}
  optimizer = kfac_jax.Optimizer(
    jax.value_and_grad(loss),
    l2_reg=0.0,
    learning_rate_schedule=lambda *_, **__: _RATE,
    momentum_schedule=lambda *_, **__: 0.0,
    initial_damping=_DAMPING,
    estimation_mode='fisher_empirical',
    curvature_ema=_DECAY,
    inverse_update_period=every,
    num_burnin_steps=0,
    layer_tag_to_block_ctor=blocks,
  )
  key = jax.random.key(2)

  def start(params: Any) -> Any:
    return optimizer.init(params, key, batch)

  def step(params: Any, state: Any) -> tuple[Any, Any]:
    after = optimizer.step(params, state, key, batch=batch, damping=_DAMPING)
    return after[0], after[1]

  return Peer('kfac-jax', start, step)


def plain(problem: timing.Problem) -> Peer:
  """Returns SGD in plain optax."""
  tx = optax.sgd(_RATE)
  step = jax.jit(problem.plain_step(tx))
  return Peer('plain SGD', tx.init, lambda p, s: step(p, s, problem.batch))


def measure(
  peers: Sequence[Peer], params: Any, every: int
) -> tuple[list[list[float]], list[Any]]:
  """Seconds of each peer's steps, the first with its compilation.

  And the states after the first step.
  """
  seconds: list[list[float]] = []
  states, first = [], []
  for peer in peers:
    own = jax.tree.map(jnp.copy, params)  # kfac-jax donates its arguments
    begin = time.perf_counter()
    state = jax.block_until_ready(peer.step(own, peer.start(own)))
    seconds.append([time.perf_counter() - begin])
    first.append(jax.tree.map(jnp.copy, state[1]))
    states.append(state)
  for _ in range(2 * every):
    for place, peer in enumerate(peers):
      begin = time.perf_counter()
      states[place] = jax.block_until_ready(peer.step(*states[place]))
      seconds[place].append(time.perf_counter() - begin)
  return seconds, first


def differences(own: Any, other: Any) -> dict[str, float]:
  """How far the factors of the convolutions are apart after one step.

  The largest difference of any entry of ``A`` and ``B``, over the largest entry
  of that factor, both factors scaled to the same trace.
  """
  blocks = [b for b in own.base.blocks if b.a.ndim == 2]
  pairs = [
    [np.asarray(factor.value) for factor in block.factors]
    for block in other.estimator_state.blocks_states
    if hasattr(block, 'factors') and len(block.factors) == 2
  ]
  found = {'A': 0.0, 'B': 0.0}
  for block in blocks:
    a, b = np.asarray(block.a), np.asarray(block.b)
    # Their order is another; players of one shape differ in their numbers.
    same = [p for p in pairs if p[0].shape == a.shape and p[1].shape == b.shape]
    errors = [(_apart(a, p[0]), _apart(b, p[1])) for p in same]
    best = min(errors, key=max)
    found = {'A': max(found['A'], best[0]), 'B': max(found['B'], best[1])}
  return found


def _apart(one: np.ndarray, other: np.ndarray) -> float:
  scaled = other * (np.trace(one) / np.trace(other))
  return float(np.abs(one - scaled).max() / np.abs(one).max())


def columns(
  peers: Sequence[Peer], seconds: Sequence[Sequence[float]], every: int
) -> list[tables.Column]:
  """The table; a step renews inverses where its number is a multiple."""
  renewing = [[t[every], t[2 * every]] for t in seconds]
  # Before the first period is over, ours renews at steps 1, 2, 4, ... too.
  between = [
    [t for n, t in enumerate(times) if n > every and n % every]
    for times in seconds
  ]

  rows = []
  for peer, times, slow, fast in zip(
    peers, seconds, renewing, between, strict=True
  ):
    usual, most = statistics.median(fast), statistics.median(slow)
    mean = ((every - 1) * usual + most) / every
    rows.append((peer.title, times[0], 1e3 * usual, 1e3 * most, 1e3 * mean))
  return tables.columns(
    rows,
    ('', '', lambda row: row[0]),
    ('first step', 's', lambda row: tables.number(row[1], '.1f')),
    ('step', 'ms', lambda row: tables.number(row[2], '.1f')),
    ('renewing', 'ms', lambda row: tables.number(row[3], '.0f')),
    ('mean', 'ms', lambda row: tables.number(row[4], '.1f')),
  )


def main(argv: Sequence[str]) -> None:
  """Prints how far the factors differ, and the table."""
  parser = flags.Flags(__doc__)
  parser.value('every', 'steps between inverses, from 2', 10, int)
  parser.switch('whole', 'decompose the 6,273 inputs of the linear layer, too')
  with cli.refusing():
    values = parser.read(argv)
    if values.every < 2:
      raise refusals.ConfigError(
        '--every', 'an integer from 2', values.every, 'raise it'
      )
  every, whole = values.every, values.whole
  made = timing.residual(_BATCH)
  peers = [plain(made), ours(made, every, whole), theirs(made, every, whole)]
  seconds, states = measure(peers, made.params, every)
  for name, error in differences(*states[1:]).items():
    print(f'{name}: factors of convolutions differ by {error:.1e} at most')
  print(tables.markdown(columns(peers, seconds, every), ''))


if __name__ == '__main__':
  main(sys.argv)
