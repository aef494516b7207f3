"""How near the search comes to the longest chain of calls that must wait for each other, and how busy it keeps its endpoints."""

import asyncio
import tempfile
import time
from pathlib import Path

from bench.simulated import simulated, stats
from bench.table import heading, table
from chiron.cases.reader import Selection
from chiron.client.call import Call, Reply
from chiron.client.client import ModelClient
from chiron.client.ledger import Ledger
from chiron.mics.run import Run
from chiron.mics.run_directory import RunDirectory
from chiron.mics.search import search
from chiron.mics.setup import SearchSetup
from tests.support.cases import write_cases
from tests.support.runs import config_of, make_run, team

SECONDS = {"mentor": 1.0, "intern": 0.2, "judge": 0.1}


def chain(run: Path) -> tuple[float, int]:
    """The longest chain of dependent calls of any case, in seconds and in calls: mentor, intern, judge at every depth."""
    with Ledger.read(run / "ledger.sqlite") as ledger:
        depths = [sum(len(levels) for levels in r.record["tree"]) for r in ledger.results()]
    return max(depths) * sum(SECONDS.values()), max(depths) * 3


async def one_at_a_time(cases: Path, base_url: str, folder: Path) -> tuple[float, int]:
    """The same search with every call waiting for the one before it; seconds and calls."""
    setup = SearchSetup.of(Selection(cases), config_of(team(base_url, policy="paper")))
    lock = asyncio.Lock()
    with Ledger.open(folder / "serial.sqlite") as ledger:
        desk = ModelClient(setup.roles.endpoints, ledger)

        async def ask(call: Call) -> Reply:
            async with lock:
                return await desk.ask(call)

        began = time.perf_counter()
        for _, case in setup.selection:
            await search(case, setup.team, ask, setup.policy, prompts=setup.prompts, pictures=setup.load_images(case, hold=False))  # type: ignore[arg-type]
        await desk.close()
        return time.perf_counter() - began, sum(s.calls for s in ledger.spending())


def ten_cases(folder: Path) -> None:
    """Ten cases at the latencies of real endpoints; then at a tenth of them, against one call at a time."""
    cases = write_cases(folder / "ten", 10)
    rows = []
    for attempt in range(1, 4):
        with simulated(cases, seconds=SECONDS) as url:
            directory = folder / f"r10-{attempt}"
            run = make_run(cases, config_of(team(url, policy="paper")), directory)
            began = time.perf_counter()
            asyncio.run(run.execute())
            took = time.perf_counter() - began
            longest, calls = chain(directory)
            rows.append([attempt, stats(url)["requests"], f"{longest:.1f} s ({calls} calls)", f"{took:.2f} s", took / longest])
    table(["run", "calls", "longest chain", "took", "ratio (aim: 1.3 or less)"], rows)
    tenth = {role: s / 10 for role, s in SECONDS.items()}
    with simulated(cases, seconds=tenth) as url:
        began = time.perf_counter()
        asyncio.run(make_run(cases, config_of(team(url, policy="paper")), folder / "r10t").execute())
        took = time.perf_counter() - began
        serial, serial_calls = asyncio.run(one_at_a_time(cases, url, folder))
    print()
    table(
        ["ten cases, a tenth of the latencies", "calls", "seconds"],
        [["this search", serial_calls, took], ["one call at a time", serial_calls, serial], ["ratio", "", serial / took]],
    )


def thousand_cases(folder: Path) -> None:
    """A thousand cases, ceilings in proportion to the load (as far as whole places allow): the share of allowed places in use."""
    cases = write_cases(folder / "thousand", 1000, shared_image=True)
    ceilings = {"mentor": 12, "intern": 19, "judge": 3}
    with simulated(cases, seconds=SECONDS) as url:
        data = team(url, policy="paper", cases_in_flight=256)
        for name, model in data["models"].items():
            model["concurrency"] = ceilings[name.split("-")[0]]
            model["timeout"] = 60.0
        run = Run.of(SearchSetup.of(Selection(cases), config_of(data)), RunDirectory(folder / "r1000"))
        began = time.perf_counter()
        summary = asyncio.run(run.execute())
        took = time.perf_counter() - began
        seen = stats(url)
    rows = [
        [name, ceilings[name.split("-")[0]], seen["most_in_flight"][name], busy / took / ceilings[name.split("-")[0]]]
        for name, busy in sorted(seen["busy_seconds"].items())
    ]
    print(f"\n{summary.total} cases, {seen['requests']} calls in {took:.0f} s, ramp-up and tail included\n")
    table(["endpoint", "allowed at once", "most at once", "share of allowed places in use (aim: 0.9)"], rows)


def main() -> None:
    """Print both tables."""
    heading("Speed of the search")
    with tempfile.TemporaryDirectory() as folder:
        ten_cases(Path(folder))
        thousand_cases(Path(folder))


if __name__ == "__main__":
    main()
