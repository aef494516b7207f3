"""One budget for several processes: a broker leases money to them, and never more than the limit."""

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Protocol

from chiron.client.attempts import Budget, budget_spent

_CALLS = 16
"""A lease covers at most so many calls as dear as the one that needs it, so that little is unaccounted for if its process dies."""
_SHARE = 8
"""A lease is at most this fraction of a worker's part of the money left, so that no worker takes what the others need."""
_PATIENCE = 0.2
"""Seconds between requests while other workers may return money."""


class Broker:
    """Leases of one budget. They are written to a file before they are granted, so that a later process can count them.

    A holder is one attempt to run one part of a job. What it was granted counts as spent until its ledger says how much it spent.
    """

    def __init__(self, limit: float, spent: float, workers: int, file: Path) -> None:
        """``spent``: USD booked in the run's ledger. ``workers``: number of processes that hold leases at the same time."""
        self._limit, self._booked, self._workers = limit, spent, workers
        self._granted: dict[str, float] = {}
        self._idle: set[str] = set()
        self._db = sqlite3.connect(file, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("CREATE TABLE IF NOT EXISTS leases (holder TEXT PRIMARY KEY, usd REAL NOT NULL)")

    def lease(self, holder: str, amount: float) -> float:
        """Return the USD granted, at least ``amount``; 0 if the money left is not enough now."""
        free = self._limit - self._booked - sum(self._granted.values())
        if holder not in self._granted or amount > free:
            return 0.0
        usd = min(free, max(amount, min(free / (_SHARE * self._workers), _CALLS * amount)))
        self._idle.discard(holder)
        self._set(holder, self._granted[holder] + usd)
        return usd

    def give_back(self, holder: str, spent: float) -> bool:
        """Take back what a holder has left while it has no call in flight. Returns whether it may wait for money of the others."""
        if holder in self._granted:
            self._set(holder, spent)
            self._idle.add(holder)
        return bool(self._granted.keys() - self._idle)

    def open(self, holder: str, spent: float) -> None:
        """Add a holder whose ledger already contains ``spent`` USD."""
        self._set(holder, spent)

    def granted(self, holder: str) -> float:
        """Return the USD granted to a holder."""
        return self._granted.get(holder, 0.0)

    def close(self, holder: str, booked: float) -> None:
        """Remove a holder. ``booked``: USD that the run's ledger now contains for it, including what was lost with it."""
        self._booked += booked
        self._granted.pop(holder, None)
        self._idle.discard(holder)
        self._db.execute("DELETE FROM leases WHERE holder = ?", (holder,))

    def _set(self, holder: str, usd: float) -> None:
        self._db.execute("INSERT OR REPLACE INTO leases VALUES (?,?)", (holder, usd))
        self._granted[holder] = usd


def open_leases(file: Path) -> dict[str, float]:
    """Read the leases of a process that was killed: USD by holder."""
    if not file.is_file():
        return {}
    db = sqlite3.connect(file)
    try:
        return dict(db.execute("SELECT holder, usd FROM leases"))
    finally:
        db.close()


class Leases(Protocol):
    """A holder's connection to the broker."""

    async def lease(self, amount: float) -> float:
        """See :meth:`Broker.lease`."""
        ...

    async def give_back(self, spent: float) -> bool:
        """See :meth:`Broker.give_back`."""
        ...


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
