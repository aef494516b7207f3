"""Several processes share one budget: it is never overshot, no process takes all of it, and what a lost one may have spent is counted."""

import asyncio
import multiprocessing
import random
import sqlite3
import struct
import subprocess
import sys
from contextlib import closing
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest

from chiron.client import broker as broker_module
from chiron.client.attempts import Budget
from chiron.client.broker import Broker, OpenLease, open_leases
from chiron.client.failures import BudgetSpent, RunStopped, UserStopped
from chiron.client.lease import FileLeases, LeasedBudget, Leases, SharedPace
from chiron.client.limiter import Limiter, Pace


class InProcess(Leases):
    """A holder's connection to a broker in the same process."""

    def __init__(self, broker: Broker, holder: str) -> None:
        self._broker, self._holder = broker, holder

    async def _ask(self, method: str, *values: Any) -> Any:
        await asyncio.sleep(0)
        return getattr(self._broker, method)(self._holder, *values)


def a_budget(broker: Broker, holder: str, total: float, spent: float = 0.0) -> LeasedBudget:
    broker.open(holder, spent)
    return LeasedBudget(InProcess(broker, holder), total, spent=spent)


async def spend_all(budget: Budget, dice: random.Random, most: float) -> int:
    """Reserve and settle calls, eight at once, until the budget is spent. Returns the number of calls."""
    calls = 0

    async def one() -> None:
        nonlocal calls
        while True:
            try:
                reservation = await budget.reserve(most)
            except BudgetSpent:
                return
            calls += 1
            await asyncio.sleep(0)
            await reservation.settle(most * dice.random())

    await asyncio.gather(*(one() for _ in range(8)))
    return calls


def test_four_workers_spend_one_budget_to_its_end_and_never_more(tmp_path: Path) -> None:
    broker = Broker(10.0, 1.0, 4, tmp_path / "leases.sqlite")
    budgets = [a_budget(broker, str(n), 10.0) for n in range(4)]

    async def main() -> list[int]:
        return await asyncio.gather(*(spend_all(budget, random.Random(n), 0.05) for n, budget in enumerate(budgets)))

    calls = asyncio.run(main())
    spent = 1.0 + sum(budget.spent for budget in budgets)
    assert 10.0 - 0.05 <= spent <= 10.0 + 1e-9
    assert min(calls) > sum(calls) / 8  # none is starved


def test_a_lease_leaves_money_for_the_others_and_is_recorded_before_it_is_used(tmp_path: Path) -> None:
    broker = Broker(8.0, 0.0, 4, tmp_path / "leases.sqlite")
    broker.open("a", 0.0)
    granted = broker.lease("a", 0.5)
    assert 0.5 <= granted <= 1.0
    assert open_leases(tmp_path / "leases.sqlite") == [OpenLease("a", granted, lost=False)]
    broker.close("a", 0.25)
    assert open_leases(tmp_path / "leases.sqlite") == []
    assert broker.lease("a", 0.1) == 0.0  # a lost worker that is still running gets nothing


def test_what_a_lost_worker_was_granted_stays_counted(tmp_path: Path) -> None:
    broker = Broker(1.0, 0.0, 1, tmp_path / "leases.sqlite")
    broker.open("lost", 0.0)
    while broker.lease("lost", 0.1):
        pass
    granted = broker.granted("lost")
    copied = 0.25
    broker.open("next", copied)
    broker.close("lost", granted - copied)
    budget = LeasedBudget(InProcess(broker, "next"), 1.0, spent=copied)
    asyncio.run(spend_all(budget, random.Random(0), 0.01))
    assert granted - copied + budget.spent <= 1.0 + 1e-9


def test_a_worker_that_waits_for_money_ends_when_the_run_stops(tmp_path: Path) -> None:
    broker = Broker(1.0, 0.0, 2, tmp_path / "leases.sqlite")
    other, waiting = a_budget(broker, "other", 1.0), a_budget(broker, "waiting", 1.0)

    async def main() -> None:
        await other.reserve(0.9)
        task = asyncio.create_task(waiting.reserve(0.5))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not task.done()
        waiting.closed = UserStopped("stopped")
        with pytest.raises(UserStopped):
            await task

    asyncio.run(main())


def test_money_that_one_worker_does_not_need_lets_another_continue(tmp_path: Path) -> None:
    broker = Broker(1.0, 0.0, 2, tmp_path / "leases.sqlite")
    first, second = a_budget(broker, "first", 1.0), a_budget(broker, "second", 1.0)

    async def main() -> None:
        large = await first.reserve(0.8)
        waiting = asyncio.create_task(second.reserve(0.6))
        await asyncio.sleep(0)
        await large.settle(0.1)
        with pytest.raises(BudgetSpent):
            await first.reserve(0.95)
        await (await waiting).settle(0.6)

    asyncio.run(main())
    assert first.spent + second.spent == pytest.approx(0.7)


