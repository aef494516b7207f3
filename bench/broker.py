"""The brokers of budgets, a Ray actor (extra ``ray``) and a file: leases a second, and what is spent if workers are killed.

``python -m bench broker``. Every worker asks for one lease after the other, as in a run. The part of a killed worker is continued from the
newest copy of its ledger. What was billed is what the workers wrote down as they sent each call, also those that no ledger has.
"""

import asyncio
import multiprocessing
import os
import random
import signal
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from bench.table import heading, table
from chiron.client.attempts import AttemptRecord
from chiron.client.broker import Broker, open_leases
from chiron.client.call import Reply
from chiron.client.failures import BudgetSpent
from chiron.client.lease import FileLeases, LeasedBudget, Leases
from chiron.client.ledger import Ledger
from chiron.jobs.ray_engine import RemoteLeases
from chiron.jobs.storage import LEASES, Storage, attempt_of, part_of, spent_in_copy
from tests.support.calls import a_call

SECONDS, WORKERS = 10.0, (1, 4)
KILLS, TOTAL, MOST, PAUSE = 20, 40.0, 0.02, "pause"
"""Kills; USD in all, and of one call at most; a file that exists while no new call is sent."""
AT_ONCE, COPY_EVERY, PATIENCE = 8, 0.5, 60.0
"""Calls in flight of a worker; seconds between copies of its ledger, and without a call after which something is wrong."""


async def rate(leases: Leases, seconds: float) -> int:
    """Number of leases in so many seconds."""
    begin, granted = time.monotonic(), 0
    while time.monotonic() - begin < seconds:
        granted += await leases.lease(1.0) > 0
    return granted


def ledger_of(folder: Path, holder: str) -> Path:
    """The ledger of a holder, in a folder of its own, in place of a local disk."""
    own = folder / holder
    own.mkdir(exist_ok=True)
    return own / "ledger.sqlite"


async def spend(leases: Leases, folder: Path, holder: str) -> float:
    """Send calls until the budget is spent. Returns what the ledger has as spent."""
    dice = random.Random(holder)
    with Ledger.open(ledger_of(folder, holder)) as ledger, (folder / f"{holder}.bills").open("wb", buffering=0) as bills:
        ledger.take_over_attempts()
        budget, names = LeasedBudget(leases, TOTAL, spent=ledger.spent_usd()), iter(range(10**9))
        over = asyncio.Event()

        async def calls() -> None:
            while True:
                while (folder / PAUSE).exists():
                    await asyncio.sleep(0.05)
                try:
                    reservation = await budget.reserve(MOST)
                except BudgetSpent:
                    return
                call = a_call(f"{holder}/{next(names)}")
                record = AttemptRecord(call, ledger)
                record.begin(MOST, on_record=True)
                cost = dice.uniform(0, MOST)
                bills.write(f"{cost!r}\n".encode())
                await asyncio.sleep(dice.uniform(0.005, 0.05))
                record.paid(Reply("yes", cost_usd=cost))
                await reservation.settle(cost)

        async def copies() -> None:
            while not over.is_set():
                await asyncio.sleep(COPY_EVERY)
                await asyncio.to_thread(Storage(str(folder)).put_ledger, ledger.path, holder)

        copying = asyncio.create_task(copies())
        await asyncio.gather(*(calls() for _ in range(AT_ONCE)))
        over.set()
        await copying
        return ledger.spent_usd()


class Workers(Protocol):
    """Processes that share a broker."""

    def open(self, holder: str, spent: float) -> None:
        """Add a holder."""

    def rates(self, holders: list[str], seconds: float) -> list[int]:
        """Leases of each holder in so many seconds, all at the same time."""

    def start(self, holder: str) -> int:
        """Let a process spend. Returns its ID."""

    def take_over(self, lost: list[str], holder: str, spent: float) -> None:
        """Add a holder that continues the part of killed ones, as the engine does."""

    def finish(self, holder: str) -> None:
        """Wait until a holder has spent what it can."""


