"""The ledger: one SQLite file a run that keeps every reply under its call's key, and never forgets one.

Resume, replay and a lost power cord all rest on it: what it holds is not asked again. A reply is committed (WAL, one commit a
reply) before anything reads its text, so a killed process loses the calls in flight and nothing else.
"""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

from chiron.errors import InputError
from chiron.models.call import Call, Reply, Usage
from chiron.models.ledger_accounts import Accounts, FailureReason, Spending
from chiron.models.ledger_results import ResultHead, Results, StoredResult
from chiron.models.ledger_store import columns, damaged, explained, open_for_reading, open_for_writing

__all__ = ["FailureReason", "Ledger", "ResultHead", "Spending", "StoredResult"]

_COLUMNS = (
    "key, role, model, identity, text, finish, prompt_tokens, completion_tokens, cost_usd, seconds, attempts, served_by, raw, answered_at"
)
_PUT = f"INSERT OR IGNORE INTO calls ({_COLUMNS}, checksum) VALUES ({','.join('?' * 15)})"  # noqa: S608 - the columns are ours
_TAKE_OVER = f"INSERT OR IGNORE INTO calls ({_COLUMNS}, checksum, copied) VALUES ({','.join('?' * 15)}, 1)"  # noqa: S608 - as above
_REPLY = "text, finish, prompt_tokens, completion_tokens, served_by, seconds, attempts, cost_usd"
"""Columns of what :meth:`Ledger.get` gives back."""
_HALF = 8
"""Bytes of a checksum for the reply as it is read, and as many for the endpoint's own words, which are read apart."""


class Ledger(Results, Accounts):
    """An open ledger. One process writes; others may read meanwhile."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        """Wrap an open connection."""
        super().__init__(connection, path)
        with explained(path):
            # A ledger of an older version that is only read has no column for them.
            self._checksum = "checksum" if "checksum" in columns(connection) else "NULL"
        self._get = f"SELECT {self._checksum}, {_REPLY} FROM calls WHERE key = ?"  # noqa: S608 - the columns are ours

    @classmethod
    def open(cls, path: Path, *, begun: bool = False) -> Self:
        """Open for writing; create it, readable by its owner alone, if it is not there.

        Args:
            path: the file; ``-wal`` and ``-shm`` beside it are part of it.
            begun: whether its run has begun, so that an empty file is one that was emptied.

        Raises:
            InputError: it cannot be opened, is not a ledger, or was emptied.
            DiskError: the disk is full.
        """
        return cls(open_for_writing(path, begun=begun), path)

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
        row = self._read_one(self._get, (bytes.fromhex(key),))
        if row is None:
            return None
        checksum, *values = row
        self._verify(key, checksum, values)
        text, finish, prompt, completion, served_by, seconds, attempts, cost = values
        if not isinstance(text, str) or not isinstance(finish, str):
            raise damaged(self.path, f"the reply {key[:12]}... is no text")
        return Reply(text, finish, Usage(prompt, completion), served_by, seconds, attempts, cost)

    def put(self, call: Call, reply: Reply, *, attempt: int | None = None) -> None:
        """Keep a reply for good. A key that is there already keeps its first reply.

        With ``attempt`` (from :meth:`begin_attempt`) what was set aside for it is let go in the same transaction.

        Raises:
            DiskError: the disk took it not.
        """
        values = (
            reply.text, reply.finish, reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.served_by, _real(reply.seconds),
            reply.attempts, _real(reply.cost_usd),
        )  # fmt: skip
        row = (
            bytes.fromhex(call.key), call.role, call.model, call.identity, reply.text, reply.finish,
            reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.cost_usd, reply.seconds, reply.attempts,
            reply.served_by, reply.raw, time.time(), _checksum(call.key, values) + _checksum(call.key, (reply.raw,)),
        )  # fmt: skip
        if attempt is None:
            self._write(_PUT, row)
            return
        with self._together():
            self._write(_PUT, row)
            self.end_attempt(attempt)

    def raw(self, key: str) -> str | None:
        """The endpoint's own reply under ``key``, as it came.

        Raises:
            InputError: the ledger is damaged.
        """
        row = self._read_one(f"SELECT {self._checksum}, raw FROM calls WHERE key = ?", (bytes.fromhex(key),))  # noqa: S608 - as above
        if row is None:
            return None
        checksum, raw = row
        self._verify(key, checksum, (raw,), offset=_HALF)
        return None if raw is None else str(raw)

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
            return self._db.executemany(_TAKE_OVER, source._rows()).rowcount  # noqa: SLF001 - another of our own kind

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        """Every reply, verified, as it is written."""
        for row in self._read(f"SELECT {_COLUMNS}, {self._checksum} FROM calls"):  # noqa: S608 - the columns are ours
            key, _, _, _, text, finish, prompt, completion, cost, seconds, attempts, served_by, raw, _, checksum = row
            if not isinstance(key, bytes):
                raise damaged(self.path, "a key is text")
            name = key.hex()
            self._verify(name, checksum, (text, finish, prompt, completion, served_by, seconds, attempts, cost))
            self._verify(name, checksum, (raw,), offset=_HALF)
            yield row

    def _verify(self, key: str, checksum: object, values: Sequence[Any], *, offset: int = 0) -> None:
        """Check a reply's columns against its checksum, where it has one.

        Raises:
            InputError: a reply is not what was written.
        """
        if checksum is None:
            return
        if not isinstance(checksum, bytes) or checksum[offset : offset + _HALF] != _checksum(key, values):
            raise InputError(
                f"{self.path} is damaged: the reply {key[:12]}... does not match its checksum. Take it away (sqlite3 {self.path.name}"  # noqa: S608 - words
                f" \"DELETE FROM calls WHERE key = x'{key}'\") and run again, which asks and pays for this call a second time; and check"
                " the disk"
            )


def _real(number: float | None) -> float | None:
    """A number as a REAL column gives it back: never an integer, and zero without a sign."""
    return None if number is None else float(number) + 0.0


def _checksum(key: str, values: Sequence[Any]) -> bytes:
    """Of a reply's columns, under its key. Floats are written out in full, so what SQLite gives back is what was put in."""
    text = "\0".join((key, *(repr(value) for value in values)))
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_HALF).digest()
