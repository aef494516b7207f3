"""Calls and costs of a ledger, kept up to date by reading only its new rows."""

import math
import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chiron.client.ledger import FailureReason, Ledger, Spending
from chiron.client.ledger_accounts import CALL_SUMS, spending_of
from chiron.client.ledger_store import damaged
from chiron.view.files import in_use

_AT_ONCE = 20_000
"""Calls that one query adds up. Short queries keep the page quick and never hold the writer's log back."""
_RECENT = 300
"""Calls from which the speed of a run is estimated."""
_QUIET = 600.0
"""Seconds without a reply after which a speed says nothing."""
_NEW = f"SELECT model, role, {CALL_SUMS} FROM calls WHERE rowid > ? AND rowid <= ? GROUP BY model, role"  # noqa: S608 - constants
_SPEED = (
    "SELECT MIN(answered_at), MAX(answered_at), COUNT(*) FROM (SELECT answered_at FROM calls WHERE copied = 0 ORDER BY rowid DESC LIMIT ?)"
)


@dataclass
class Accounts:
    """Calls and costs of one ledger."""

    ledger: Path
    possible_usd: float = 0.0
    """Reserved for calls without a reply, which may be billed."""
    calls: int = 0
    calls_per_second: float | None = None
    """Speed of the last calls; ``None`` if there are too few, or none lately."""
    _sums: dict[tuple[str, str], tuple[Any, ...]] = field(default_factory=dict)
    """Sums of CALL_SUMS by model and role."""
    _failed: dict[tuple[str, str], tuple[int, float]] = field(default_factory=dict)
    _last: int = 0
    _inode: int = 0

    def advance(self, connection: sqlite3.Connection, until: float) -> bool:
        """Read new rows until all are read or the monotonic clock shows ``until``; return whether all are read."""
        newest = int(connection.execute("SELECT COALESCE(MAX(rowid), 0) FROM calls").fetchone()[0])
        inode = self.ledger.stat().st_ino
        if newest < self._last or inode != self._inode:  # another ledger has taken its place
            self._sums, self.calls, self._last, self._inode = {}, 0, 0, inode
        while self._last < newest:
            end = min(newest, self._last + _AT_ONCE)
            rows = connection.execute(_NEW, (self._last, end)).fetchall()
            self._check(rows)
            for model, role, *row in rows:
                before = self._sums.get((model, role), (0,) * len(row))
                self._sums[model, role] = tuple(a + b for a, b in zip(before, row, strict=True))
                self.calls += row[0]
            self._last = end
            if time.monotonic() >= until:
                break
        if self._last == newest and self._has_lost_calls(connection):
            self._last = newest + 1
            return self.advance(connection, until)
        self._read_failures(connection)
        self._read_speed(connection)
        return self._last == newest

    def _has_lost_calls(self, connection: sqlite3.Connection) -> bool:
        """Return whether calls that were added up are gone, as after the repair of a damaged reply. Not while a process adds calls."""
        if in_use(self.ledger.parent):
            return False
        return bool(connection.execute("SELECT COUNT(*) FROM calls").fetchone()[0] < self.calls)

    @property
    def known_usd(self) -> float:
        """Cost of the replies that were paid for."""
        return float(sum(cost for _, _, _, _, cost, *_ in self._sums.values()))

    @property
    def priced(self) -> bool:
        """Whether every reply has a price, so that :attr:`known_usd` covers all of them."""
        return all(priced == number for number, _, _, _, _, priced, *_ in self._sums.values())

    def spending(self) -> list[Spending]:
        """Return calls and costs by role and model, with failed calls."""
        return spending_of(self._sums, self._failed)

    def _check(self, rows: list[tuple[Any, ...]]) -> None:
        for model, role, *numbers in rows:
            if not (isinstance(role, str) and isinstance(model, str) and math.isfinite(sum(numbers))):
                raise damaged(self.ledger, "a call has a value of the wrong type")

    def _read_failures(self, connection: sqlite3.Connection) -> None:
        rows = connection.execute("SELECT model, role, SUM(final), SUM(cost_at_most) FROM failures GROUP BY model, role").fetchall()
        self._check(rows)
        self._failed = {(model, role): (int(finals), float(lost)) for model, role, finals, lost in rows}
        self.possible_usd = sum(lost for _, lost in self._failed.values())

    def _read_speed(self, connection: sqlite3.Connection) -> None:
        first, last, count = connection.execute(_SPEED, (_RECENT,)).fetchone()
        if not all(isinstance(moment, float | int | None) for moment in (first, last)):
            raise damaged(self.ledger, "the time of a call is not a number")
        now = time.time()
        quick = count > 1 and now > first and now - last < _QUIET
        self.calls_per_second = count / (now - first) if quick else None


def failure_reasons(ledger: Path) -> list[FailureReason]:
    """Return why calls failed, most frequent reason first, in words that may be shown.

    Raises:
        InputError: the ledger cannot be read.
    """
    with Ledger.read(ledger) as opened:
        return opened.failure_reasons()


def failures_of(connection: sqlite3.Connection, key: str, after: int | None) -> list[str]:
    """Return why the attempts of one call failed, oldest first. The words of those up to ``after`` must not be shown."""
    rows = connection.execute("SELECT id, kind, message FROM failures WHERE key = ? ORDER BY id", (bytes.fromhex(key),))
    return [message if after is not None and number > after and message else str(kind) for number, kind, message in rows]