def spend_in_process(file: Path, holder: str, total: float, ledgers: "multiprocessing.SimpleQueue[float]") -> None:
    budget = LeasedBudget(FileLeases(file, holder), total, spent=0.0)
    asyncio.run(spend_all(budget, random.Random(holder), 0.05))
    ledgers.put(budget.spent)


@pytest.mark.slow
def test_processes_that_share_a_file_spend_one_budget_to_its_end_and_never_more(tmp_path: Path) -> None:
    file = tmp_path / "leases.sqlite"
    broker = Broker(2.0, 0.5, 3, file, shared=True)
    assert broker.granted("0") == 0.0
    spawn = multiprocessing.get_context("spawn")
    ledgers = spawn.SimpleQueue()
    for n in range(3):
        broker.open(str(n), 0.0)
    processes = [spawn.Process(target=spend_in_process, args=(file, str(n), 2.0, ledgers)) for n in range(3)]
    for process in processes:
        process.start()
    spent = [ledgers.get() for _ in processes]
    for process in processes:
        process.join()
    assert 2.0 - 0.05 <= 0.5 + sum(spent) <= 2.0 + 1e-9
    assert sum(lease.usd for lease in open_leases(file)) == pytest.approx(sum(spent))


async def spend_until_none_is_left(leases: FileLeases, holder: str, spent: float, parent: Connection) -> None:
    """Lease, spend and give back at random. Report every cost to the parent before it is spent, and wait for its answer."""
    dice, held = random.Random(holder), spent
    while True:
        amount = dice.uniform(0.001, 0.05)
        if spent + amount > held:
            granted = await leases.lease(spent + amount - held)
            held += granted
            if not granted:
                held = spent
                if not await leases.give_back(spent):
                    return await leases.end(spent)
                continue
        cost = dice.uniform(0.0, amount)
        parent.send_bytes(struct.pack("d", cost))
        parent.recv_bytes()
        spent += cost
        if dice.random() < 0.1:
            held = spent
            await leases.give_back(spent)


def random_holder(file: Path, holder: str, spent: float, parent: Connection) -> None:
    with closing(FileLeases(file, holder)) as leases:
        asyncio.run(spend_until_none_is_left(leases, holder, spent, parent))


