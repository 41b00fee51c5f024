"""Errors, each documented by the smallest program that raises it.

Every message has four parts: what failed (with the parameter path or the key),
what was expected, what was got, and what to do about it.
"""

from __future__ import annotations


class GtddpError(ValueError):
  """Base class of all errors that this library raises on purpose."""


class UnownedParameterError(GtddpError):
  """No parameter influences the outputs, or one does not where all have to.

  ::

    gt.trace(lambda p, x: x @ p['w'], {'w': w, 'unused': v}, x, strict=True)
  """


class ControlDtypeError(GtddpError):
  """A parameter leaf is an array of neither floating-point nor complex numbers.

  ::

    gt.trace(apply_fn, {'w': w, 'step': jnp.int32(0)}, x)
  """


class BatchAxisError(GtddpError):
  """No output has a batch axis, or samples cannot be found in a value.

  ::

    gt.trace(lambda p, x: (x @ p['w']).mean(axis=0), {'w': w}, x)
  """


class UncuttableStageError(GtddpError):
  """One opaque equation reads parameters of several modules.

  ::

    @jax.custom_vjp
    def block(p, x): ...            # reads p['a']['w'] and p['b']['w']

    gt.trace(block, {'a': {'w': a}, 'b': {'w': b}}, x)
  """


class TraceMismatchError(GtddpError):
  """The linearised stages differ from ``apply_fn``, as with side effects.

  ::

    gt.trace(lambda p, x: x @ p['w'] + next(counter), {'w': w}, x)
  """


class ParameterTreeError(GtddpError):
  """The parameters given differ from those that the graph was traced with.

  ::

    graph = gt.trace(apply_fn, params, inputs)
    graph({'other': params}, inputs)
  """


class LossError(GtddpError):
  """A loss does not return one value per sample, or cannot be expanded.

  ::

    tx = gt.gt_ddp(graph, lambda o, t: jnp.mean((o - t) ** 2), gt.sgd(0.1))
    tx.update(None, tx.init(params), params, batch=(x, y))
  """


class OptionError(GtddpError):
  """An option of ``gt_ddp`` or of a base optimizer has no meaning.

  ::

    gt.gt_ddp(graph, loss, gt.sgd(0.1), value='belman')

  Attributes:
    argument: the name of the one to change; '' if there is no single one.
  """

  def __init__(self, message: str, argument: str = ''):
    super().__init__(message)
    self.argument = argument


class NoGameWarning(UserWarning):
  """A joint update was asked for, and nothing makes layers players.

  ::

    gt.gt_ddp(graph, loss, gt.sgd(0.1), cooperation='schur')
  """
