"""The compiled parts of a training: initialise, step, evaluate.

The steps are dispatched one by one. They are not put into a `lax.scan`: on CPU
a convolution inside a loop runs on a slow path (measured 5 to 20 times slower
for the networks here).
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import gtddp_jax as gt
from configs.schema import Config
from experiments.data import catalog, preprocessing, splits
from experiments.networks import models, precision
from experiments.optimizers import accumulation, registry
from experiments.training import devices

Step = Callable[..., tuple[Any, Any, Mapping[str, jax.Array]]]
Evaluate = Callable[[Any, Any], dict[str, float]]

_TERMINAL = 2**16  # away from what the augmentation draws


class Network(NamedTuple):
  """What all optimizers share."""

  init: Callable[[int], Any]  # ``seed -> params``
  graph: gt.LayerGraph  # the traced network, as it is in training
  # ``(params, collections) -> `` losses (nats) and accuracies (0 to 1); batch
  # normalization then uses the statistics in the collections
  evaluate: Evaluate


class Program(NamedTuple):
  """A network and an optimizer, shared by the seeds."""

  # ``seed -> (params, optimizer state)``
  init: Callable[[int], tuple[Any, Any]]
  # the same from parameters and batch statistics at hand
  begin: Callable[[Any, Any], tuple[Any, Any]]
  # ``(params, state, images, labels, key, number) -> (params, state,
  # metrics)``, where the key is of the run and the number that of the step
  step: Step
  evaluate: Evaluate  # ``(params, state) -> `` as that of the network
  steps: int  # in all
  layout: devices.Layout  # where the arguments of ``step`` are
  compile_seconds: float  # what compiling ``step`` took


def build_network(config: Config, dataset: splits.Dataset) -> Network:
  """Makes and traces the network of a config.

  Its seed and optimizer are not used.
  """
  model = models.build(config.model, dataset.classes)
  images = preprocessing.prepare(
    dataset.train.images[: config.batch_size], dataset.scale
  )

  @jax.jit
  def init(key: jax.Array) -> Any:
    return model.init(key, images[:1], train=True)

  collections = dict(init(jax.random.key(0)))
  params = collections.pop('params')

  def apply(
    variables: Mapping[str, Any], inputs: jax.Array, **words: Any
  ) -> Any:
    named = {name: variables[name] for name in collections}
    own = {k: v for k, v in variables.items() if k not in collections}
    return run(own, inputs, named, **words)

  @precision.computing(config.model.compute_dtype)
  def run(params: Any, inputs: jax.Array, named: Any, **words: Any) -> Any:
    return model.apply({'params': params, **named}, inputs, **words)

  return Network(
    lambda seed: init(jax.random.key(seed))['params'],
    gt.trace(
      functools.partial(apply, train=True),
      params,
      images,
      collections=collections,
      mutable=list(collections),
      # In bfloat16 the order of summation alone shows in three digits.
      verify=config.model.compute_dtype == 'float32',
    ),
    _evaluation(apply, dataset, config),
  )


def build(network: Network, config: Config, dataset: splits.Dataset) -> Program:
  """Makes the optimizer of a config and compiles a step.

  Its seed is not used; network and data set are those of the config.
  """
  layout = devices.Layout(config)
  steps = step_count(config, dataset)
  tx = registry.build(
    config.optimizer, network.graph, gt.losses.softmax_cross_entropy, steps
  )

  def init(seed: int) -> tuple[Any, Any]:
    params = network.init(seed)
    pair: tuple[Any, Any] = layout.everywhere((params, tx.init(params)))
    return pair

  def begin(params: Any, collections: Any) -> tuple[Any, Any]:
    state = optax.tree_utils.tree_set(tx.init(params), collections=collections)
    pair: tuple[Any, Any] = layout.everywhere((params, state))
    return pair

  step = jax.jit(stepper(tx, config, dataset), **layout.words('aabbaa'))
  samples = layout.batch(dataset.train, config.batch_size, seed=0, step=0)
  clock = time.perf_counter()
  key = layout.everywhere(step_key(0))
  with layout.context():
    lowered = step.lower(*init(0), *samples, key, np.uint32(0))
  compiled = lowered.compile()
  seconds = time.perf_counter() - clock

  def evaluate(params: Any, state: Any) -> dict[str, float]:
    return network.evaluate(params, gt.collections(state))

  return Program(init, begin, compiled, evaluate, steps, layout, seconds)


def stepper(
  tx: optax.GradientTransformationExtraArgs,
  config: Config,
  dataset: splits.Dataset,
) -> Step:
  """Returns what ``Program.step`` is before it is compiled."""
  spec = catalog.SPECS[config.dataset.name]

  def step(
    params: Any,
    state: Any,
    images: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    number: jax.Array,
  ) -> tuple[Any, Any, Mapping[str, jax.Array]]:
    key = jax.random.fold_in(key, number)
    if config.dataset.augment:
      images = preprocessing.augment(key, images, spec.pad, spec.flip)
    updates, state = tx.update(
      None,
      state,
      params,
      batch=(preprocessing.prepare(images, dataset.scale), labels),
      rngs={'terminal': jax.random.fold_in(key, _TERMINAL)},
    )
    return (
      optax.apply_updates(params, updates),
      state,
      accumulation.metrics(state),
    )

  return step


def step_count(config: Config, dataset: splits.Dataset) -> int:
  """Returns how many steps a run has: whole updates of so many batches."""
  steps = math.ceil(config.epochs * dataset.train.size / config.batch_size)
  batches = config.optimizer.accumulate
  return math.ceil(steps / batches) * batches


def step_key(seed: int) -> jax.Array:
  """Returns the key of a run's steps; that of its parameters is another."""
  return jax.random.fold_in(jax.random.key(seed), 1)


def _evaluation(
  apply: Callable[[Any, jax.Array], Any],
  dataset: splits.Dataset,
  config: Config,
) -> Evaluate:
  """Evaluates on every sample of both splits, so many at once."""
  size, layout = config.eval_batch_size, devices.Layout(config)

  @functools.partial(jax.jit, **layout.words('abb'))
  def measure(variables: Any, images: jax.Array, labels: jax.Array) -> Any:
    logits = apply(variables, preprocessing.prepare(images, dataset.scale))
    losses = gt.losses.softmax_cross_entropy(logits, labels)
    return losses, logits.argmax(axis=-1) == labels

  def evaluate(params: Any, collections: Any) -> dict[str, float]:
    variables, found = {**params, **collections}, {}
    for name in ('train', 'test'):
      split: splits.Split = getattr(dataset, name)
      parts = [
        measure(
          variables,
          layout.spread(split.images[i : i + size]),
          layout.spread(split.labels[i : i + size]),
        )
        for i in range(0, split.size, size)
      ]
      counts = [min(size, split.size - i) for i in range(0, split.size, size)]
      losses, hits = (
        np.concatenate(
          [np.asarray(v)[:n] for v, n in zip(column, counts, strict=True)]
        )
        for column in zip(*parts, strict=True)
      )
      found[f'{name}_loss'] = float(losses.mean(dtype=np.float64))
      found[f'{name}_accuracy'] = float(hits.mean())
    return found

  return evaluate
