"""The compiled parts of a training."""

from __future__ import annotations

import pytest

from configs import default
from experiments import data, programs


def test_evaluation_drops_no_sample() -> None:
  dataset = data.load('digits', 'standard')
  config = default.get_config()
  config.model.update(name='mlp', widths=(8,))
  found = []
  for size in (100, 2048):
    config.eval_batch_size = size
    program = programs.build(
      programs.build_network(config, dataset), config, dataset
    )
    params, _ = program.init(0)
    found.append(program.evaluate(params))
  assert found[0] == pytest.approx(found[1], rel=1e-5)
  # A count over all 360 samples.
  hits = 360 * found[0]['test_accuracy']
  assert hits == pytest.approx(round(hits))