class Holders:
    """Processes that spend one budget, each with a pipe on which it reports its costs."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.running: dict[Connection, tuple[str, Any]] = {}
        self.costs: dict[str, list[float]] = {}  # by holder: what its ledger took over, then every cost

    def start(self, holder: str, spent: float) -> None:
        here, there = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=random_holder, args=(self._file, holder, spent, there), daemon=True)
        process.start()
        there.close()
        self.running[here], self.costs[holder] = (holder, process), [spent]

    def read(self, connection: Connection) -> bool:
        """Read one cost. Returns whether there was one; otherwise the process has ended."""
        try:
            self.costs[self.running[connection][0]] += struct.unpack("d", connection.recv_bytes())
        except (EOFError, ConnectionResetError):
            connection.close()
            self.running.pop(connection)[1].join()
            return False
        return True

    def pay(self) -> None:
        """Let every process that reported a cost continue."""
        for connection in wait(list(self.running)):
            assert isinstance(connection, Connection)
            if self.read(connection):
                connection.send_bytes(b"paid")

    def kill(self, connection: Connection) -> str:
        holder, process = self.running[connection]
        process.kill()
        while self.read(connection):
            pass
        return str(holder)

    def calls(self) -> int:
        return sum(len(costs) - 1 for costs in self.costs.values())

    def billed(self) -> float:
        return sum(sum(costs[1:]) for costs in self.costs.values())


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_processes_that_are_killed_and_continued_at_random_never_hold_more_than_the_budget(tmp_path: Path, seed: int) -> None:
    limit, dice, file = 10.0, random.Random(seed), tmp_path / "leases.sqlite"
    broker, holders = Broker(limit, 0.0, 3, file, shared=True), Holders(file)
    for part in range(3):
        broker.open(f"{part}-0", 0.0)
        holders.start(f"{part}-0", 0.0)
    kills, next_kill = 0, 50
    while holders.running:
        holders.pay()
        assert sum(lease.usd for lease in open_leases(file)) <= limit + 1e-9
        for holder, _ in holders.running.values():
            assert sum(holders.costs[holder]) <= broker.granted(holder) + 1e-9  # written before it is spent
        if holders.calls() >= next_kill and kills < 6 and holders.running:
            lost = holders.kill(dice.choice(list(holders.running)))
            part, attempt = map(int, lost.split("-"))
            copied = sum(holders.costs[lost][: dice.randrange(1, len(holders.costs[lost]) + 1)])  # its last costs are in no copy
            broker.take_over([f"{part}-{n}" for n in range(attempt + 1)], f"{part}-{attempt + 1}", copied)
            holders.start(f"{part}-{attempt + 1}", copied)
            kills, next_kill = kills + 1, holders.calls() + dice.randrange(10, 60)
    assert kills == 6
    assert holders.billed() <= limit + 1e-9
    assert limit - 0.05 <= sum(lease.usd for lease in open_leases(file)) <= limit + 1e-9
    broker.disconnect()


def use_the_file(file: Path, holder: str, ready: Any, over: Any, counts: Any) -> None:
    """As holder ``a``, get 20 leases. As another one, use the file for long, again and again, until the first one has them."""

    async def main() -> None:
        count, paces = 0, {f"endpoint {n}": Pace(1, 1.0, 0.0) for n in range(1000)}
        try:
            with closing(FileLeases(file, holder)) as leases:
                ready.wait()
                while holder != "a" and not over.is_set():
                    await leases.pace(paces)
                    count += 1
                for _ in range(20 if holder == "a" else 0):
                    assert await leases.lease(0.001)
        finally:
            over.set()
            counts.put(count)

    asyncio.run(main())


@pytest.mark.slow
def test_no_process_waits_for_the_file_while_others_use_it_again_and_again(tmp_path: Path) -> None:
    file = tmp_path / "leases.sqlite"
    broker = Broker(1e9, 0.0, 4, file, shared=True)
    spawn = multiprocessing.get_context("spawn")
    ready, over, counts = spawn.Barrier(4), spawn.Event(), spawn.SimpleQueue()
    for holder in "abcd":
        broker.open(holder, 0.0)
    broker.disconnect()
    processes = [spawn.Process(target=use_the_file, args=(file, holder, ready, over, counts), daemon=True) for holder in "abcd"]
    for process in processes:
        process.start()
    used = sum(counts.get() for _ in processes)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert used < 120  # the other three, during 20 leases of the first: with SQLite's own waiting, 200 to 800


def test_the_next_attempt_takes_over_what_the_copy_has_and_the_rest_stays_taken(tmp_path: Path) -> None:
    file = tmp_path / "leases.sqlite"
    Broker(1.0, 0.0, 1, file, shared=True).disconnect()
    broker = Broker.join(file)
    broker.open("run-0-0", 0.0)
    granted = broker.lease("run-0-0", 0.1)
    broker.take_over(["run-0-0"], "run-0-1", 0.04)
    assert broker.lease("run-0-0", 0.01) == 0.0  # the first attempt may still run somewhere
    broker.take_over(["run-0-0", "run-0-1"], "run-0-2", 0.04)  # the second one ended before its first copy
    assert {lease.holder: (lease.usd, lease.lost) for lease in open_leases(file)} == {
        "run-0-0": (pytest.approx(granted - 0.04), True),
        "run-0-1": (0.0, True),
        "run-0-2": (0.04, False),
    }
    assert not broker.give_back("run-0-2", 0.04)


def test_money_of_a_killed_holder_is_not_waited_for_without_end(tmp_path: Path) -> None:
    file = tmp_path / "leases.sqlite"
    broker = Broker(1.0, 0.0, 2, file, shared=True)
    broker.open("killed", 0.0)
    broker.open("here", 0.0)
    broker.lease("killed", 0.9)
    assert asyncio.run(FileLeases(file, "here", silence=1e9).give_back(0.0))
    assert not asyncio.run(FileLeases(file, "here", silence=0.0).give_back(0.0))


def test_a_process_killed_while_it_created_the_file_left_no_lease(tmp_path: Path) -> None:
    file = tmp_path / "leases.sqlite"
    with closing(sqlite3.connect(file)) as db:
        db.execute("PRAGMA journal_mode=WAL")
    assert file.stat().st_size
    assert open_leases(file) == []


def test_a_lease_file_that_was_removed_stops_the_run(tmp_path: Path) -> None:
    file = tmp_path / "leases.sqlite"
    Broker(1.0, 0.0, 1, file, shared=True).disconnect()
    with closing(FileLeases(file, "a")) as leases:
        file.unlink()
        with pytest.raises(RunStopped, match=r"leases.sqlite cannot be used .*: run the same command again"):
            asyncio.run(leases.lease(0.1))
    assert not file.exists()


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_lease_file_that_is_removed_or_replaced_while_it_is_open_stops_the_run(tmp_path: Path, is_replaced: bool) -> None:
    file = tmp_path / "leases.sqlite"

    def create() -> Broker:
        broker = Broker(1.0, 0.0, 1, file, shared=True)
        broker.open("a", 0.0)
        return broker

    with closing(FileLeases(file, "a")) as leases:
        create().disconnect()
        assert asyncio.run(leases.lease(0.1))
        file.unlink()
        later = create() if is_replaced else None
        for _ in range(2):
            for ask in (lambda: leases.lease(0.1), lambda: leases.lease(9.0), lambda: leases.give_back(0.1), lambda: leases.pace({})):
                with pytest.raises(RunStopped, match=r"leases.sqlite cannot be used .*: run the same command again"):
                    asyncio.run(ask())
        assert file.exists() == is_replaced
        if later is not None:
            assert later.granted("a") == 0.0
            later.disconnect()


def test_a_replaced_file_keeps_its_journal_when_the_old_one_is_used(tmp_path: Path) -> None:
    """SQLite finds a journal by its name, so the old file would get what another process writes to the new one at this moment."""
    file = tmp_path / "leases.sqlite"
    old = Broker(1.0, 0.0, 1, file, shared=True)
    old.open("a", 0.0)
    old.lease("a", 0.1)
    file.unlink()
    new = Broker(1.0, 0.0, 1, file, shared=True)
    new.open("a", 0.0)
    new._db.execute("PRAGMA synchronous=OFF")
    new._db.execute("BEGIN IMMEDIATE")
    new._db.execute("UPDATE leases SET usd = 0.5")
    with pytest.raises(FileExistsError):
        old.lease("a", 0.1)
    new._db.execute("ROLLBACK")
    assert new.granted("a") == 0.0
    new.disconnect()
    old.disconnect()


def test_a_file_that_cannot_be_used_for_a_moment_is_free_for_the_next_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "_BUSY", 0.1)
    file = tmp_path / "leases.sqlite"
    Broker(1.0, 0.0, 1, file, shared=True).disconnect()
    broker = Broker.join(file)
    # Other processes, because locks do not exclude each other within one. This one locks without a turn, as a backup of the file does.
    code = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('BEGIN EXCLUSIVE'); print('locked', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            broker.open("a", 0.0)
        other.communicate("\n")
    code = (
        "import sys; from pathlib import Path; from chiron.client import broker\n"
        "broker._BUSY = 1; broker.Broker.join(Path(sys.argv[1])).open('b', 0.0)"
    )
    subprocess.run([sys.executable, "-c", code, str(file)], check=True)
    assert broker.holders() == ["b"]
    broker.disconnect()


def test_leases_of_an_earlier_version_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "leases.sqlite"
    db = sqlite3.connect(file)
    db.execute("CREATE TABLE leases (holder TEXT PRIMARY KEY, usd REAL NOT NULL)")
    db.execute("INSERT INTO leases VALUES ('run-0-0', 0.5)")
    db.commit()
    db.close()
    assert open_leases(file) == [OpenLease("run-0-0", 0.5, lost=False)]


async def overload(limiter: Limiter) -> None:
    """Answer four calls in flight with a rate limit."""
    for _ in range(4):
        async with limiter.slot() as epoch:
            limiter.rate_limited(epoch, 30.0)


def test_rate_limits_of_one_worker_slow_the_others_once(tmp_path: Path) -> None:
    broker = Broker(None, 0.0, 3, tmp_path / "leases.sqlite")

    async def main() -> None:
        limited, other, late = Limiter(4), Limiter(4), Limiter(4)
        first, second = (SharedPace(InProcess(broker, name), {"m": limiter}) for name, limiter in (("a", limited), ("b", other)))
        await first.exchange()
        await second.exchange()
        assert other.allowed == 4.0
        await overload(limited)
        assert limited.allowed == 2.0
        await first.exchange()
        await second.exchange()
        assert other.allowed == 2.0
        assert other.pace().pause > 0.0
        other.succeeded()
        raised = other.allowed
        for _ in range(3):  # neither passes the same rate limits on again
            await first.exchange()
            await second.exchange()
        assert (limited.allowed, other.allowed) == (2.0, raised)
        await SharedPace(InProcess(broker, "c"), {"m": late}).exchange()
        assert late.allowed == 2.0  # a new worker starts at the pace of the others
        assert late.pace().pause == 0.0

    asyncio.run(main())
