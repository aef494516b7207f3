"""A flaky endpoint: 25 % HTTP 500, 10 % 429, 1 % garbage, 0.5 % hangs. No case may be lost, none scored on failed calls."""

import asyncio
import tempfile
import time
from pathlib import Path

from bench.simulated import simulated, stats
from bench.table import heading, table
from chiron.mics.rundir import RunDirectory
from chiron.models.ledger import Ledger
from tests.support.cases import write_cases
from tests.support.runs import config_of, make_run, team

FAULTS = {"http_500": 0.25, "http_429": 0.10, "garbage": 0.01, "hang": 0.005, "hang_seconds": 20.0}


def main() -> None:
    """The same cases on a calm and on a flaky endpoint."""
    heading("Faults: 25 % HTTP 500, 10 % 429, 1 % garbage, 0.5 % hangs")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = write_cases(folder / "c", 50, shared_image=True)
        for label, faults in (("calm", None), ("flaky", FAULTS)):
            with simulated(cases, seconds={"mentor": 0.1, "intern": 0.05, "judge": 0.02}, faults=faults) as url:
                run = make_run(cases, config_of(team(url, model={"timeout": 2.0})), folder / label)
                began = time.perf_counter()
                summary = asyncio.run(run.execute())
                took, seen = time.perf_counter() - began, stats(url)
            with Ledger.read(RunDirectory(folder / label).ledger) as ledger:
                short = sum(
                    c["planned"] != c["answered"] for r in ledger.results() for t in r.record["tree"] for lv in t for c in lv["candidates"]
                )
            rows.append([label, seen["requests"], seen["distinct"], f"{took:.1f} s", summary.retained, summary.pending, short])
        same = (folder / "calm" / "paths.jsonl").read_bytes() == (folder / "flaky" / "paths.jsonl").read_bytes()
    table(["endpoint", "requests", "distinct calls", "took", "retained", "pending", "candidates with missing evaluations"], rows)
    print(f"\nthe same paths in both: {same}")


if __name__ == "__main__":
    main()
