"""Work shared among processes: its order, its words, and what becomes of the others when one fails."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from chiron.demo.processes import Job, Say, run_jobs
from chiron.errors import InputError

pytestmark = pytest.mark.slow


def write(say: Say, folder: Path, name: str, wait_for: str | None = None) -> str:
    say(f"{name} begins")
    while wait_for is not None and not (folder / wait_for).exists():
        time.sleep(0.01)
    (folder / name).write_text(str(os.getpid()))
    return name


def refuse(_: Say, folder: Path, wait_for: str) -> None:
    while not (folder / wait_for).exists():
        time.sleep(0.01)
    raise InputError("this cannot be used")


def crash(_: Say) -> None:
    raise ZeroDivisionError("nobody expected it")


def vanish(_: Say) -> None:
    os._exit(7)


def blocked(_: Say) -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_jobs_do_not_hear_ctrl_c() -> None:
    """A terminal sends it to all processes, but only the first one ends the others in order. In a new process: it starts the server."""
    code = f"from {__name__} import *; print(run_jobs([Job(blocked, ())] * 3, at_once=3))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout == "[True, True, True]\n"


@pytest.mark.parametrize("at_once", [1, 2])
def test_results_come_in_the_jobs_order_and_words_with_their_number(tmp_path: Path, at_once: int) -> None:
    heard: list[tuple[int, Any]] = []
    jobs = [Job(write, (tmp_path, name)) for name in "abc"]
    assert run_jobs(jobs, at_once=at_once, hear=lambda number, said: heard.append((number, said))) == ["a", "b", "c"]
    assert sorted(heard) == [(0, "a begins"), (1, "b begins"), (2, "c begins")]
    assert (str(os.getpid()) == (tmp_path / "a").read_text()) == (at_once == 1)


def test_two_at_a_time_are_two_at_a_time(tmp_path: Path) -> None:
    assert run_jobs([Job(write, (tmp_path, "a", "b")), Job(write, (tmp_path, "b"))], at_once=2) == ["a", "b"]


def test_a_job_waits_for_those_that_it_comes_after(tmp_path: Path) -> None:
    heard: list[int] = []
    jobs = [Job(write, (tmp_path, "a", "c")), Job(write, (tmp_path, "b"), (0,)), Job(write, (tmp_path, "c"))]
    run_jobs(jobs, at_once=2, hear=lambda number, _: heard.append(number))
    assert heard.index(1) == 2


def test_one_that_fails_ends_the_others_and_its_error_is_the_callers(tmp_path: Path) -> None:
    endless = Job(write, (tmp_path, "never", "nothing"))
    with pytest.raises(InputError, match="this cannot be used"):
        run_jobs([endless, Job(refuse, (tmp_path, "."))], at_once=2)
    assert not (tmp_path / "never").exists()


def test_one_that_crashes_says_where() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)in crash.*ZeroDivisionError: nobody expected it"):
        run_jobs([Job(crash, ()), Job(crash, ())], at_once=2)


def test_one_that_is_killed_is_noticed() -> None:
    with pytest.raises(RuntimeError, match="exit code 7"):
        run_jobs([Job(vanish, ()), Job(vanish, ())], at_once=2)
