"""One budget for several processes, in a file: leases of money, and how rate limits slowed each process."""

import os
import random
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from chiron.client.limiter import Pace

_CALLS = 16
"""A lease covers at most so many calls as dear as the one that needs it, so that little is unaccounted for if its process dies."""
_SHARE = 8
"""A lease is at most this fraction of a worker's part of the money left, so that no worker takes what the others need."""
_BUSY = 60.0
"""Seconds to wait while another process uses the file."""
_TURN = 1 << 40
"""Byte of a shared file that the next process locks before SQLite's own locks. It is far beyond them and beyond the content."""
# The length of a row of leases never changes: floats in a column without a type take 8 bytes, also whole numbers; beats take 6.
_TABLES = """
CREATE TABLE leases (
    holder TEXT PRIMARY KEY, usd NOT NULL, idle INTEGER NOT NULL DEFAULT 0, lost INTEGER NOT NULL DEFAULT 0,
    beats INTEGER NOT NULL DEFAULT 4294967296
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

    A shared file has a rollback journal, because write-ahead logs do not work on shared folders. If a process is killed, the next one
    completes or reverts what it wrote. SQLite's own synchronization would flush the disk at least three times while all others wait.
    Instead, :meth:`lease` flushes the file once, after it released the lock and before it grants the money:

    - A machine that uses a shared folder dies: its granted leases are on the server. NFS also writes everything before it releases a lock.
    - The machine with the file loses power: what was granted is in the file. A remaining journal may revert the last moments, as in the
      ledgers, whose copies say what was spent.
    - Both may cut a change in two. A lease changes one row and not its length, so one page: the file stays valid. Other changes move rows
      between pages. SQLite synchronizes these.
    """

    def __init__(self, limit: float | None, spent: float, workers: int, file: Path, *, shared: bool = False) -> None:
        """Create the file.

        Args:
            limit: the budget in USD; ``None`` without one.
            spent: USD booked in the run's ledger.
            workers: number of processes that hold leases at the same time.
            shared: other processes, also on other machines, will join it.
        """
        self._file, self._descriptor = file.resolve(), -1
        self._db = sqlite3.connect(file, isolation_level=None)
        if not shared:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_TABLES)
        self._db.execute("INSERT INTO budget VALUES (?,?,?)", (limit, spent, workers))
        if shared:
            self._share(os.open(file, os.O_RDWR))

    @classmethod
    def join(cls, file: Path) -> Self:
        """Open the file that another process created.

        Raises:
            OSError, sqlite3.Error: it does not exist, or cannot be used.
        """
        broker = cls.__new__(cls)
        broker._connect(file)  # noqa: SLF001 - of this class
        return broker

    def _connect(self, file: Path) -> None:
        self._file = file.resolve()
        # Open while SQLite opens it too: its inode cannot be used again, so that a replaced file is noticed.
        descriptor = os.open(file, os.O_RDWR)
        try:
            self._db = sqlite3.connect(
                f"{self._file.as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=_BUSY, check_same_thread=False
            )
        except sqlite3.Error:
            os.close(descriptor)
            raise
        self._share(descriptor)

    def _share(self, descriptor: int) -> None:
        self._descriptor, self._took, self._synchronous = descriptor, 0.001, ""
        try:
            self._db.execute("PRAGMA journal_mode=TRUNCATE")  # on shared folders faster than a new journal each time
        except sqlite3.Error:
            self.disconnect()
            raise

    def disconnect(self) -> None:
        self._db.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)  # after SQLite: closing a file releases all locks of this process on it
            self._descriptor = -1

    def lease(self, holder: str, amount: float) -> float:
        """Return the USD granted, at least ``amount``; 0 if the money left is not enough now.

        Raises:
            OSError, sqlite3.Error: the file cannot be used, or was deleted or replaced.
        """
        usd = 0.0
        with self._alone(in_place=True):
            row = self._row(
                "SELECT budget.usd, workers, booked + (SELECT SUM(usd) FROM leases) FROM budget, leases WHERE holder = ? AND NOT lost",
                holder,
            )
            if row is not None and amount <= (free := row[0] - row[2]):
                usd = float(min(free, max(amount, min(free / (_SHARE * row[1]), _CALLS * amount))))
                self._db.execute("UPDATE leases SET usd = usd + ?, idle = 0, beats = beats + 1 WHERE holder = ?", (usd, holder))
        if usd and self._descriptor >= 0:
            getattr(os, "fdatasync", os.fsync)(self._descriptor)  # macOS has only the latter
        return usd

    def give_back(self, holder: str, spent: float) -> bool:
        """Take back what a holder has left while it has no call in flight. Returns whether it may wait for money of the others."""
        with self._alone(in_place=True):
            self._db.execute("UPDATE leases SET usd = ?, idle = 1, beats = beats + 1 WHERE holder = ? AND NOT lost", (float(spent), holder))
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
        with self._alone():
            self._add(holder, spent)

    def _add(self, holder: str, spent: float) -> None:
        self._db.execute("INSERT OR REPLACE INTO leases (holder, usd) VALUES (?,?)", (holder, float(spent)))

    def holders(self) -> list[str]:
        """Return the names of all holders, also of lost ones."""
        return [str(row[0]) for row in self._db.execute("SELECT holder FROM leases")]

    def take_over(self, before: list[str], holder: str, spent: float) -> None:
        """Add a holder that continues the part of others. It has ``spent`` USD of theirs in its ledger; the rest of theirs stays taken."""
        with self._alone():
            for lost in before:
                self._db.execute("UPDATE leases SET usd = MAX(0.0, usd - ?), lost = 1 WHERE holder = ? AND NOT lost", (spent, lost))
                self._db.execute("DELETE FROM paces WHERE holder = ?", (lost,))
            self._add(holder, spent)

    def granted(self, holder: str) -> float:
        """Return the USD granted to a holder."""
        row = self._row("SELECT usd FROM leases WHERE holder = ?", holder)
        return 0.0 if row is None else float(row[0])

    def end(self, holder: str, spent: float) -> None:
        """Keep only what a holder spent: it sends no more calls."""
        self.give_back(holder, spent)
        with self._alone():
            self._db.execute("DELETE FROM paces WHERE holder = ?", (holder,))

    def close(self, holder: str, booked: float) -> None:
        """Remove a holder. ``booked``: USD that the run's ledger now contains for it, including what was lost with it."""
        with self._alone():
            self._db.execute("UPDATE budget SET booked = booked + ?", (booked,))
            self._db.execute("DELETE FROM leases WHERE holder = ?", (holder,))
            self._db.execute("DELETE FROM paces WHERE holder = ?", (holder,))

    @contextmanager
    def _alone(self, *, in_place: bool = False) -> Iterator[None]:
        """Keep other processes out of the file for the duration of the block. ``in_place``: it changes one row, and not its length."""
        begun = 0.0
        if self._descriptor >= 0:
            mode = "OFF" if in_place else "FULL"
            if mode != self._synchronous:
                self._db.execute(f"PRAGMA synchronous={mode}")
                self._synchronous = mode
            self._wait_for_turn()
            begun = time.monotonic()
        try:
            if begun:
                # SQLite finds the journal by its name: it would play that of a new file back into the old one, and remove it.
                self._need_same_file()
            self._db.execute("BEGIN IMMEDIATE")
        except (OSError, sqlite3.Error):
            self._leave_turn()  # SQLite did not lock anything, so it releases nothing
            raise
        with self._db:
            yield
        if begun:
            self._took = min(0.1, max(0.0005, time.monotonic() - begun))
            self._need_same_file()

    def _wait_for_turn(self) -> None:
        """Wait until no other process uses the file. All of them try equally often, about twice during one use.

        SQLite's own waiting is not fair: it tries less and less often, so that those that came later are served first. It releases this
        lock together with its own, which are all locks of the process on the file.
        """
        import fcntl  # missing on Windows, where no file is shared

        deadline = time.monotonic() + _BUSY
        while True:
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _TURN)
            except (BlockingIOError, PermissionError):
                if time.monotonic() > deadline:
                    raise sqlite3.OperationalError(f"another process has used it for {_BUSY:.0f} s") from None
                time.sleep(random.uniform(0.0, self._took))  # noqa: S311 - not for secrets
            else:
                return

    def _leave_turn(self) -> None:
        if self._descriptor >= 0:
            import fcntl

            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, _TURN)

    def _need_same_file(self) -> None:
        """Check that the open file was not deleted or replaced, as when the run was taken over: this run no longer has its money.

        Raises:
            OSError: it was deleted or replaced.
        """
        # Opening the folder makes NFS ask the server for the current entries. Opening the file instead would release SQLite's locks.
        folder = os.open(self._file.parent, os.O_RDONLY)
        try:
            now = os.stat(self._file.name, dir_fd=folder)
        finally:
            os.close(folder)
        if not os.path.samestat(now, os.fstat(self._descriptor)):
            raise FileExistsError("another file has taken its place")

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
    """Read the leases that a process left. It may have been killed before it created their table."""
    if not file.is_file():
        return []
    with closing(sqlite3.connect(file)) as db:
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'leases'").fetchone() is None:
            return []
        db.row_factory = sqlite3.Row
        rows = [dict(row) for row in db.execute("SELECT * FROM leases")]
    return [OpenLease(str(row["holder"]), float(row["usd"]), bool(row.get("lost"))) for row in rows]
