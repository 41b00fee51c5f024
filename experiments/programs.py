"""The compiled parts of a training: initialise, step, evaluate.

The steps are dispatched one by one. They are not put into a `lax.scan`: on CPU
a convolution inside a loop runs on a slow path (measured 5 to 20 times slower
for the networks here).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
import optax

import gtddp_jax as gt
from experiments import data, models, optimizers


class Network(NamedTuple):
  """What all optimizers share.

  Attributes:
    init: ``seed -> params``.
    graph: the traced network.
    evaluate: ``params -> `` losses (nats) and accuracies (0 to 1).
  """

  init: Callable[[int], Any]
  graph: gt.LayerGraph
  evaluate: Callable[[Any], dict[str, float]]


class Program(NamedTuple):
  """A network and an optimizer, shared by the seeds.

  Attributes:
    init: ``seed -> (params, optimizer state)``.
    step: ``(params, state, inputs, targets) -> (params, state, metrics)``.
    evaluate: that of the network.
    steps: in all.
    compile_seconds: what compiling ``step`` took.
  """

  init: Callable[[int], tuple[Any, Any]]
  step: Callable[..., tuple[Any, Any, Mapping[str, jax.Array]]]
  evaluate: Callable[[Any], dict[str, float]]
  steps: int
  compile_seconds: float


def build_network(
  config: ml_collections.ConfigDict, dataset: data.Dataset
) -> Network:
  """Makes and traces the network of a config.

  Args:
    config: of the experiment; its seed and optimizer are not used.
    dataset: to train and evaluate on.

  Returns:
    The network.
  """
  model = models.build(config.model, dataset.classes)
  images = dataset.train.images[: config.batch_size]

  @jax.jit
  def init(key: jax.Array) -> Any:
    return model.init(key, images[:1])['params']

  def apply(params: Any, inputs: jax.Array) -> Any:
    return model.apply({'params': params}, inputs)

  return Network(
    lambda seed: init(jax.random.key(seed)),
    gt.trace(apply, init(jax.random.key(0)), images),
    _evaluation(apply, dataset, config.eval_batch_size),
  )


def build(
  network: Network, config: ml_collections.ConfigDict, dataset: data.Dataset
) -> Program:
  """Makes the optimizer of a config and compiles a step.

  Args:
    network: of this config and data set.
    config: of the experiment; its seed is not used.
    dataset: to train on.

  Returns:
    The program.
  """
  tx = optimizers.build(
    config.optimizer, network.graph, gt.losses.softmax_cross_entropy
  )

  def init(seed: int) -> tuple[Any, Any]:
    params = network.init(seed)
    return params, tx.init(params)

  @jax.jit
  def step(
    params: Any, state: Any, inputs: jax.Array, targets: jax.Array
  ) -> tuple[Any, Any, Mapping[str, jax.Array]]:
    updates, state = tx.update(None, state, params, batch=(inputs, targets))
    params = optax.apply_updates(params, updates)
    return params, state, gt.metrics(state)

  samples = data.batch(dataset.train, config.batch_size, seed=0, step=0)
  begin = time.perf_counter()
  compiled = step.lower(*init(0), *samples).compile()
  seconds = time.perf_counter() - begin
  steps = math.ceil(config.epochs * dataset.train.size / config.batch_size)
  return Program(init, compiled, network.evaluate, steps, seconds)


def _evaluation(
  apply: Callable[[Any, jax.Array], Any], dataset: data.Dataset, size: int
) -> Callable[[Any], dict[str, float]]:
  """Evaluates on every sample of both splits, ``size`` at once."""

  @jax.jit
  def measure(params: Any, images: jax.Array, labels: jax.Array) -> Any:
    logits = apply(params, images)
    losses = gt.losses.softmax_cross_entropy(logits, labels)
    return losses, logits.argmax(axis=-1) == labels

  def evaluate(params: Any) -> dict[str, float]:
    found = {}
    for name in ('train', 'test'):
      split: data.Split = getattr(dataset, name)
      parts = [
        measure(params, split.images[i : i + size], split.labels[i : i + size])
        for i in range(0, split.size, size)
      ]
      losses, hits = (
        np.concatenate(column) for column in zip(*parts, strict=True)
      )
      found[f'{name}_loss'] = float(losses.mean(dtype=np.float64))
      found[f'{name}_accuracy'] = float(hits.mean())
    return found

  return evaluate
