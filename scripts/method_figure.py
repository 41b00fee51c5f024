r"""Draws the picture of docs/method.md.

  python -m scripts.method_figure

Left: the three passes of a step. Right: the loss after one step of the page's
example, the network ``o = u2 u1 x``, against the learning rate. Takes seconds.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from matplotlib import axes, figure

import gtddp_jax as gt
from experiments.report import charts, tables
from experiments.runs import cli, flags

# Of the example: parameters, one input and its target.
PARAMS = {'first': {'u': 0.5}, 'last': {'u': 2.0}}
INPUT, TARGET = 2.0, 1.0

VARIANTS: dict[str, dict[str, Any]] = {
  'SGD': {'feedback': False},
  'frozen': {'value': 'frozen'},
  'bellman': {'value': 'bellman'},
  'coupled': {'value': 'coupled'},
}
_RATES = np.geomspace(0.01, 0.5, 200)
_TICKS = (0.01, 0.03, 0.1, 0.3)
_LARGEST = 1.2  # loss; what is above is off the axis
_STAGES = ('$c_0$', '$c_1$', '$c_2$')
_PLACES = (0.06, 0.46, 0.86)
_PASSES = (
  (0.86, 1, '1. forward: run the network', ('$F_0(\\cdot, u_0)$',
    '$F_1(\\cdot, u_1)$')),
  (0.53, -1, '2. backward: what is the outcome worth?', ('$P_0,\\ d, S$',
    '$P_1,\\ d, S$')),
  (0.20, 1, '3. forward: layers react to what changed', ('$u_0+\\delta u_0$',
    '$u_1+\\delta u_1$')),
)  # fmt: skip


def _network(
  params: dict[str, dict[str, jax.Array]], x: jax.Array
) -> jax.Array:
  return x @ params['first']['u'] @ params['last']['u']


def losses(form: str, rates: Sequence[float] | np.ndarray) -> np.ndarray:
  """Returns the loss after one step of the example at each rate.

  Args:
    form: a key of ``VARIANTS``.
    rates: learning rates of SGD.

  Returns:
    One number per rate; 0.5 is the loss before.
  """
  params = jax.tree.map(lambda u: jnp.array([[u]]), PARAMS)
  x, y = jnp.array([[INPUT]]), jnp.array([[TARGET]])
  graph = gt.trace(_network, params, x)
  loss = gt.losses.squared_error

  def after(rate: jax.Array) -> jax.Array:
    tx = gt.gt_ddp(
      graph, loss, gt.sgd(rate), trust_region=None, **VARIANTS[form]
    )
    updates, _ = tx.update(None, tx.init(params), params, batch=(x, y))
    return loss(_network(optax.apply_updates(params, updates), x), y)[0]

  return np.asarray(jax.jit(jax.vmap(after))(jnp.asarray(rates)))


def draw(path: pathlib.Path) -> None:
  """Writes the picture."""
  with matplotlib.rc_context(tables.STYLE):
    drawing = figure.Figure(figsize=(11, 4.4), layout='constrained')
    left, right = drawing.subplots(1, 2, width_ratios=[1.15, 1])
    _passes(left)
    _example(right)
    drawing.savefig(path, dpi=150)


def _passes(panel: axes.Axes) -> None:
  panel.set(xlim=(0, 1), ylim=(0, 1.05))
  panel.axis('off')
  for (height, way, title, labels), colour in zip(
    _PASSES, charts.PALETTE[4:], strict=False
  ):
    panel.text(0, height + 0.13, title, fontsize=11)
    hat = height < _PASSES[1][0]
    for place, stage in zip(_PLACES, _STAGES, strict=True):
      panel.text(
        place,
        height,
        stage.replace('$c', '$\\hat c') if hat else stage,
        ha='center',
        va='center',
        fontsize=13,
        bbox={'boxstyle': 'round,pad=0.35', 'fc': 'white', 'ec': 'black'},
      )
    for start, label in zip(_PLACES, labels, strict=False):
      ends = (start + 0.06, height), (start + 0.34, height)
      panel.annotate(
        '',
        ends[way > 0],
        ends[way < 0],
        arrowprops={'arrowstyle': '-|>', 'color': colour, 'lw': 2},
      )
      panel.text(start + 0.2, height + 0.02, label, ha='center', va='bottom')
  below = _PASSES[-1][0] - 0.12
  panel.text(
    0,
    below,
    '$e=\\langle P,\\hat c-c\\rangle$ was achieved upstream; the next layer '
    'works on\n$w=d+S\\,e$, what is left to do',
    va='top',
  )


def _example(panel: axes.Axes) -> None:
  panel.axhline(0.5, color=charts.PALETTE[0], linewidth=1, linestyle=':')
  panel.annotate('before the step', (0.0105, 0.515), fontsize=9)
  styles = ('--', '-', '-', '-')
  for form, colour, style in zip(
    VARIANTS, (charts.BASE, *charts.PALETTE[1:]), styles, strict=False
  ):
    panel.plot(_RATES, losses(form, _RATES), style, color=colour, label=form)
  panel.axvline(0.1, color=charts.PALETTE[0], linewidth=1, alpha=0.4)
  panel.annotate(
    'the numbers\nof the page', (0.097, 0.8), fontsize=9, ha='right'
  )
  panel.set(
    xscale='log',
    ylim=(0, _LARGEST),
    xlim=(_RATES[0], _RATES[-1]),
    xlabel='learning rate (per step)',
    ylabel='loss after one step',
    title='The example, one step',
  )
  panel.set_xticks(_TICKS, [f'{rate:g}' for rate in _TICKS])
  panel.set_xticks([], minor=True)
  panel.legend(loc='upper left')


def main(argv: Sequence[str]) -> None:
  """Draws."""
  parser = flags.Flags(__doc__)
  parser.value('path', 'where to write the picture', 'docs/images/method.png')
  with cli.refusing():
    draw(pathlib.Path(parser.read(argv).path))


if __name__ == '__main__':
  main(sys.argv)
