"""What a step costs on a network of one's own: plain optax and GT-DDP in turn.

Put your network, batch and loss in place of those of the first paragraph.
"""

import functools
import statistics
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import optax

import gtddp_jax as gt
from experiments.studies.costs import timing

network = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(64), nn.Dense(10)])
inputs = jax.random.normal(jax.random.key(0), (32, 64))
targets = jax.numpy.arange(32) % 10
params: Any = network.init(jax.random.key(1), inputs)
loss, base, plain = (
  gt.losses.softmax_cross_entropy,
  gt.adam(1e-3),
  optax.adam(1e-3),
)

graph = gt.trace(network.apply, params, inputs)
variants: dict[str, Any] = {
  value: gt.gt_ddp(graph, loss, base, value=value, trust_region=0.3)
  for value in ('frozen', 'bellman', 'coupled')
}


def step(tx: Any, params: Any, state: Any) -> Any:
  """A step of GT-DDP."""
  return tx.update(None, state, params, batch=(inputs, targets))


def plain_step(params: Any, state: Any) -> Any:
  """A step of plain optax."""

  def mean(params: Any) -> jax.Array:
    outputs: Any = network.apply(params, inputs)
    return loss(outputs, targets).mean()

  return plain.update(jax.grad(mean)(params), state, params)


made: dict[str, timing.Compiled] = {}
calls: dict[str, Callable[[], Any]] = {}
for name, tx in {'optax': plain, **variants}.items():
  function = plain_step if name == 'optax' else functools.partial(step, tx)
  arguments = (params, tx.init(params))
  made[name] = timing.compiled(function, arguments)
  calls[name] = functools.partial(made[name].call, *arguments)
rounds = [
  {n: timing.second(call) for n, call in calls.items()} for _ in range(15)
]
for name, one in made.items():
  ratio = statistics.median(times[name] / times['optax'] for times in rounds)
  milliseconds = 1e3 * statistics.median(times[name] for times in rounds)
  print(
    f'{name}: {milliseconds:.2f} ms, {ratio:.2f} x optax, '
    f'{one.memory / 1e6:.1f} MB, compiled in {one.seconds:.1f} s'
  )
