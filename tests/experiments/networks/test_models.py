"""Shapes and parameters of the networks, and where a projection is decided."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gtddp_jax as gt
from configs import choices, default
from experiments.networks import layers, models

IMAGES = jnp.linspace(-1, 1, 128, dtype=jnp.float32).reshape(2, 8, 8, 1)
STAGED = 'resnet18', 'resnet34', 'resnet50'


def section(name: str, **changes: Any) -> Any:
  """The smallest of a network."""
  made = default.get_config().model
  widths = {1: (4,), 4: (2, 2, 4, 4)}.get(models.MODELS[name].widths, (4, 6))
  made.update({'name': name, 'widths': widths, 'groups': 2, 'units': 6})
  made.update({'depth': 2, 'heads': 2, **changes})
  return made


def built(name: str = 'resnet', **changes: Any) -> Any:
  return models.build(section(name, **changes), classes=10)


def shapes(model: Any, images: jax.Array = IMAGES) -> tuple[Any, Any]:
  """Shapes and types of logits and variables."""
  return jax.eval_shape(
    lambda: model.init_with_output(jax.random.key(0), images, train=True)
  )


def size(params: Any) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize('name', models.MODELS)
@pytest.mark.parametrize('norm', layers.NORMS)
def test_logits(name: str, norm: str) -> None:
  logits, variables = shapes(built(name, norm=norm))
  assert logits.shape == (2, 10)
  assert logits.dtype == jnp.float32
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {
    jnp.dtype('float32')
  }
  paths = [
    jax.tree_util.keystr(path, simple=True, separator='/')
    for path, _ in jax.tree.leaves_with_path(variables['params'])
  ]
  assert any('norm' in path for path in paths) == (norm != 'none')
  assert ('batch_stats' in variables) == (norm == 'batch')


@pytest.mark.parametrize('activation', sorted(layers.ACTIVATIONS))
def test_activations_differ(activation: str) -> None:
  outputs = [
    built('mlp', activation=one).init_with_output(jax.random.key(0), IMAGES)[0]
    for one in (activation, 'relu')
  ]
  equal = np.array_equal(*outputs)
  assert equal == (activation == 'relu')


# Parameters of the published networks at 10 classes and 32x32x3; those of ViT
# without the class token and its position.
@pytest.mark.parametrize(
  ('name', 'count'),
  [
    ('resnet18', 11_173_962),
    ('resnet34', 21_282_122),
    ('resnet50', 23_520_842),
    ('vit', 5_362_378),
  ],
)
def test_published_sizes(name: str, count: int) -> None:
  config = default.get_config()
  choices.choose_network(config, name)
  _, variables = shapes(
    models.build(config.model, classes=10), jnp.ones((1, 32, 32, 3))
  )
  assert size(variables['params']) == count


@pytest.mark.parametrize(
  ('name', 'blocks', 'layers'),
  [('resnet18', 8, 18), ('resnet34', 16, 34), ('resnet50', 16, 50)],
)
def test_staged_networks_have_their_layers(
  name: str, blocks: int, layers: int
) -> None:
  _, variables = shapes(built(name))
  params = variables['params']
  found = {part for part in params if 'block' in part}
  assert len(found) == blocks
  kernels = sum(
    'conv' in inner for part in found for inner in params[part]
  ) + len({'stem', 'linear'} & set(params))
  assert kernels == layers
  projected = {part for part in found if 'projection' in params[part]}
  assert projected - {'stage_1_block_1'} == {
    'stage_2_block_1',
    'stage_3_block_1',
    'stage_4_block_1',
  }


def test_players_see_the_same_input_and_are_added() -> None:
  model = built('cgb', kernels=(3, 1), activation='tanh')
  variables = model.init(jax.random.key(0), IMAGES)
  params = variables['params']
  assert [params['block_1'][f'player_{i}']['kernel'].shape for i in (1, 2)] == [
    (3, 3, 1, 4),
    (1, 1, 1, 4),
  ]
  # The one convolution that is the sum of both.
  one, other = (params['block_1'][f'player_{i}'] for i in (1, 2))
  kernel = one['kernel'].at[1, 1].add(other['kernel'][0, 0])
  silent = jax.tree.map(jnp.zeros_like, other)
  merged = {**params['block_1'], 'player_1': {**one, 'kernel': kernel}}
  merged['player_2'] = silent
  np.testing.assert_allclose(
    model.apply({'params': {**params, 'block_1': merged}}, IMAGES),
    model.apply(variables, IMAGES),
    rtol=1e-5,
    atol=1e-6,
  )
  names = [
    stage.name for stage in gt.trace(model.apply, variables, IMAGES).stages
  ]
  assert names == [
    f'params/{block}/player_{i}'
    for block in ('block_1', 'block_2', 'dense_block')
    for i in (1, 2)
  ] + ['params/linear']


def test_tokens_know_their_place_and_mixers_see_all() -> None:
  moved = jnp.roll(IMAGES, 4, axis=1)  # one patch of two
  for name, same in (('vit', False), ('mixer', False)):
    model = built(name, norm='layer')
    variables = jax.jit(model.init)(jax.random.key(0), IMAGES)
    outputs = [model.apply(variables, images) for images in (IMAGES, moved)]
    assert np.allclose(*outputs, atol=1e-4) == same
  # Without positions, attention would not notice.
  variables = built('vit').init(jax.random.key(0), IMAGES)
  blind = jax.tree.map(jnp.zeros_like, variables['params']['positions'])
  params = {**variables['params'], 'positions': blind}
  outputs = [
    built('vit').apply({'params': params}, images) for images in (IMAGES, moved)
  ]
  np.testing.assert_allclose(*outputs, atol=1e-5)


def test_a_shortcut_is_projected_where_the_width_changes() -> None:
  _, variables = shapes(built(widths=(4, 4, 6)))
  params = variables['params']
  blocks = {name for name in params if name.startswith('block')}
  assert blocks == {'block_1', 'block_2', 'block_3'}
  assert {b for b in blocks if 'projection' in params[b]} == {'block_3'}
  # Halved once, 8 to 4; the linear layer sees 4 * 4 * 6 numbers.
  assert params['linear']['kernel'].shape == (96, 10)


@pytest.mark.parametrize('name', ['resnet', *STAGED])
def test_a_projection_is_decided_next_to_the_merge(name: str) -> None:
  model = built(name)
  params = jax.eval_shape(model.init, jax.random.key(0), IMAGES)['params']
  graph = gt.trace(lambda p, x: model.apply({'params': p}, x), params, IMAGES)
  names = [stage.name for stage in graph.stages]
  projected = [n for n in names if n.endswith('projection')]
  assert len(projected) == {'resnet': 1, 'resnet50': 4}.get(name, 3)
  for one in projected:
    block = one.removesuffix('/projection')
    own = [n for n in names if n.startswith(f'{block}/')]
    assert own[-1] == one
    assert len(own) == (4 if name == 'resnet50' else 3)
  assert names[0] == 'stem'
  assert names[-1] == 'linear'
  assert math.prod(graph.outputs.shape) == 20
