"""Run the command line: in this process, which is faster, or in its own."""

import contextlib
import io
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.util import Finalize
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import chiron as package
from chiron.cli.app import main
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


def chiron(*args: object, cwd: Path | None = None, **env: str) -> Ended:
    """Run a command in this process, which spares the second that a new one takes to load."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with contextlib.ExitStack() as changed:
        changed.enter_context(patch.dict(os.environ, {"COLUMNS": "160", **env}))
        changed.enter_context(patch.object(sys, "argv", ["chiron", *map(str, args)]))
        changed.enter_context(contextlib.chdir(cwd or Path.cwd()))
        changed.enter_context(contextlib.redirect_stdout(out))
        changed.enter_context(contextlib.redirect_stderr(err))
        try:
            main()
        except SystemExit as left:
            code = int(left.code or 0)
    return Ended(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))


def chiron_process(*args: object, cwd: Path | None = None, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in its own process: for what is read from the environment when Python or a package is loaded."""
    return subprocess.run(
        [*CHIRON, *map(str, args)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(**env),
        timeout=PATIENCE,
        check=False,
    )


class Forked:
    """The command line in its own process, forked from one that has loaded what training needs, which takes eight seconds."""

    _context = multiprocessing.get_context("forkserver")
    _context.set_forkserver_preload(["chiron.cli.app", "chiron.training.session", "transformers.models.internvl.modeling_internvl", "peft"])

    def __init__(self, *args: object, errors: Path, **env: str) -> None:
        """``errors``: file for standard error."""
        self._errors = errors
        # Not daemonic: data loaders start processes of their own.
        self._process = self._context.Process(target=_obey, args=([*map(str, args)], errors, {"COLUMNS": "160", **env}), daemon=False)
        self._process.start()
        Finalize(None, self._process.kill, exitpriority=1)  # what a failed test leaves must not keep pytest waiting

    def send_signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> Ended:
        """Wait for the end, and return what was printed on standard error."""
        self._process.join(PATIENCE)
        assert self._process.exitcode is not None
        return Ended(self._process.exitcode, "", self._errors.read_text())


def _obey(arguments: list[str], errors: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    with errors.open("w") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    sys.argv = ["chiron", *arguments]
    main()


def wait_for(endpoint: Endpoint, requests: int, process: "subprocess.Popen[str] | None" = None) -> None:
    """Wait until the endpoint has received ``requests`` requests, or ``process`` has ended."""
    wait_until(lambda: endpoint.seen.requests >= requests or (process is not None and process.poll() is not None), what="the next request")
