"""Kill a Ray worker at a random moment: calls paid twice, money booked possibly spent, same paths? Needs the extra ``ray``."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from bench.simulated import simulated, stats
from bench.table import heading, table
from chiron import RunSummary, load_config, read_status, run_search
from chiron.jobs.engine import EngineOptions
from tests.support.cases import write_cases
from tests.support.runs import team, write_config

CASES, COPY_EVERY = 60, 1.0
LIMIT, AT_ONCE = 1_000.0, 8


def workers() -> list[int]:
    """Processes of the workers that run a part."""
    return [process.pid for process in psutil.Process().children(recursive=True) if process.name().startswith("ray::RayWorker")]


def searched(folder: Path, config: Path, name: str, url: str, dice: random.Random) -> tuple[RunSummary, bool]:
    """Search on two workers, and kill one after a random number of requests. Returns the summary, and whether a worker was killed."""
    before, least = stats(url)["requests"], dice.randrange(100, 2500)
    over, killed = threading.Event(), threading.Event()

    def kill() -> None:
        while stats(url)["requests"] < before + least:
            if over.wait(0.02):
                return
        for pid in workers()[:1]:
            os.kill(pid, signal.SIGKILL)
            killed.set()

    killer = threading.Thread(target=kill)
    killer.start()
    options = EngineOptions(workers=2, copy_every=COPY_EVERY)
    summary = run_search(folder / "c" / "cases.jsonl", load_config(config), folder / name, engine="ray", engine_options=options)
    over.set()
    killer.join()
    return summary, killed.is_set()


def main(kills: int = 5) -> None:
    """Kill, count, compare."""
    heading(f"a Ray worker killed at a random moment, {CASES} cases, copies every {COPY_EVERY:g} s")
    dice, rows = random.Random(0), list[list[Any]]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = write_cases(folder / "c", CASES, shared_image=True)
        model = {"concurrency": AT_ONCE, "price": {"input": 1.0, "output": 1.0}}
        for number in range(kills + 1):
            with simulated(cases, seconds={"mentor": 0.2, "intern": 0.1, "judge": 0.05}) as url:
                config = write_config(folder / "c.yaml", team(url, model=model, budget_usd=LIMIT))
                run = folder / f"run-{number}"
                if number == 0:
                    command = [sys.executable, "-m", "chiron", "search", str(cases), "--config", str(config), "--run", str(run)]
                    subprocess.run(command, stderr=subprocess.DEVNULL, check=True)
                    continue
                began = time.monotonic()
                summary, killed = searched(folder, config, run.name, url, dice)
                took, seen, status = time.monotonic() - began, stats(url), read_status(run)
                files = ("paths.jsonl", "rejected.jsonl")
                same = all((run / file).read_bytes() == (folder / "run-0" / file).read_bytes() for file in files)
                known = sum(spending.calls for spending in status.spending)
                kill = f"{number} (killed: {killed})"
                money = [summary.spent_usd, summary.possibly_spent_usd]
                rows.append([kill, seen["answered"], known, seen["answered"] - known, *money, same, took])
    table(
        ["kill", "calls answered", "distinct calls", "paid more than once", "USD counted", "of them possibly", "same files", "seconds"],
        rows,
    )


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
