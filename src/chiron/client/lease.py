"""One budget and one pace for several processes: a broker leases money to them, and tells each one how rate limits slowed the others."""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

from chiron.client.attempts import Budget, budget_spent
from chiron.client.failures import RunStopped
from chiron.client.limiter import Limiter, Pace

_CALLS = 16
"""A lease covers at most so many calls as dear as the one that needs it, so that little is unaccounted for if its process dies."""
_SHARE = 8
"""A lease is at most this fraction of a worker's part of the money left, so that no worker takes what the others need."""
_PATIENCE = 0.2
"""Seconds between requests while other workers may return money."""
_SILENCE = 600.0
"""Seconds without a sign of life from any other holder after which a process no longer waits for their money."""
_BUSY = 60.0
"""Seconds to wait while another process uses the file."""
_TABLES = """
CREATE TABLE leases (
    holder TEXT PRIMARY KEY, usd REAL NOT NULL, idle INTEGER NOT NULL DEFAULT 0, lost INTEGER NOT NULL DEFAULT 0,
    beats INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE budget (usd REAL, booked REAL NOT NULL, workers INTEGER NOT NULL);
CREATE TABLE paces (
    holder TEXT NOT NULL, endpoint TEXT NOT NULL, times INTEGER NOT NULL, share REAL NOT NULL, pause REAL NOT NULL,
    PRIMARY KEY (holder, endpoint)
);
"""
_LIVE = "NOT idle AND NOT lost"


