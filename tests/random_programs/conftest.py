"""Prints the report of all programs that were run, also by several workers."""

from __future__ import annotations

from typing import Any

import pytest


def pytest_terminal_summary(
  terminalreporter: Any, config: pytest.Config
) -> None:
  del config
  import report  # this folder is on the path once its tests were collected

  lines = {
    value: None
    for reports in terminalreporter.stats.values()
    for found in reports
    for name, value in getattr(found, 'user_properties', ())
    if name == 'program'
  }
  if lines:
    terminalreporter.section('random programs')
    terminalreporter.write_line(report.table(report.read(lines)))
