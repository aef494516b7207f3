"""The ledger: one SQLite file a run that keeps every reply under its call's key, and never forgets one.

Resume, replay and a lost power cord all rest on it: what it holds is not asked again. A reply is committed (WAL, one commit a
reply) before anything reads its text, so a killed process loses the calls in flight and nothing else.
"""

import time
from pathlib import Path
from typing import Self

from chiron.models.call import Call, Reply, Usage
from chiron.models.ledger_accounts import Accounts, FailureReason, Spending
from chiron.models.ledger_results import ResultHead, Results, StoredResult
from chiron.models.ledger_store import damaged, explained, open_for_reading, open_for_writing

__all__ = ["FailureReason", "Ledger", "ResultHead", "Spending", "StoredResult"]

_COLUMNS = (
    "key, role, model, identity, text, finish, prompt_tokens, completion_tokens, cost_usd, seconds, attempts, served_by, raw, answered_at"
)
_PUT = f"INSERT OR IGNORE INTO calls ({_COLUMNS}) VALUES ({','.join('?' * 14)})"  # noqa: S608 - the columns are ours
_ALL = f"SELECT {_COLUMNS} FROM calls"  # noqa: S608 - the columns are ours
_TAKE_OVER = f"INSERT OR IGNORE INTO calls ({_COLUMNS}, copied) VALUES ({','.join('?' * 14)}, 1)"  # noqa: S608 - the columns are ours


class Ledger(Results, Accounts):
    """An open ledger. One process writes; others may read meanwhile."""

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open for writing; create it, readable by its owner alone, if it is not there.

        Raises:
            InputError: it cannot be opened or is no ledger.
            DiskError: the disk is full.
        """
        return cls(open_for_writing(path), path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Open for reading, also while another process writes.

        Raises:
            InputError: there is none, or it is no ledger.
        """
        return cls(open_for_reading(path), path)

    def close(self) -> None:
        """Close; safe to call twice."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, key: str) -> Reply | None:
        """The reply under ``key``, if there is one.

        Raises:
            InputError: the ledger is damaged.
        """
        row = self._read_one(
            "SELECT text, finish, prompt_tokens, completion_tokens, served_by, seconds, attempts, cost_usd FROM calls WHERE key = ?",
            (bytes.fromhex(key),),
        )
        if row is None:
            return None
        text, finish, prompt, completion, served_by, seconds, attempts, cost = row
        if not isinstance(text, str) or not isinstance(finish, str):
            raise damaged(self.path, f"the reply {key[:12]}... is no text")
        return Reply(text, finish, Usage(prompt, completion), served_by, seconds, attempts, cost)

    def put(self, call: Call, reply: Reply, *, attempt: int | None = None) -> None:
        """Keep a reply for good. A key that is there already keeps its first reply.

        With ``attempt`` (from :meth:`begin_attempt`) what was set aside for it is let go in the same transaction.

        Raises:
            DiskError: the disk took it not.
        """
        row = (
            bytes.fromhex(call.key), call.role, call.model, call.identity, reply.text, reply.finish,
            reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.cost_usd, reply.seconds, reply.attempts,
            reply.served_by, reply.raw, time.time(),
        )  # fmt: skip
        if attempt is None:
            self._write(_PUT, row)
            return
        with self._together():
            self._write(_PUT, row)
            self.end_attempt(attempt)

    def raw(self, key: str) -> str | None:
        """The endpoint's own reply under ``key``, as it came."""
        row = self._read_one("SELECT raw FROM calls WHERE key = ?", (bytes.fromhex(key),))
        return None if row is None else row[0]

    def remember(self, name: str, value: str) -> str:
        """Keep a fact about the ledger as a whole, if there is none of that name; the one that stands.

        Raises:
            InputError: the ledger is damaged.
            DiskError: the disk took it not.
        """
        self._write("INSERT OR IGNORE INTO facts VALUES (?,?)", (name, value))
        row = self._read_one("SELECT value FROM facts WHERE name = ?", (name,))
        return value if row is None else str(row[0])

    def copy_calls_from(self, other: Path) -> int:
        """Take over every reply of another ledger that this one lacks; how many there were. They cost this run nothing.

        Raises:
            InputError: the other one cannot be read.
        """
        with Ledger.read(other) as source, self._together(), explained(self.path, writing=True):
            return self._db.executemany(_TAKE_OVER, source._read(_ALL)).rowcount  # noqa: SLF001 - another of our own kind