class Broker:
    """Leases of one budget, in a file. A lease is written before it is granted, so that a later process can count it.

    A holder is one attempt to run one part of a job. What it was granted counts as spent until its ledger says how much it spent.
    Several processes may each have a broker of the same file (:meth:`join`). No clock is compared between them.
    """

    def __init__(self, limit: float | None, spent: float, workers: int, file: Path, *, shared: bool = False) -> None:
        """Create the file.

        Args:
            limit: the budget in USD; ``None`` without one.
            spent: USD booked in the run's ledger.
            workers: number of processes that hold leases at the same time.
            file: the file to create.
            shared: processes on other machines will join it. Slower, because write-ahead logs do not work on shared folders.
        """
        self._db = sqlite3.connect(file, isolation_level=None)
        self._db.execute(f"PRAGMA journal_mode={'DELETE' if shared else 'WAL'}")
        self._db.execute(f"PRAGMA synchronous={'FULL' if shared else 'NORMAL'}")
        self._db.executescript(_TABLES)
        self._db.execute("INSERT INTO budget VALUES (?,?,?)", (limit, spent, workers))

    @classmethod
    def join(cls, file: Path) -> Self:
        """Open the file that another process created.

        Raises:
            sqlite3.OperationalError: it does not exist, or cannot be used.
        """
        broker = cls.__new__(cls)
        broker._db = sqlite3.connect(  # noqa: SLF001 - of this class
            f"{file.resolve().as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=_BUSY
        )
        return broker

    def disconnect(self) -> None:
        """Close the connection to the file."""
        self._db.close()

    def lease(self, holder: str, amount: float) -> float:
        """Return the USD granted, at least ``amount``; 0 if the money left is not enough now."""
        with self._alone():
            held = self._row("SELECT usd FROM leases WHERE holder = ? AND NOT lost", holder)
            limit, workers, taken = self._budget()
            free = limit - taken
            if held is None or amount > free:
                return 0.0
            usd = float(min(free, max(amount, min(free / (_SHARE * workers), _CALLS * amount))))
            self._db.execute("UPDATE leases SET usd = usd + ?, idle = 0, beats = beats + 1 WHERE holder = ?", (usd, holder))
            return usd

    def _budget(self) -> tuple[float, int, float]:
        row = self._row("SELECT usd, workers, booked + (SELECT COALESCE(SUM(usd), 0) FROM leases) FROM budget")
        return row[0], row[1], row[2]

    def give_back(self, holder: str, spent: float) -> bool:
        """Take back what a holder has left while it has no call in flight. Returns whether it may wait for money of the others."""
        with self._alone():
            self._db.execute("UPDATE leases SET usd = ?, idle = 1, beats = beats + 1 WHERE holder = ? AND NOT lost", (spent, holder))
            return self._row(f"SELECT 1 FROM leases WHERE {_LIVE} LIMIT 1") is not None  # noqa: S608 - a constant

    def beats(self, holder: str) -> list[tuple[str, int]]:
        """Return the signs of life of the other holders that are not idle."""
        return list(self._db.execute(f"SELECT holder, beats FROM leases WHERE {_LIVE} AND holder <> ?", (holder,)))  # noqa: S608 - as above

    def pace(self, holder: str, own: Mapping[str, Pace]) -> dict[tuple[str, str], Pace]:
        """Store a holder's own pace by endpoint. Returns that of the others, by holder and endpoint."""
        with self._alone():
            self._db.execute("UPDATE leases SET beats = beats + 1 WHERE holder = ?", (holder,))
            rows = [(holder, name, pace.times, pace.share, pace.pause) for name, pace in own.items()]
            self._db.executemany("INSERT OR REPLACE INTO paces VALUES (?,?,?,?,?)", rows)
            others = self._db.execute("SELECT holder, endpoint, times, share, pause FROM paces WHERE holder <> ?", (holder,))
            return {(who, name): Pace(times, share, pause) for who, name, times, share, pause in others}

    def open(self, holder: str, spent: float) -> None:
        """Add a holder whose ledger already contains ``spent`` USD."""
        self._db.execute("INSERT OR REPLACE INTO leases (holder, usd) VALUES (?,?)", (holder, spent))

    def holders(self) -> list[str]:
        """Return the names of all holders, also of lost ones."""
        return [str(row[0]) for row in self._db.execute("SELECT holder FROM leases")]

    def take_over(self, before: list[str], holder: str, spent: float) -> None:
        """Add a holder that continues the part of others. It has ``spent`` USD of theirs in its ledger; the rest of theirs stays taken."""
        with self._alone():
            for lost in before:
                self._db.execute("UPDATE leases SET usd = MAX(0, usd - ?), lost = 1 WHERE holder = ? AND NOT lost", (spent, lost))
                self._db.execute("DELETE FROM paces WHERE holder = ?", (lost,))
            self.open(holder, spent)

    def granted(self, holder: str) -> float:
        """Return the USD granted to a holder."""
        row = self._row("SELECT usd FROM leases WHERE holder = ?", holder)
        return 0.0 if row is None else float(row[0])

    def end(self, holder: str, spent: float) -> None:
        """Keep only what a holder spent: it sends no more calls."""
        self.give_back(holder, spent)
        self._db.execute("DELETE FROM paces WHERE holder = ?", (holder,))

    def close(self, holder: str, booked: float) -> None:
        """Remove a holder. ``booked``: USD that the run's ledger now contains for it, including what was lost with it."""
        with self._alone():
            self._db.execute("UPDATE budget SET booked = booked + ?", (booked,))
            self._db.execute("DELETE FROM leases WHERE holder = ?", (holder,))
            self._db.execute("DELETE FROM paces WHERE holder = ?", (holder,))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes out of the file for the duration of the block."""
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:
            yield

    def _row(self, sql: str, *values: Any) -> Any:
        return self._db.execute(sql, values).fetchone()


@dataclass(frozen=True, slots=True)
class OpenLease:
    """A lease in the file of a process that has ended."""

    holder: str
    usd: float
    lost: bool
    """Whether a later holder took over its part. ``usd`` is then what no ledger accounts for."""


def open_leases(file: Path) -> list[OpenLease]:
    """Read the leases that a process left."""
    if not file.is_file():
        return []
    with closing(sqlite3.connect(file)) as db:
        db.row_factory = sqlite3.Row
        rows = [dict(row) for row in db.execute("SELECT * FROM leases")]
    return [OpenLease(str(row["holder"]), float(row["usd"]), bool(row.get("lost"))) for row in rows]


class Leases(Protocol):
    """A holder's connection to the broker."""

    async def lease(self, amount: float) -> float:
        """See :meth:`Broker.lease`."""
        ...

    async def give_back(self, spent: float) -> bool:
        """See :meth:`Broker.give_back`."""
        ...

    async def pace(self, own: Mapping[str, Pace]) -> Mapping[tuple[str, str], Pace]:
        """See :meth:`Broker.pace`."""
        ...


