"""``kill -9`` at twenty random moments: what is lost, what is paid for twice, and whether the end is the same."""

import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.simulated import simulated, stats
from bench.table import heading, table
from chiron.client.ledger import Ledger
from tests.support.cases import write_cases
from tests.support.runs import team, write_config

KILLS = 20


def retained(run: Path) -> set[str]:
    """Ids of the cases that the ledger says are retained."""
    if not (run / "ledger.sqlite").is_file():
        return set()
    with Ledger.read(run / "ledger.sqlite") as ledger:
        return {r.case_id for r in ledger.results(retained=True)}


def calls(run: Path) -> int:
    """Replies that the ledger holds."""
    if not (run / "ledger.sqlite").is_file():
        return 0
    with Ledger.read(run / "ledger.sqlite") as ledger:
        return sum(s.calls for s in ledger.spending())


def main() -> None:
    """Kill, count, compare."""
    heading(f"kill -9 at {KILLS} random moments")
    dice = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = write_cases(folder / "c", 200, shared_image=True)
        with simulated(cases, seconds={"mentor": 0.2, "intern": 0.1, "judge": 0.05}) as url:
            config = write_config(folder / "c.yaml", team(url, model={"concurrency": 16}))

            def command(run: str) -> list[str]:
                return [sys.executable, "-m", "chiron", "search", str(cases), "--config", str(config), "--run", str(folder / run)]

            lost, kills, places, unkept, answered, kept = 0, 0, 7 * 16, 0, 0, 0
            for _ in range(KILLS):
                before = retained(folder / "killed")
                asked = stats(url)["requests"]
                process = subprocess.Popen(command("killed"), stderr=subprocess.DEVNULL)
                # From its first request on: on a busy machine it would otherwise be killed while it is still being loaded.
                while stats(url)["requests"] == asked and process.poll() is None:
                    time.sleep(0.02)
                time.sleep(dice.uniform(0.0, 1.2))
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL)
                    kills += 1
                process.wait()
                lost += len(before - retained(folder / "killed"))
                time.sleep(0.5)  # what was under way is answered by now
                seen, held = stats(url)["answered"], calls(folder / "killed")
                unkept += (seen - answered) - (held - kept)
                answered, kept = seen, held
            subprocess.run(command("killed"), stderr=subprocess.DEVNULL, check=True)
            seen = stats(url)
            twice = seen["answered"] - seen["distinct"]
            again = seen["answered"]
            subprocess.run(command("killed"), stderr=subprocess.DEVNULL, check=True)
            again = stats(url)["answered"] - again
        with simulated(cases, seconds={"mentor": 0.02, "intern": 0.01, "judge": 0.01}) as url:
            write_config(config, team(url, model={"concurrency": 16}))
            subprocess.run(command("undisturbed"), stderr=subprocess.DEVNULL, check=True)
        same = all(
            (folder / "killed" / f).read_bytes() == (folder / "undisturbed" / f).read_bytes() for f in ("paths.jsonl", "rejected.jsonl")
        )
    table(
        [
            "kills",
            "distinct calls",
            "calls paid twice",
            "answered but not yet in the ledger at a kill",
            "at most in flight at the kills",
            "retained paths lost",
            "asked again by a finished run",
            "same files",
        ],
        [[kills, seen["distinct"], twice, unkept, kills * places, lost, again, same]],
    )


if __name__ == "__main__":
    main()
