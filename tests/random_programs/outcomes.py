"""What comes of a program: its step equals the reference, or is refused.

equal      all that was asked for agrees
refused    an error of the library, which names an operation or a parameter
wrong      a number differs, be it that `trace` itself finds it
crash      any other error
unclear    rounding alone moves the reference by more than the tolerance
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import alone
import jax
import jax.numpy as jnp
import numpy as np
import oracle
from cases import BASES, Case
from primitives import names_something, primitives_of
from programs import Network, Program, assembled, flat
from reference import Linear, Reference, order_of_controls

import gtddp_jax as gt

Array = jax.Array
Tree = Any
TOLERANCE = 1e-9
RATE = 0.2
AT_ONCE = 'oracle', 'blocks', 'bounded', 'open'  # in one program


class Outcome(NamedTuple):
  """What came of a program.

  Attributes:
    kind: 'equal', 'refused', 'wrong', 'crash' or 'unclear'.
    why: of what is not equal: the case, and the error or the difference.
    refused_in_part: cases that are refused since samples meet, while the
      others agree.
    primitives: the operations of the program.
    cases: how many were compared.
  """

  kind: str
  why: str = ''
  refused_in_part: int = 0
  primitives: tuple[str, ...] = ()
  cases: int = 0


class DiffersError(Exception):
  """A number is not what it should be."""


class HarnessError(Exception):
  """The harness is wrong about a program."""


class UnclearError(Exception):
  """The reference cannot tell."""


def examine(program: Program, cases: list[Case], library: Any = gt) -> Outcome:
  """Runs a program and its reference.

  Args:
    program: what to run.
    cases: what to compare.
    library: that of `Examination`.
  """
  network = assembled(program)
  primitives = primitives_of(network)
  try:
    examination = Examination(network, cases, library)
    part = examination.run()
  except DiffersError as error:
    return Outcome('wrong', str(error), 0, primitives)
  except UnclearError as error:
    return Outcome('unclear', str(error), 0, primitives)
  except gt.errors.TraceMismatchError as error:
    kind = 'unclear' if 'NaN in apply_fn itself' in str(error) else 'wrong'
    return Outcome(kind, f'at trace time: {error}', 0, primitives)
  except gt.errors.GtddpError as error:
    why = f'{type(error).__name__}: {error}'
    kind = 'refused'
    if not names_something(str(error), network, primitives):
      kind, why = 'crash', f'an error that names nothing: {why}'
    return Outcome(kind, why, 0, primitives)
  except HarnessError:
    raise
  except Exception as error:
    why = f'{type(error).__name__}: {error}'
    if failing := alone.error_of(network):
      return Outcome('unclear', failing, 0, primitives)
    return Outcome('crash', _where(error) + why, 0, primitives)
  return Outcome('equal', '', part, primitives, len(cases))


class Examination:
  """One program beside its reference."""

  def __init__(self, network: Network, cases: list[Case], library: Any = gt):
    """Traces the network; `library` may stand in for `gtddp_jax`."""
    self._library, self._network, self._cases = library, network, cases
    self._params, self._batch = (
      network.params(),
      (network.inputs(), network.targets()),
    )
    self._graph = library.trace(network.apply, self._params, self._batch[0])
    self._controls = self._order()
    self._independent = not network.couples
    self._reference = None
    if self._independent:
      self._reference = Reference(network, self._controls)
    self._rates: dict[tuple[str, str], float] = {}
    self._updates: dict[Case, Any] = {}

  def run(self) -> int:
    """Compares all cases; returns how many were refused in part."""
    linear = self._linear(self._batch)
    for terminal, base in {(c.terminal, c.base) for c in self._cases}:
      self._rates[terminal, base] = self._rate(linear, terminal, base)
    compiled, refused = self._compiled()
    found = compiled(self._params, self._batch)
    base_step = found.pop('base')
    self._check_outputs(found.pop('graph'), found.pop('network'), linear)
    for case, updates in found.items():
      self._compare(case, updates, linear, base_step, self._batch)
    self._check_other_batches(compiled, found, refused)
    return len(refused)

  def _order(self) -> list[tuple[str, ...]]:
    """The controls as the library has them, which is as the program has."""
    paths = list(self._graph.paths)
    found = [
      tuple(sorted(paths[i] for i in stage.control))
      for stage in self._graph.stages
    ]
    expected = order_of_controls(self._network)
    if found != expected:
      raise DiffersError(f'controls {found}, expected {expected}')
    return found

  def _linear(self, batch: tuple[Tree, Tree]) -> Linear | None:
    if self._reference is None:
      return None
    return self._reference.linear(self._params, *batch)

  def _check_outputs(
    self, ours: list[Array], theirs: list[Array], linear: Linear | None
  ) -> None:
    """The graph runs the network, and samples are what they are said to be."""
    if not all(np.isfinite(x).all() for x in theirs):
      raise UnclearError('outputs that are not finite')
    for a, b in zip(ours, theirs, strict=True):
      scale = max(1.0, float(np.max(np.abs(b), initial=0)))
      apart = float(np.max(np.abs(a - b), initial=0))
      if not apart <= TOLERANCE * scale:
        raise DiffersError(f'outputs of the graph: {apart:.2g} of {scale:.2g}')
    if linear is not None:
      rows = _as_rows(theirs, self._network.batch)
      if not np.allclose(rows, linear.outputs, rtol=1e-10, atol=1e-10):
        raise HarnessError('samples are not independent')

  def _rate(self, linear: Linear | None, terminal: str, base: str) -> float:
    if linear is None:
      return 0.05
    return linear.safe_rate(terminal, BASES[base][1], RATE)

  def _tx(self, case: Case) -> Any:
    """The transformation of a case."""
    options: dict[str, Any] = {'trust_region': None} | {
      'bounded': {'trust_region': 1e-10},
      'open': {'feedback': False},
    }.get(case.how, {})
    value: Any = case.value
    if case.how == 'blocks':
      value = {'bellman': gt.Bellman, 'coupled': gt.Coupled}[value](memory=1)
    name, phi = self._network.loss
    known = {
      'squared_error': gt.losses.squared_error,
      'softmax_cross_entropy': gt.losses.softmax_cross_entropy,
    }
    return self._library.gt_ddp(
      self._graph,
      known.get(name, lambda o, t: jax.vmap(phi)(o, t)),
      BASES[case.base][0](self._rates[case.terminal, case.base]),
      terminal=case.terminal,
      value=value,
      **options,
    )

  def _compiled(self) -> tuple[Callable[..., Any], list[Case]]:
    """One program for all cases at this batch size.

    A case is left out that is refused because samples meet.
    """
    wanted = [c for c in self._cases if c.how in AT_ONCE]
    refused: list[Case] = []

    def steps(params: Tree, batch: tuple[Tree, Tree]) -> dict[Any, Tree]:
      found: dict[Any, Tree] = {
        'base': self._base_step(params, batch),
        'graph': jax.tree.leaves(self._graph(params, batch[0])),
        'network': jax.tree.leaves(self._network.apply(params, batch[0])),
      }
      for case in wanted:
        try:
          tx = self._tx(case)
          found[case] = tx.update(None, tx.init(params), params, batch=batch)[0]
        except gt.errors.OptionError:
          if self._independent or case.value == 'frozen':
            raise
          refused.append(case)
      return found

    keys: list[Any] = []

    @jax.jit
    def listed(params: Tree, batch: tuple[Tree, Tree]) -> list[Tree]:
      found = steps(params, batch)
      keys[:] = found
      return list(found.values())

    def run(params: Tree, batch: tuple[Tree, Tree]) -> dict[Any, Tree]:
      found = jax.device_get(listed(params, batch))
      return dict(zip(keys, found, strict=True))

    return run, refused

  def _base_step(self, params: Tree, batch: tuple[Tree, Tree]) -> Tree:
    """Minus the conjugate gradient, by jax alone; to be scaled by the rate."""
    gradients = alone.gradients(self._network, params, batch)
    return jax.tree.map(lambda g: -jnp.conj(g), gradients)

  def _compare(
    self,
    case: Case,
    updates: Tree,
    linear: Linear | None,
    base_step: Tree,
    batch: tuple[Tree, Tree],
  ) -> None:
    """One step with what it must be."""
    rate = self._rates[case.terminal, case.base]
    if case.how in ('bounded', 'open'):
      scaled = flat(jax.tree.map(lambda g: rate * g, base_step))
      tolerance = 1e-7 if case.how == 'bounded' else TOLERANCE
      _check_like(case, flat(updates), scaled, tolerance)
      return
    if linear is None:
      return
    expected = self._solved(linear, case)
    try:
      _check_like(case, flat(updates), expected)
    except DiffersError:
      self._check_clear(case, expected, batch)
      raise

  def _solved(self, linear: Linear, case: Case) -> oracle.Leaves:
    base = BASES[case.base][1](self._rates[case.terminal, case.base])
    return linear.solve(case.terminal, case.value, base)

  def _check_clear(
    self, case: Case, expected: oracle.Leaves, batch: tuple[Tree, Tree]
  ) -> None:
    """Raises `UnclearError` where rounding moves the reference itself."""
    rng = np.random.default_rng(0)
    for _ in range(3):
      moved = jax.tree.map(
        lambda x: x * (1 + 1e-13 * rng.standard_normal(x.shape)), self._params
      )
      linear = self._reference.linear(moved, *batch)
      try:
        _check_like(case, self._solved(linear, case), expected)
      except DiffersError as error:
        raise UnclearError(f'rounding moves the reference: {error}') from None

  def _check_other_batches(
    self,
    compiled: Callable[..., Any],
    found: dict[Case, Tree],
    refused: list[Case],
  ) -> None:
    """The batch permuted, doubled and halved."""
    size = self._network.batch
    refused_pairs = {case[:2] for case in refused}
    for how, groups in _by_how(self._cases):
      cases = [c for c in groups if c[:2] not in refused_pairs]
      if how == 'permuted' and self._network.couples != 'in order' and cases:
        order = np.roll(np.arange(size)[::-1], 1)
        other = compiled(self._params, self._taken(order))
        for case in cases:
          same = case._replace(how='oracle')
          if same in found:
            _check_like(case, flat(other[same]), flat(found[same]))
      elif how == 'doubled' and self._independent:
        self._at_another_size(cases, np.repeat(np.arange(size), 2), found)
      elif how == 'halved' and self._independent:
        self._at_another_size(cases, np.arange(max(size // 2, 1)), None)

  def _at_another_size(
    self, cases: list[Case], samples: np.ndarray, same: Any
  ) -> None:
    """The same graph with other samples; equal to `same`, or the oracle."""
    batch = self._taken(samples)
    linear = None if same is not None else self._linear(batch)
    if linear is not None:
      for case in cases:
        key = case.terminal, case.base
        self._rates[key] = min(self._rates[key], self._rate(linear, *key))

    @jax.jit
    def steps(params: Tree, batch: tuple[Tree, Tree]) -> list[Tree]:
      made = [self._tx(case) for case in cases]
      return [
        tx.update(None, tx.init(params), params, batch=batch)[0] for tx in made
      ]

    for case, updates in zip(cases, steps(self._params, batch), strict=True):
      updates = flat(jax.device_get(updates))
      if same is None:
        self._compare_at(case, updates, linear, batch)
        continue
      pair = case._replace(how='oracle')
      expected = flat(same[pair]) if pair in same else None
      if expected is None:
        expected = self._solved(self._linear(self._batch), pair)
      _check_like(case, updates, expected)

  def _compare_at(
    self, case: Case, updates: Any, linear: Linear, batch: tuple[Tree, Tree]
  ) -> None:
    expected = self._solved(linear, case)
    try:
      _check_like(case, updates, expected)
    except DiffersError:
      self._check_clear(case, expected, batch)
      raise

  def _taken(self, samples: np.ndarray) -> tuple[Tree, Tree]:
    return jax.tree.map(
      lambda x: jnp.asarray(np.asarray(x)[samples]), self._batch
    )


def _by_how(cases: list[Case]) -> Iterator[tuple[str, list[Case]]]:
  for how in ('permuted', 'doubled', 'halved'):
    found = [case for case in cases if case.how == how]
    if found:
      yield how, found


def _check_like(
  case: Case, got: Any, expected: Any, tolerance: float = TOLERANCE
) -> None:
  """Updates by path, relative to the largest of them."""
  sizes = [np.max(np.abs(x), initial=0) for x in expected.values()]
  scale = float(max(sizes))
  if not np.isfinite(scale):
    raise UnclearError('updates that are not finite')
  worst, where = 0.0, ''
  for path, leaf in expected.items():
    apart = np.max(np.abs(np.asarray(got[path]) - leaf), initial=0)
    if not apart <= worst:
      worst, where = float(apart), path
  if not worst <= tolerance * max(scale, 1e-12):
    raise DiffersError(
      f'{" ".join(case)}: {where} differs by {worst:.2g}, the largest update '
      f'is {scale:.2g}'
    )


def _as_rows(leaves: list[Array], batch: int) -> np.ndarray:
  parts = []
  for leaf in leaves:
    x = np.asarray(leaf).reshape(batch, -1)
    parts += [x.real, x.imag] if np.iscomplexobj(x) else [x]
  return np.concatenate(parts, axis=1)


def _where(error: BaseException) -> str:
  """The last line of the library in a traceback."""
  found, trace = '', error.__traceback__
  while trace is not None:
    code = trace.tb_frame.f_code
    if 'gtddp_jax' in code.co_filename:
      file = code.co_filename.rpartition('gtddp_jax')[2].lstrip('\\/')
      found = f'{file}:{trace.tb_lineno} {code.co_name}: '
    trace = trace.tb_next
  return found