class FileWorkers:
    """Processes with a lease file, as Slurm's tasks."""

    def __init__(self, folder: Path, limit: float, workers: int) -> None:
        """Create the file."""
        self._file, self._spawn = folder / LEASES, multiprocessing.get_context("spawn")
        self._running: dict[str, Any] = {}
        Broker(limit, 0.0, workers, self._file, shared=True).disconnect()
        self.broker = Broker.join(self._file)

    def open(self, holder: str, spent: float) -> None:
        self.broker.open(holder, spent)

    def rates(self, holders: list[str], seconds: float) -> list[int]:
        with self._spawn.Pool(len(holders)) as pool:
            pool.starmap(_file_rate, [(self._file, holder, 0.5) for holder in holders], chunksize=1)  # until all are started
            return pool.starmap(_file_rate, [(self._file, holder, seconds) for holder in holders], chunksize=1)

    def start(self, holder: str) -> int:
        process = self._running[holder] = self._spawn.Process(target=_file_spend, args=(self._file, holder))
        process.start()
        assert process.pid is not None
        return int(process.pid)

    def take_over(self, lost: list[str], holder: str, spent: float) -> None:
        self.broker.take_over(lost, holder, spent)

    def finish(self, holder: str) -> None:
        self._running[holder].join()
        assert self._running[holder].exitcode == 0


def _file_rate(file: Path, holder: str, seconds: float) -> int:
    return asyncio.run(rate(FileLeases(file, holder), seconds))


def _file_spend(file: Path, holder: str) -> None:
    async def main() -> None:
        leases = FileLeases(file, holder)
        await leases.end(await spend(leases, file.parent, holder))

    asyncio.run(main())


class RayProcess:
    """Actor that asks the broker actor."""

    async def pid(self) -> int:
        return os.getpid()

    async def rate(self, broker: Any, holder: str, seconds: float) -> int:
        return await rate(RemoteLeases(broker, holder), seconds)

    async def spend(self, broker: Any, folder: Path, holder: str) -> float:
        return await spend(RemoteLeases(broker, holder), folder, holder)


class RayWorkers:
    """Actors with a broker actor."""

    def __init__(self, folder: Path, limit: float, workers: int) -> None:
        """Start the broker; ``ray.init`` was called."""
        import ray

        self._ray, self._folder = ray, folder
        self._broker = ray.remote(Broker).options(num_cpus=0).remote(limit, 0.0, workers, folder / LEASES)
        self._ends: dict[str, Any] = {}

    def _actor(self) -> Any:
        return self._ray.remote(RayProcess).options(num_cpus=0).remote()

    def open(self, holder: str, spent: float) -> None:
        self._ray.get(self._broker.open.remote(holder, spent))

    def rates(self, holders: list[str], seconds: float) -> list[int]:
        actors = [self._actor() for _ in holders]
        self._ray.get([actor.rate.remote(self._broker, holder, 0.5) for actor, holder in zip(actors, holders, strict=True)])
        found = self._ray.get([actor.rate.remote(self._broker, holder, seconds) for actor, holder in zip(actors, holders, strict=True)])
        return [int(number) for number in found]

    def start(self, holder: str) -> int:
        actor = self._actor()
        pid = int(self._ray.get(actor.pid.remote()))
        self._ends[holder] = (actor, actor.spend.remote(self._broker, self._folder, holder))
        return pid

    def take_over(self, lost: list[str], holder: str, spent: float) -> None:
        self.open(holder, spent)
        usd = max(0.0, self._ray.get(self._broker.granted.remote(lost[-1])) - spent)
        with (self._folder / "lost").open("a") as file:  # in a run: Ledger.book_lost
            file.write(f"{usd!r}\n")
        self._ray.get(self._broker.close.remote(lost[-1], usd))

    def finish(self, holder: str) -> None:
        self._ray.get(self._ends[holder][1])


def bills_of(folder: Path, holder: str = "*") -> list[float]:
    """Cost of every call that was sent, by one holder or by all."""
    return [float(line) for file in folder.glob(f"{holder}.bills") for line in file.read_text().splitlines()]