class FileLeases:
    """A holder's connection to a broker's file on a shared folder."""

    def __init__(self, file: Path, holder: str, *, silence: float = _SILENCE) -> None:
        """``silence``: seconds without a sign of life of the other holders after which their money is not waited for."""
        self._file, self._holder, self._silence = file, holder, silence
        self._beats: list[tuple[str, int]] = []
        self._since = time.monotonic()

    async def lease(self, amount: float) -> float:
        """See :meth:`Broker.lease`."""
        return float(await self._ask("lease", amount))

    async def give_back(self, spent: float) -> bool:
        """See :meth:`Broker.give_back`. Holders that were killed do not keep this one waiting for ever."""
        if not await self._ask("give_back", spent):
            return False
        beats = await self._ask("beats")
        if beats != self._beats:
            self._beats, self._since = beats, time.monotonic()
        return time.monotonic() - self._since < self._silence

    async def pace(self, own: Mapping[str, Pace]) -> Mapping[tuple[str, str], Pace]:
        """See :meth:`Broker.pace`."""
        found: Mapping[tuple[str, str], Pace] = await self._ask("pace", own)
        return found

    async def end(self, spent: float) -> None:
        """See :meth:`Broker.end`."""
        await self._ask("end", spent)

    async def _ask(self, method: str, *values: Any) -> Any:
        try:
            return await asyncio.to_thread(self._once, method, *values)
        except sqlite3.Error as error:
            raise RunStopped(f"the shared budget {self._file} cannot be used ({error}): run the same command again") from error

    def _once(self, method: str, *values: Any) -> Any:
        # Opened each time: money must not be leased from a file that was deleted because the run was taken over.
        broker = Broker.join(self._file)
        try:
            return getattr(broker, method)(self._holder, *values)
        finally:
            broker.disconnect()


class SharedPace:
    """Slow the limiters of this process when rate limits slowed those of another one."""

    def __init__(self, leases: Leases, limiters: Mapping[str, Limiter]) -> None:
        """``limiters``: by endpoint."""
        self._leases, self._limiters = leases, limiters
        self._seen: dict[tuple[str, str], int] | None = None

    async def exchange(self) -> None:
        """Report the own pace, and follow those that were slowed since the last exchange.

        Raises:
            RunStopped: the broker does not answer.
        """
        others = await self._leases.pace({name: limiter.pace() for name, limiter in self._limiters.items()})
        seen, self._seen = self._seen, {place: pace.times for place, pace in others.items()}
        for place, pace in others.items():
            if place[1] not in self._limiters:
                continue
            if seen is None and pace.times:
                self._limiters[place[1]].follow(replace(pace, pause=0.0))  # its pause may be over
            elif seen is not None and pace.times > seen.get(place, 0):
                self._limiters[place[1]].follow(pace)


class LeasedBudget(Budget):
    """The part of a shared budget that one process holds. It asks for more when a call does not fit."""

    def __init__(self, leases: Leases, total: float, *, spent: float) -> None:
        """``total``: the whole budget, for messages. ``spent``: USD in this process's ledger."""
        super().__init__(spent, spent=spent)
        self._leases, self._total = leases, total

    async def _make_room(self, amount: float) -> None:
        if self.closed is not None:
            raise self.closed.with_traceback(None)
        held = self.limit or 0.0
        granted = await self._leases.lease(self.spent + self.reserved + amount - held)
        if granted:
            self.limit = held + granted
            return
        if not self._outstanding and held > self.spent:
            # Another worker may need exactly this rest.
            self.limit = self.spent
            await self._leases.give_back(self.spent)
            return
        if not self._outstanding and not await self._leases.give_back(self.spent):
            raise budget_spent(self._total, self._total, amount)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._settled.wait(), _PATIENCE)
