"""What is wrong with the sections ``model`` and ``blocks`` of a config."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import ml_collections

from configs import default
from experiments.data import catalog
from experiments.networks import models


class Problem(NamedTuple):
  """A key of the section that cannot be used; the words of a ConfigError."""

  key: str
  expected: str
  got: object
  remedy: str


def problems(config: ml_collections.ConfigDict) -> Iterator[Problem]:
  """Finds what a network could not be built with, or would not read.

  Args:
    config: of the experiment, with keys of the right types and a network, an
      activation and a normalisation that exist.

  Yields:
    What is wrong; nothing if all is well.
  """
  model = config.model
  yield from _too_small(model)
  yield from _unread(model)
  kind = models.MODELS[model.name]
  if kind.widths not in (None, len(model.widths)):
    noun = 'one width' if kind.widths == 1 else f'{kind.widths} widths'
    yield Problem(
      'widths',
      f'{noun} for {model.name}',
      model.widths,
      f'give so many, or choose the network with --config=FILE:BASE,'
      f'{model.name}',
    )
  if len(model.kernels) != 2:
    yield Problem(
      'kernels', 'two sizes, one a player', model.kernels, 'give two'
    )
  if 'heads' in kind.reads and model.widths[0] % model.heads:
    yield Problem(
      'heads',
      f'a divisor of the width ({model.widths[0]})',
      model.heads,
      'change one of them',
    )
  if 'patch' in kind.reads:
    yield from _patches(config)
  yield from _norm(config)


def blocks_problems(config: ml_collections.ConfigDict) -> Iterator[Problem]:
  """Finds what the section ``blocks`` could not be run with.

  Args:
    config: of the experiment, with keys of the right types.

  Yields:
    What is wrong; nothing if all is well.
  """
  blocks = config.blocks
  for norm in set(blocks.norms) - set(models.NORMS):
    yield Problem(
      'norms', f'some of {", ".join(models.NORMS)}', repr(norm), 'change it'
    )
  epochs = blocks.epochs
  if list(epochs) != sorted({*epochs}) or epochs[0] < 0:
    yield Problem('epochs', 'rising numbers from 0', epochs, 'change them')
  train = catalog.SPECS[config.dataset.name].train
  if not 2 <= blocks.samples <= train:
    yield Problem(
      'samples',
      f'an integer from 2 to {train} (the training split)',
      blocks.samples,
      'change it',
    )
  if blocks.batches < 1:
    yield Problem('batches', 'an integer from 1', blocks.batches, 'raise it')


def _too_small(model: ml_collections.ConfigDict) -> Iterator[Problem]:
  """Sizes are at least one."""
  for key in ('widths', 'kernels'):
    if min(model[key]) < 1:
      yield Problem(key, f'{key} from 1', model[key], 'raise them')
  for key in ('units', 'depth', 'heads', 'patch', 'groups'):
    if model[key] < 1:
      yield Problem(key, 'an integer from 1', model[key], 'raise it')
  if not 0 <= model.decay < 1:
    yield Problem(
      'decay', 'a number from 0 to below 1', model.decay, 'change it'
    )


def _unread(model: ml_collections.ConfigDict) -> Iterator[Problem]:
  """A key that was changed is one that the network reads."""
  reference = default.get_config().model
  reads = models.MODELS[model.name].reads
  for key in sorted({k for kind in models.MODELS.values() for k in kind.reads}):
    if key not in reads and model[key] != reference[key]:
      yield Problem(
        key,
        f'{reference[key]!r}, because {model.name} does not read it',
        repr(model[key]),
        'leave it or choose another network',
      )
  for key, norm in (('groups', 'group'), ('decay', 'batch')):
    if model.norm != norm and model[key] != reference[key]:
      yield Problem(
        key,
        f'{reference[key]!r}, because only norm={norm!r} reads it',
        repr(model[key]),
        'leave it or change norm',
      )


def _patches(config: ml_collections.ConfigDict) -> Iterator[Problem]:
  """The patches cover the image."""
  size = catalog.SPECS[config.dataset.name].shape[:2]
  patch = config.model.patch
  if any(pixels % patch for pixels in size):
    yield Problem(
      'patch',
      f'a divisor of {size[0]} and {size[1]}, the size of the images',
      patch,
      'change it',
    )


def _norm(config: ml_collections.ConfigDict) -> Iterator[Problem]:
  """Groups are equal, and a batch has statistics."""
  model = config.model
  units = (model.units,) if 'units' in models.MODELS[model.name].reads else ()
  widths = (*model.widths, *units)
  if model.norm == 'group' and any(w % model.groups for w in widths):
    yield Problem(
      'groups',
      f'a divisor of each of {", ".join(map(str, widths))}',
      model.groups,
      'change it or the widths',
    )
  if model.norm == 'batch' and config.batch_size == 1:
    yield Problem(
      'norm',
      "another than 'batch' with one sample in a batch",
      repr(model.norm),
      'change it or raise config.batch_size',
    )
