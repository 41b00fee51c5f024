"""The table of networks that the library supports, and of what it refuses.

With `tests/networks` and `tests/oracle` in PYTHONPATH this file prints, as a
program, the part of docs/networks.md that holds both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import support_lab  # noqa: F401 (a module adds its rows when imported)
import support_linen
import support_nnx  # noqa: F401
import support_nnx_images  # noqa: F401
from flax import linen as nn
from support_case import TABLE, Case

BEGIN = '<!-- support table: written by tests/support/support.py -->'
END = '<!-- end of the support table -->'
X = jnp.linspace(-1, 1, 12, dtype=jnp.float32).reshape(4, 3)


class Refusal(NamedTuple):
  """What is not supported.

  Attributes:
    what: In the table's words.
    error: The name of the class in `gtddp_jax.errors`.
    remedy: In the table's words.
    attempt: Is given the library and raises the error.
  """

  what: str
  error: str
  remedy: str
  attempt: Callable[[Any], Any]


REFUSALS: list[Refusal] = []


def refused(
  what: str, error: str, remedy: str
) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
  """Adds an attempt that is refused to the table."""

  def add(attempt: Callable[[Any], Any]) -> Callable[[Any], Any]:
    REFUSALS.append(Refusal(what, error, remedy, attempt))
    return attempt

  return add


def ones(*shape: int) -> jax.Array:
  return jnp.ones(shape, jnp.float32)


@refused(
  '`nn.scan` (or `lax.scan`) over blocks of several modules, each block with '
  'parameters of its own',
  'UncuttableStageError',
  '`trace(..., owner=...)`: the scan is then one control',
)
def _scan(gt: Any) -> None:
  net = support_linen.Net(support_linen.scanned)
  gt.trace(net.apply, net.init(jax.random.key(0), X), X)


@refused(
  'a `jax.custom_vjp` that takes the parameters of several modules',
  'UncuttableStageError',
  '`trace(..., owner=...)`, or one call per module',
)
def _opaque(gt: Any) -> None:
  @jax.custom_vjp
  def both(p: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ p['a']['w']) @ p['b']['w']

  both.defvjp(lambda p, x: (both(p, x), (p, x)), lambda saved, bar: saved)
  params = {'a': {'w': ones(3, 3)}, 'b': {'w': ones(3, 3)}}
  gt.trace(both, params, X)


@refused(
  'parameters of which none influences the outputs',
  'UnownedParameterError',
  'return what the network makes of them; one alone without influence gets the '
  "base's step for a zero gradient, or is refused by `trace(..., strict=True)`",
)
def _unread(gt: Any) -> None:
  gt.trace(lambda p, x: 2 * x, {'w': ones(3, 3)}, X)


@refused(
  'an integer parameter',
  'ControlDtypeError',
  'close over it',
)
def _integer(gt: Any) -> None:
  params = {'w': ones(3, 3), 'step': jnp.zeros((), jnp.int32)}
  gt.trace(lambda p, x: x @ p['w'] + p['step'], params, X)


@refused(
  'outputs of which none has a batch axis, such as a mean loss',
  'BatchAxisError',
  'return per-sample outputs; the loss takes their mean, and reads others '
  'beside them as they are',
)
def _mean(gt: Any) -> None:
  gt.trace(lambda p, x: jnp.mean(x @ p['w'], axis=0), {'w': ones(3, 3)}, X)


@refused(
  'an input without a batch axis',
  'BatchAxisError',
  'close over it',
)
def _constant_input(gt: Any) -> None:
  params = {'w': ones(3, 3)}
  gt.trace(lambda p, x: x[0] @ p['w'] + x[1][None], params, (X, ones(3)))


@refused(
  'an operation of which it is not known where it leaves the samples '
  '(`pure_callback`, a custom kernel) between the parameters and the outputs',
  'BatchAxisError',
  'write that part with `jax.numpy` and `jax.lax`',
)
def _callback(gt: Any) -> None:
  def apply_fn(p: Any, x: jax.Array) -> jax.Array:
    h = x @ p['w']
    return jax.pure_callback(abs, jax.ShapeDtypeStruct(h.shape, h.dtype), h)

  gt.trace(apply_fn, {'w': ones(3, 3)}, X)


@refused(
  'a mean over the batch within one control, under `bellman` or `coupled`',
  'OptionError',
  "give the normalisation a module of its own, or `value='frozen'`",
)
def _mixing(gt: Any) -> None:
  def apply_fn(p: Any, x: jax.Array) -> jax.Array:
    h = jnp.tanh(x @ p['a']['w'])
    h = (h - h.mean(axis=0, keepdims=True)) * p['a']['scale'][None]
    return h @ p['b']['w']

  params = {'a': {'w': ones(3, 3), 'scale': ones(3)}, 'b': {'w': ones(3, 3)}}
  graph = gt.trace(apply_fn, params, X)
  loss, base = gt.losses.squared_error, gt.sgd(0.1)
  tx = gt.gt_ddp(graph, loss, base, value='coupled')
  tx.update(None, tx.init(params), params, batch=(X, X))


@refused(
  'a function that is not pure',
  'TraceMismatchError',
  'pass randomness as `rngs`, statistics as `collections`',
)
def _impure(gt: Any) -> None:
  calls: list[int] = []

  def apply_fn(p: Any, x: jax.Array) -> jax.Array:
    calls.append(1)
    return x @ p['w'] * float(len(calls))

  gt.trace(apply_fn, {'w': ones(3, 3)}, X)


@refused(
  'a loss that is not one number per sample',
  'LossError',
  'leave out the mean',
)
def _mean_loss(gt: Any) -> None:
  net = nn.Dense(3)
  params = net.init(jax.random.key(0), X)
  graph = gt.trace(net.apply, params, X)
  tx = gt.gt_ddp(
    graph, lambda o, t: jnp.mean((o - t) ** 2), gt.sgd(0.1), trust_region=None
  )
  tx.update(None, tx.init(params), params, batch=(X, X))


def markdown() -> str:
  """Both tables, as they stand in docs/networks.md between the markers."""
  head = 'network', 'linen', 'nnx', 'stages', 'oracle', 'note'
  names = dict.fromkeys(name for name, _ in TABLE)
  rows = [_row([c for c in TABLE.values() if c.name == n]) for n in names]
  refusals = [(r.what, f'`{r.error}`', r.remedy) for r in REFUSALS]
  return '\n\n'.join(
    [
      _table(head, rows),
      'Not supported, and refused with an error that says what to do:',
      _table(('what', 'error', 'remedy'), refusals),
    ]
  )


def section() -> str:
  """The tables between their markers."""
  return f'{BEGIN}\n{markdown()}\n{END}'


def _row(cases: list[Case]) -> tuple[str, ...]:
  """One network, in one framework or in both."""
  frameworks = {case.framework for case in cases}
  stages = dict.fromkeys(case.stages for case in cases)
  independent = {case.independent for case in cases}
  assert len(independent) == 1
  return (
    cases[0].name,
    *('yes' if name in frameworks else '' for name in ('linen', 'nnx')),
    ' (nnx: '.join(stages) + ')' * (len(stages) - 1),
    'equal' if independent.pop() else 'approximate',
    '; '.join(dict.fromkeys(case.note for case in cases if case.note)),
  )


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
  lines = [head, ('---',) * len(head), *rows]
  return '\n'.join(
    f'| {" | ".join(line)} |'.replace('  ', ' ') for line in lines
  )


if __name__ == '__main__':
  print(section())
