"""What stands after the colon of ``--config=FILE:BASE,NETWORK``.

A base brings its learning rate, a network the values of its published size.
"""

from __future__ import annotations

from typing import Any

from configs import default
from configs.schema import Config
from experiments import refusals

_STAGES: dict[str, Any] = {'widths': (64, 128, 256, 512), 'norm': 'batch'}
_TOKENS: dict[str, Any] = {
  'widths': (192,),
  'activation': 'gelu',
  'norm': 'layer',
}
# What a network is called that has these values in the section `model`.
NETWORKS: dict[str, dict[str, Any]] = {
  'resnet18': _STAGES,
  'resnet34': _STAGES,
  'resnet50': _STAGES,
  'cgb': {'widths': (16, 32, 64), 'activation': 'tanh'},
  'vit': {**_TOKENS, 'depth': 12, 'heads': 3},  # ViT-tiny
  'mixer': {**_TOKENS, 'depth': 8},
}


def for_images(name: str, base: str, widths: tuple[int, ...]) -> Config:
  """What the prepared image sets share: a normalized residual network.

  Args:
    name: of the data set.
    base: the words after the colon; see ``choose``.
    widths: of the residual network.
  """
  config = default.get_config()
  config.dataset.name = name
  config.batch_size = 128
  config.model.norm = 'layer'
  config.model.widths = widths
  config.optimizer.trust_region = 0.3
  choose(config, base)
  return config


def choose(config: Config, words: str) -> None:
  """Sets what is named after the colon: ``'adam'``, or ``'adam,vit'``.

  Raises ConfigError if there is no such base or network.
  """
  base, comma, network = words.partition(',')
  choose_base(config, base)
  if comma:
    choose_network(config, network)


def choose_network(config: Config, name: str) -> None:
  """Sets a network of ``NETWORKS``, the second word, in its published size.

  Raises ConfigError if there is no such network.
  """
  if name not in NETWORKS:
    raise refusals.ConfigError(
      '--config',
      f'one of {", ".join(NETWORKS)} after the comma',
      repr(name),
      'write one of them',
    )
  config.model = default.get_config().model
  config.model.update(name=name, **NETWORKS[name])


def choose_base(config: Config, base: str) -> None:
  """Sets a base of ``learning_rates``, which stands alone, and its rate.

  Raises ConfigError if there is no such base.
  """
  rates = config.learning_rates
  if base not in rates:
    raise refusals.ConfigError(
      '--config',
      f'one of {", ".join(rates)} after the colon',
      repr(base),
      'write one of them',
    )
  config.optimizer.name = base
  config.optimizer.base.name = base
  config.optimizer.base.learning_rate = rates[base]
