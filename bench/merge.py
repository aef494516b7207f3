"""Merge eight shards of 60,000 cases: seconds and peak memory. ``python -m bench.merge CASES`` takes another number of cases."""

import hashlib
import multiprocessing
import resource
import sys
import tempfile
import time
import zlib
from pathlib import Path

from bench.table import heading, table
from chiron.client.ledger import _PUT, Ledger, StoredResult, _checksum
from chiron.mics.merge import merge_runs
from chiron.mics.run_directory import RunDirectory

SHARDS, CALLS = 8, 84
"""Shards, and calls of a case: five million calls for 60,000 cases."""
IDENTITY = {"mentors": [["m", "m", 1]]}
TEXT, RAW = "The lesion lies at the upper level and its margin is spiculated. " * 9, '{"choices": [{"message": {"content": "..."}}]} ' * 18


def shard(path: Path, part: int, cases: int) -> None:
    """Write a run directory with every ``SHARDS``-th case: replies of 0.6 KB with raw responses of 0.8 KB."""
    directory = RunDirectory(path)
    record = {"tree": [zlib.crc32(str(n).encode()) for n in range(400)]}
    with directory.opened(IDENTITY) as ledger:
        directory.write_run(IDENTITY, {"cases": "cases.jsonl", "images": "images", "shard": f"{part + 1}/{SHARDS}", "limit": None})
        for number in range(part, cases, SHARDS):
            with ledger._together():  # noqa: SLF001 - one commit a case: only the merge is measured
                ledger._db.executemany(_PUT, (_row(f"{number}/{n}") for n in range(CALLS)))  # noqa: SLF001 - as above
            ledger.put_result(StoredResult(f"case-{number:06d}", number, "f", "depth", retained=True, mics_score=0.5, record=record))


def _row(name: str) -> tuple[object, ...]:
    key = hashlib.sha256(name.encode()).digest()
    values = (TEXT, "stop", 900, 150, "m", 0.5, 1, 0.001)
    checksum = _checksum(key.hex(), values) + _checksum(key.hex(), (RAW,))
    return (key, "intern", "m", "test:m", TEXT, "stop", 900, 150, 0.001, 0.5, 1, "m", RAW, 1.0, checksum)


def measured(runs: list[Path], out: Path) -> tuple[float, float, float]:
    """Merge in a fresh process. Returns seconds, seconds of CPU, and peak memory in MiB."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_merge, (runs, out))


def _merge(runs: list[Path], out: Path) -> tuple[float, float, float]:
    began, busy = time.perf_counter(), time.process_time()
    merge_runs(runs, out)
    return time.perf_counter() - began, time.process_time() - busy, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(cases: int = 60_000) -> None:
    """Write the shards, merge them, merge them again."""
    heading(f"merge of {SHARDS} shards, {cases:,} cases, {CALLS} calls a case")
    with tempfile.TemporaryDirectory() as name:
        runs = [Path(name) / f"shard-{part}" for part in range(SHARDS)]
        for part, run in enumerate(runs):
            shard(run, part, cases)
        few = measured(runs[:1], Path(name) / "few")
        first, again = (measured(runs, Path(name) / "all") for _ in range(2))
        with Ledger.read(Path(name) / "all" / "ledger.sqlite") as ledger:
            calls = sum(spending.calls for spending in ledger.spending())
            results = sum(ledger.outcomes().values())
        gib = sum(file.stat().st_size for file in (Path(name) / "all").iterdir()) / 2**30
    table(
        ["merge", "cases", "calls", "GiB", "seconds", "CPU seconds", "peak memory, MiB"],
        [
            ["one shard", cases // SHARDS, cases // SHARDS * CALLS, gib / SHARDS, *few],
            ["all shards", results, calls, gib, *first],
            ["again", results, calls, gib, *again],
        ],
    )


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