def killed(workers: Workers, folder: Path) -> list[object]:
    """Kill, take over, spend to the end, and count."""
    dice, storage = random.Random(0), Storage(str(folder))
    attempts = {f"run-{part}": [f"run-{part}-0"] for part in range(4)}
    pids: dict[str, int] = {}
    # Starting a process takes seconds, in which the others would spend everything before the next kill.
    (folder / PAUSE).touch()
    for part, (holder,) in attempts.items():
        workers.open(holder, 0.0)
        pids[part] = workers.start(holder)
    for _ in range(KILLS):
        (folder / PAUSE).unlink()
        target, begin = len(bills_of(folder)) + dice.randrange(10, 120), time.monotonic()
        while len(bills_of(folder)) < target:
            time.sleep(0.02)
            assert time.monotonic() - begin < PATIENCE, "the workers send no calls"
        # One that holds a lease: others are still being started.
        part = dice.choice([part for part, holders in sorted(attempts.items()) if bills_of(folder, holders[-1])])
        os.kill(pids[part], signal.SIGKILL)
        (folder / PAUSE).touch()
        lost = attempts[part][-1]
        copied = next(reversed(storage.copies_of(part)), None)
        holder = f"{part_of(lost)}-{attempt_of(lost) + 1}"
        spent = spent_in_copy(storage, copied)
        if copied is not None:
            storage.get_ledger(copied, ledger_of(folder, holder))
        workers.take_over(attempts[part], holder, spent)
        attempts[part].append(holder)
        pids[part] = workers.start(holder)
    (folder / PAUSE).unlink()
    for holders in attempts.values():
        workers.finish(holders[-1])
    ledgers = 0.0
    for holders in attempts.values():
        with Ledger.read(ledger_of(folder, holders[-1])) as ledger:
            ledgers += ledger.spent_usd()
    lost_usd = sum(lease.usd for lease in open_leases(folder / LEASES) if lease.lost)
    if (folder / "lost").is_file():
        lost_usd += sum(map(float, (folder / "lost").read_text().split()))
    costs = bills_of(folder)
    over = max(0.0, sum(costs) - TOTAL, ledgers + lost_usd - TOTAL - 1e-9)
    return [KILLS, TOTAL, len(costs), sum(costs), ledgers, lost_usd, ledgers + lost_usd, over]


@contextmanager
def cluster() -> Iterator[None]:
    """A Ray cluster on this machine."""
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        yield
    finally:
        ray.shutdown()


def main() -> None:
    """Measure both brokers."""
    kinds: dict[str, Callable[[Path, float, int], Workers]] = {"Ray actor": RayWorkers, "file (Slurm)": FileWorkers}
    if find_spec("ray") is None:
        print("Ray is not installed (extra 'ray'): only the file is measured")
        del kinds["Ray actor"]
    with cluster() if "Ray actor" in kinds else nullcontext(), tempfile.TemporaryDirectory() as name:
        heading(f"brokers of budgets: leases a second; load {os.getloadavg()[0]:.1f}")
        rows: list[list[object]] = []
        for title, kind in kinds.items():
            for number in WORKERS:
                folder = Path(name) / f"rate-{len(rows)}"
                folder.mkdir()
                holders = [f"run-{part}-0" for part in range(number)]
                workers: Workers = kind(folder, 1e12, number)
                for holder in holders:
                    workers.open(holder, 0.0)
                found = workers.rates(holders, SECONDS)
                with closing(sqlite3.connect(folder / LEASES)) as db:
                    recorded = db.execute("SELECT COUNT(*) FROM leases WHERE usd > 0").fetchone()[0]
                assert recorded == number
                rows.append([title, number, sum(found) / SECONDS, min(found) / SECONDS, os.getloadavg()[0]])
        table(["broker", "workers", "leases a second, together", "of the slowest worker", "load"], rows)
        heading(f"{KILLS} times kill -9 of one of four workers, {AT_ONCE} calls in flight each, copies every {COPY_EVERY:g} s")
        rows = []
        for title, kind in kinds.items():
            folder = Path(name) / f"kills-{len(rows)}"
            folder.mkdir()
            rows.append([title, *killed(kind(folder, TOTAL, 4), folder)])
        table(
            [
                "broker",
                "kills",
                "budget, USD",
                "calls sent",
                "billed, USD",
                "in ledgers, USD",
                "counted as lost, USD",
                "counted",
                "overshoot",
            ],
            rows,
        )


if __name__ == "__main__":
    main()
