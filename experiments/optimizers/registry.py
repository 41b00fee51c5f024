"""Every optimizer by its config: a baseline is `gt_ddp` without feedback.

So a base and its GT-DDP variant differ in the feedback alone, and the same
metrics are there for both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

import gtddp_jax as gt
from configs.schema import Config
from experiments.optimizers import accumulation, schedules

Loss = Callable[[jax.Array, jax.Array], jax.Array]

BOUND = 0.3  # trust region of the studies
# What the studies call a variant of feedback: options of ``gt_ddp``.
VARIANTS: dict[str, dict[str, Any]] = {
  'frozen': {'terminal': 'gradient', 'trust_region': BOUND},
  'bellman': {
    'terminal': 'gradient',
    'value': 'bellman',
    'trust_region': BOUND,
  },
  'coupled': {
    'terminal': 'gradient',
    'value': 'coupled',
    'trust_region': BOUND,
  },
  'gauss_newton': {'terminal': 'gauss_newton', 'trust_region': None},
}


class BaseKind(NamedTuple):
  """A base optimizer, as a config names it."""

  title: str  # for tables and figures
  # makes it from the ``base`` section of a config
  build: Callable[[Config], optax.GradientTransformation]
  # whether it has an explicit ``Q_uu``, as all but ``frozen`` need
  explicit: bool


def _kronecker(
  make: Callable[..., optax.GradientTransformation],
) -> Callable[[Config], optax.GradientTransformation]:
  """``gt.kfac`` or ``gt.ekfac`` from the ``base`` section of a config."""

  def build(c: Config) -> optax.GradientTransformation:
    diagonal = None
    if c.diagonal != 'none':
      diagonal = getattr(gt, c.diagonal)(c.diagonal_rate)
    return make(
      c.learning_rate,
      c.damping,
      momentum=c.momentum or None,
      norm_constraint=c.norm_constraint,
      diagonal=diagonal,
      statistics=gt.Statistics(
        decay=c.statistics_decay,
        every=c.statistics_every,
        basis_every=c.basis_every,
        source=c.source,
        positions=c.positions,
        largest=c.largest,
      ),
    )

  return build


def _muon(c: Config) -> optax.GradientTransformation:
  """Muon, with kernels of convolutions as matrices; Adam for what is none.

  So for vectors, and for the kernels of attention, of three axes.
  """
  tx = optax.contrib.muon(
    c.learning_rate,
    weight_decay=c.weight_decay,
    adam_weight_decay=c.weight_decay,
  )

  def flat(tree: Any) -> Any:
    # Adam would get the kernels otherwise: optax knows matrices alone.
    return jax.tree.map(
      lambda x: x.reshape(-1, x.shape[-1]) if x.ndim == 4 else x, tree
    )

  def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    steps, state = tx.update(flat(updates), state, flat(params))
    return jax.tree.map(lambda s, u: s.reshape(u.shape), steps, updates), state

  return optax.GradientTransformation(lambda p: tx.init(flat(p)), update)


BASES = {
  'sgd': BaseKind(
    'SGD',
    lambda c: gt.sgd(
      c.learning_rate, momentum=c.momentum or None, nesterov=c.nesterov
    ),
    explicit=True,
  ),
  'rmsprop': BaseKind(
    'RMSprop',
    lambda c: gt.rmsprop(
      c.learning_rate,
      decay=c.decay,
      eps=c.eps,
      momentum=c.momentum or None,
      nesterov=c.nesterov,
    ),
    explicit=True,
  ),
  'adam': BaseKind(
    'Adam',
    lambda c: gt.adam(c.learning_rate, b1=c.b1, b2=c.b2, eps=c.eps),
    explicit=True,
  ),
  'kfac': BaseKind('KFAC', _kronecker(gt.kfac), explicit=True),
  'ekfac': BaseKind('EKFAC', _kronecker(gt.ekfac), explicit=True),
  'adamw': BaseKind(
    'AdamW',
    lambda c: optax.adamw(
      c.learning_rate,
      b1=c.b1,
      b2=c.b2,
      eps=c.eps,
      weight_decay=c.weight_decay,
    ),
    explicit=False,
  ),
  # But for the weight decay, with the numbers that they were published with.
  'lion': BaseKind(
    'Lion',
    lambda c: optax.lion(c.learning_rate, weight_decay=c.weight_decay),
    explicit=False,
  ),
  'muon': BaseKind('Muon', _muon, explicit=False),
}


EXPLICIT = tuple(name for name, kind in BASES.items() if kind.explicit)
KRONECKER = ('kfac', 'ekfac')
_OF_FEEDBACK = ('terminal', 'value', 'trust_region')
# What a study of many trainings does not read: seeds and rates are its own.
OF_ONE_RUN = ('seed', 'checkpoint_seconds')
RATE = 'optimizer.base.learning_rate'
# What one that runs several variants of a base chooses itself.
CHOSEN = (
  *OF_ONE_RUN,
  RATE,
  *(
    f'optimizer.{key}'
    for key in ('name', 'cooperation', 'feedback', *_OF_FEEDBACK)
  ),
)
# What one that runs several bases does.
COMPARED = (*OF_ONE_RUN, RATE, 'optimizer.name', 'optimizer.base.name')


def base_name(config: Config) -> str:
  """Returns the base that an ``optimizer`` section asks for."""
  name: str = config.base.name if config.name == 'gt_ddp' else config.name
  return name


def title(config: Config) -> str:
  """Returns the name of an ``optimizer`` section for tables and figures."""
  base = BASES[base_name(config)].title
  if config.name != 'gt_ddp':
    return base
  if config.cooperation != 'none' and not config.feedback:
    return f'GT-{base}'
  return f'GT-DDP {base}'


def base(config: Config, steps: int = 1) -> optax.GradientTransformation:
  """Returns the base of an ``optimizer`` section, for a run of some steps."""
  rate = config.base.learning_rate
  return _with_rate(
    config, schedules.build(config.schedule, rate, steps // config.accumulate)
  )


def unscheduled_base(
  config: Config,
) -> optax.GradientTransformation:
  """Returns it at the rate that the schedule scales, with the same state."""
  rate = config.base.learning_rate
  scheduled = config.schedule.name != 'constant'
  return _with_rate(
    config, optax.constant_schedule(rate) if scheduled else rate
  )


def _with_rate(config: Config, rate: Any) -> optax.GradientTransformation:
  section = Config({**config.base, 'learning_rate': rate})
  return BASES[base_name(config)].build(section)


def options(config: Config) -> dict[str, Any]:
  """Returns what an ``optimizer`` section tells ``gt_ddp`` of its feedback."""
  keys = ('terminal', 'value', 'cooperation', 'trust_region')
  return {key: config[key] for key in keys}


def unread(config: Config) -> tuple[str, ...]:
  """Returns the keys for ``gt_ddp`` that an ``optimizer`` section ignores."""
  if config.name != 'gt_ddp':
    return ('base.name', 'cooperation', 'feedback', *_OF_FEEDBACK)
  return () if config.feedback else _OF_FEEDBACK


def advice(config: Config, rate: str = RATE) -> str:
  """Returns which keys to change where an ``optimizer`` section diverges.

  ``rate`` is the key of its learning rate.
  """
  path, base = 'config.optimizer', config.base
  found = [f'lower config.{rate}']
  feedback = config.name == 'gt_ddp' and config.feedback
  if feedback:
    found.append(f'{"lower" if config.trust_region else "set"} {path}.'
                 f'trust_region')  # fmt: skip
  if base_name(config) in KRONECKER:
    found.append(f'raise {path}.base.damping')
    if not feedback or config.value == 'frozen':
      word = 'lower' if base.norm_constraint else 'set'
      found.append(f'{word} {path}.base.norm_constraint')
  *others, last = found
  return f'{", ".join(others)} or {last}' if others else last


def build(
  config: Config,
  graph: gt.LayerGraph,
  loss: Loss,
  steps: int = 1,
) -> optax.GradientTransformationExtraArgs:
  """Returns the optimizer of an ``optimizer`` section.

  Args:
    config: the section.
    graph: the traced network.
    loss: ``(outputs, targets) -> [B]``.
    steps: of the whole run, for its schedule.

  Returns:
    A transformation whose update takes ``batch=(inputs, targets)``.
  """
  ours = {**options(config), 'feedback': config.feedback}
  alone = {'feedback': False}
  tx = gt.gt_ddp(
    graph,
    loss,
    base(config, steps),
    **(ours if config.name == 'gt_ddp' else alone),
  )
  if config.accumulate == 1:
    return tx
  return accumulation.accumulated(tx, graph, loss, config.accumulate)
