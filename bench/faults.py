"""Endpoints in trouble: a mix of faults, rate limits of every kind, an outage. No case may be lost, none scored on failed calls.

On a virtual clock, where latencies are those of real models and nothing depends on this machine, and over HTTP.
"""

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.simulated import simulated, stats
from bench.table import heading, table
from chiron.client.attempts import JITTER, RetryPolicy
from chiron.client.client import ModelClient
from chiron.client.failures import Missing
from chiron.client.ledger import Ledger
from chiron.client.limiter import Limiter
from chiron.client.provider import Endpoint
from chiron.mics.run_directory import RunDirectory
from tests.support.calls import a_call
from tests.support.cases import write_cases
from tests.support.clock import run_virtually
from tests.support.runs import config_of, make_run, team
from tests.support.searching import latencies, searched
from tests.support.traffic import Traffic

FAULTS = {"http_500": 0.25, "http_429": 0.10, "garbage": 0.01, "hang": 0.005, "hang_seconds": 20.0}
MIX: dict[str, Any] = {"limited": 0.10, "failed": 0.26, "hung": 0.005, "retry_after": 0.05}
"""The same for the virtual clock: garbage is retried as HTTP 500 is."""
RESTART = {"down_after": 2.0, "down_seconds": 20.0}
SECONDS = {"mentor": 10.0, "intern": 4.0, "judge": 1.0}
SEARCHES: dict[str, dict[str, Any]] = {
    "calm": {},
    "10 % 429 at random": {"limited": 0.1},
    "10 % 429 at random, Retry-After: 1": {"limited": 0.1, "retry_after": 1.0},
    "the mix": MIX,
    "down for five minutes": {"down": [(60.0, 360.0)]},
    "down for good": {"down": [(60.0, 1e9)]},
}
CALLS = 4000
LIMITS: dict[str, dict[str, Any]] = {
    "calm": {},
    "8 at once": {"at_once": 8},
    "8 at once, Retry-After: 1": {"at_once": 8, "retry_after": 1.0},
    "20 at once": {"at_once": 20},
    "20 at once, Retry-After: 1": {"at_once": 20, "retry_after": 1.0},
    "600 a minute": {"per_minute": 600},
    "120 a minute": {"per_minute": 120},
    "10 % at random": {"limited": 0.1},
    "10 % at random, Retry-After: 1": {"limited": 0.1, "retry_after": 1.0},
    "2 % at random, Retry-After: 1": {"limited": 0.02, "retry_after": 1.0},
}


def limits() -> None:
    """The same calls on endpoints that limit in different ways."""
    rows = []
    for label, trouble in LIMITS.items():
        with tempfile.TemporaryDirectory() as name:
            rows.append([label, *_calls_on(Traffic(**trouble), Path(name))])
    print(f"\n{CALLS} calls of 1 s to one endpoint, at most 32 at once, on a virtual clock:\n")
    table(["limit", "seconds", "requests", "limited"], rows)


def _calls_on(traffic: Traffic, folder: Path) -> tuple[str, int, int]:
    JITTER.seed(0)
    with Ledger.open(folder / "l.sqlite") as ledger:
        desk = ModelClient({"m": Endpoint(traffic, Limiter(32), RetryPolicy())}, ledger)

        async def main() -> float:
            await asyncio.gather(*(desk.ask(a_call(str(n))) for n in range(CALLS)))
            took = asyncio.get_running_loop().time()
            await desk.close()
            return took

        return f"{run_virtually(main()):.0f}", traffic.requests, traffic.refused


def virtual() -> None:
    """The same cases on a virtual clock, a trouble at a time."""
    rows: list[list[object]] = []
    calm: list[dict[str, Any]] = []
    seconds = 0.0
    for label, trouble in SEARCHES.items():
        with tempfile.TemporaryDirectory() as name:
            found = searched(Path(name), lambda m, n, t=trouble: Traffic(seconds=latencies(m, SECONDS), seed=n, **t))  # type: ignore[misc]
        calm, seconds = (found.paths, found.seconds) if label == "calm" else (calm, seconds)
        missing = sum((Missing.of(record) for record in found.records), Missing())
        rows.append(
            [
                label,
                found.requests,
                found.calls,
                f"{found.seconds:.0f}",
                f"{found.seconds / seconds:.2f}",
                len(found.records),
                found.given_up,
                missing.candidates,
                missing.evaluations,
                "-" if found.halted else found.paths == calm,
            ]
        )
    print(
        f"\n50 cases on a virtual clock, mentors {SECONDS['mentor']:g} s, interns {SECONDS['intern']:g} s, judge {SECONDS['judge']:g} s:\n"
    )
    head = ["endpoint", "requests", "replies", "seconds", "of calm", "cases ended", "calls given up"]
    table([*head, "missing candidates", "missing evaluations", "same paths"], rows)


def over_http() -> None:
    """The same cases over HTTP: on a calm and on a flaky endpoint, and on one that is away for twenty seconds."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = write_cases(folder / "c", 50, shared_image=True)
        for label, faults in (("calm", None), ("flaky", FAULTS), ("down for 20 s", RESTART)):
            with simulated(cases, seconds={"mentor": 0.1, "intern": 0.05, "judge": 0.02}, faults=faults) as url:
                run = make_run(cases, config_of(team(url, model={"timeout": 2.0})), folder / label)
                began = time.perf_counter()
                summary = asyncio.run(run.execute())
                took, seen = time.perf_counter() - began, stats(url)
            with Ledger.read(RunDirectory(folder / label).ledger) as ledger:
                missing = sum((Missing.of(result.record) for result in ledger.results()), Missing())
            rows.append([label, seen["requests"], seen["distinct"], f"{took:.1f} s", summary.retained, summary.pending])
            same = (folder / "calm" / "paths.jsonl").read_bytes() == (folder / label / "paths.jsonl").read_bytes()
            rows[-1] += [missing.candidates, missing.evaluations, same]
    print("\nOver HTTP; flaky: 25 % HTTP 500, 10 % 429, 1 % garbage, 0.5 % hangs:\n")
    head = ["endpoint", "requests", "distinct calls", "took", "retained", "pending"]
    table([*head, "missing candidates", "missing evaluations", "same paths"], rows)


def main() -> None:
    """All three."""
    heading("Endpoints in trouble")
    limits()
    virtual()
    over_http()


if __name__ == "__main__":
    main()
