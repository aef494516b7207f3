"""The commands as a person types them, each in a process of its own."""

import os
import subprocess
import sys
import time
from pathlib import Path

import chiron as package
from tests.support.endpoint import Endpoint

CHIRON = [sys.executable, "-m", "chiron"]


def environment(**more: str) -> dict[str, str]:
    # The chiron that is tested here, from whatever directory it is started.
    return {**os.environ, "PYTHONPATH": str(Path(next(iter(package.__path__))).parent), "COLUMNS": "160", **more}


def chiron(*args: object, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CHIRON, *map(str, args)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(**env),
        timeout=120,
        check=False,
    )


def wait_for(endpoint: Endpoint, requests: int, process: "subprocess.Popen[str] | None" = None) -> None:
    for _ in range(2000):
        if endpoint.seen.requests >= requests or (process is not None and process.poll() is not None):
            return
        time.sleep(0.01)
    raise AssertionError("the process asked nothing")
