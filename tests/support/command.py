"""Run the command line, each command in its own process."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import chiron as package
from tests.support.endpoint import Endpoint
from tests.support.waiting import PATIENCE, wait_until


class Ended(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


Cli = Callable[[list[str]], Ended]
"""Runs the command line in this process: the fixture ``cli``."""
CHIRON = [sys.executable, "-m", "chiron"]


def environment(**more: str) -> dict[str, str]:
    # Use the chiron under test, from any working directory.
    return {**os.environ, "PYTHONPATH": str(Path(next(iter(package.__path__))).parent), "COLUMNS": "160", **more}


def chiron(*args: object, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CHIRON, *map(str, args)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(**env),
        timeout=PATIENCE,
        check=False,
    )


def wait_for(endpoint: Endpoint, requests: int, process: "subprocess.Popen[str] | None" = None) -> None:
    """Wait until the endpoint has received ``requests`` requests, or ``process`` has ended."""
    wait_until(lambda: endpoint.seen.requests >= requests or (process is not None and process.poll() is not None), what="the next request")
