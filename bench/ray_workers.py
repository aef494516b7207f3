"""Ray workers: speed with one, two and four of them, and what is paid twice if one is killed. Needs the extra ``ray``.

``python -m bench.ray_workers CASES KILLS``; more workers than free cores measure the cores.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
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
WORKERS, ENDPOINTS, TOGETHER = (1, 2, 4), 3, 256
"""Numbers of workers to compare; endpoint processes; calls at once for each model, divided among the workers."""
FILES = ("paths.jsonl", "rejected.jsonl")


def first_call(urls: list[str], before: int, over: threading.Event) -> float:
    """Wait for the first request after ``before``, and return when it came."""
    while not over.wait(0.05) and asked(urls) == before:
        pass
    return time.monotonic()


def asked(urls: list[str]) -> int:
    """Requests that all endpoints have seen."""
    return sum(stats(url)["requests"] for url in urls)


def timed(cases: Path, config: Path, run: Path, urls: list[str], workers: int) -> tuple[float, float, int]:
    """Search in one process (0 workers) or on Ray. Returns the seconds before and after the first call, and the number of calls."""
    before, began, over = asked(urls), time.monotonic(), threading.Event()
    engine = {"engine": "ray", "engine_options": EngineOptions(workers=workers)} if workers else {}
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(first_call, urls, before, over)
        try:
            run_search(cases, load_config(config), run, **engine)  # type: ignore[arg-type]  # a dictionary of options
        finally:
            ended = time.monotonic()
            over.set()
        return first.result() - began, ended - first.result(), asked(urls) - before


def speed(count: int) -> None:
    """Search in one process, then with more and more workers."""
    heading(f"{count} cases with 1, 2 and 4 Ray workers, {ENDPOINTS} endpoint processes, {os.cpu_count()} cores")
    rows = list[list[Any]]()
    with tempfile.TemporaryDirectory() as name, ExitStack() as serving:
        folder = Path(name)
        cases = write_cases(folder / "c", count, shared_image=True)
        seconds = {"mentor": 0.2, "intern": 0.1, "judge": 0.05}
        urls = [serving.enter_context(simulated(cases, seconds=seconds)) for _ in range(ENDPOINTS)]
        data = team(urls[0], model={"concurrency": TOGETHER})
        for number, model in enumerate(data["models"].values()):
            model["base_url"] = urls[number % ENDPOINTS]
        config = write_config(folder / "c.yaml", data)
        alone = 0.0
        for workers in (0, *WORKERS):
            run = folder / f"run-{workers}"
            start, took, calls = timed(cases, config, run, urls, workers)
            alone = alone or took
            same = all((run / file).read_bytes() == (folder / "run-0" / file).read_bytes() for file in FILES)
            efficiency = alone / took / max(1, workers)
            rows.append([workers or "one process", start, took, calls / took, efficiency, 1000 * (took - alone) / count, calls, same])
    titles = ["seconds before the first call", "after it", "calls a second", "efficiency", "more ms a case", "calls", "same files"]
    table(["workers", *titles], rows)


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


def lost(kills: int) -> None:
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
                same = all((run / file).read_bytes() == (folder / "run-0" / file).read_bytes() for file in FILES)
                known = sum(spending.calls for spending in status.spending)
                kill = f"{number} (killed: {killed})"
                money = [summary.spent_usd, summary.possibly_spent_usd]
                rows.append([kill, seen["answered"], known, seen["answered"] - known, *money, same, took])
    table(
        ["kill", "calls answered", "distinct calls", "paid more than once", "USD counted", "of them possibly", "same files", "seconds"],
        rows,
    )


def main(cases: int = 200, kills: int = 5) -> None:
    """Measure both."""
    speed(cases)
    lost(kills)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
