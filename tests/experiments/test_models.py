"""Shapes and parameters of the networks, and where a projection is decided."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gtddp_jax as gt
from configs import default
from experiments import models

IMAGES = jnp.ones((2, 8, 8, 1), jnp.float32)


def built(**changes: Any) -> Any:
  section = default.get_config().model
  section.update(changes)
  return models.build(section, classes=10)


def shapes(model: Any) -> tuple[Any, Any]:
  """Shapes and types of logits and parameters."""
  logits, variables = jax.eval_shape(
    lambda: model.init_with_output(jax.random.key(0), IMAGES)
  )
  return logits, variables['params']


@pytest.mark.parametrize('name', models.MODELS)
@pytest.mark.parametrize('activation', sorted(models.ACTIVATIONS))
@pytest.mark.parametrize('norm', models.NORMS)
def test_logits(name: str, activation: str, norm: str) -> None:
  model = built(name=name, activation=activation, norm=norm, widths=(4, 6))
  logits, params = shapes(model)
  assert logits.shape == (2, 10)
  assert logits.dtype == jnp.float32
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {
    jnp.dtype('float32')
  }
  paths = [str(path) for path, _ in jax.tree.leaves_with_path(params)]
  assert any('norm' in path for path in paths) == (norm == 'layer')


def test_a_shortcut_is_projected_where_the_width_changes() -> None:
  _, params = shapes(built(widths=(4, 4, 6)))
  blocks = {name for name in params if name.startswith('block')}
  assert blocks == {'block_1', 'block_2', 'block_3'}
  assert {b for b in blocks if 'projection' in params[b]} == {'block_3'}
  # Halved once, 8 to 4; the linear layer sees 4 * 4 * 6 numbers.
  assert params['linear']['kernel'].shape == (96, 10)


def test_a_projection_is_decided_next_to_the_merge() -> None:
  model = built(widths=(4, 6))
  params = jax.jit(model.init)(jax.random.key(0), IMAGES)['params']
  graph = gt.trace(lambda p, x: model.apply({'params': p}, x), params, IMAGES)
  names = [stage.name for stage in graph.stages]
  assert names == [
    'stem',
    'block_1/conv_1',
    'block_1/conv_2',
    'block_2/conv_1',
    'block_2/conv_2',
    'block_2/projection',
    'linear',
  ]
