"""What a step costs: its compilation, its memory, its time beside others."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Compiled(NamedTuple):
  """A compiled function.

  Attributes:
    call: it.
    seconds: that compiling it took.
    memory: of its arguments and of what it needs beside them (bytes).
  """

  call: Callable[..., Any]
  seconds: float
  memory: int


def compiled(function: Callable[..., Any], arguments: Any) -> Compiled:
  """Compiles a function for arguments like these.

  Args:
    function: of arrays.
    arguments: a tuple.

  Returns:
    The function, and what it costs before it is called.
  """
  begin = time.perf_counter()
  made = jax.jit(function).lower(*arguments).compile()
  seconds = time.perf_counter() - begin
  analysis: Any = made.memory_analysis()
  memory = analysis.temp_size_in_bytes + analysis.argument_size_in_bytes
  return Compiled(made, seconds, memory)


def second(call: Callable[[], Any], least: float = 0.0) -> float:
  """Calls something twice, or more often if it is short.

  The first call pays for the memory that what ran before it has used.

  Args:
    call: returns arrays.
    least: seconds that the calls after the first take at least.

  Returns:
    What one of these calls took, on average (s).
  """
  jax.block_until_ready(call())
  begin, count, passed = time.perf_counter(), 0, 0.0
  while not count or passed < least:
    jax.block_until_ready(call())
    count, passed = count + 1, time.perf_counter() - begin
  return passed / count
