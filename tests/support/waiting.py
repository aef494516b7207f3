"""Wait for a condition with a timeout that is long enough for a busy machine."""

import subprocess
import time
from collections.abc import Callable
from typing import Any

PATIENCE = 600.0
"""Timeout in seconds, far above the duration of any test, so that tests do not fail on a loaded machine."""


def wait_until(reached: Callable[[], bool], process: "subprocess.Popen[Any] | None" = None, *, what: str = "the condition") -> None:
    """Return as soon as ``reached()`` is true.

    Raises:
        AssertionError: ``process`` ended first, or the condition was not reached within ``PATIENCE`` seconds.
    """
    until = time.monotonic() + PATIENCE
    while not reached():
        if process is not None and process.poll() is not None and not reached():
            raise AssertionError(f"the process ended with {process.returncode} before {what} was reached: {_errors_of(process)}")
        if time.monotonic() > until:
            raise AssertionError(f"{what} was not reached within {PATIENCE:.0f} s")
        time.sleep(0.01)


def _errors_of(process: "subprocess.Popen[Any]") -> str:
    return str(process.stderr.read())[-2000:] if process.stderr else "no output was kept"
