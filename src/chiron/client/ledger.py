"""The ledger: one SQLite file a run that keeps every reply under its call's key, and never forgets one.

Resume, replay and a lost power cord all rest on it: what it holds is not asked again. A reply is committed (WAL, one commit a
reply) before anything reads its text, so a killed process loses the calls in flight and nothing else.
"""

import json
import sqlite3
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

from chiron.client.call import Call, Reply, Usage
from chiron.client.ledger_accounts import Accounts, FailureReason, Spending
from chiron.client.ledger_store import Store, columns, damaged, explained, open_for_reading, open_for_writing
from chiron.errors import InputError

MAX_RECORD = 64 * 2**20
"""Bytes of one case's record, unpacked. The largest tree of long replies stays far below."""


@dataclass(frozen=True, slots=True)
class StoredResult:
    """What became of one case, as the run recorded it."""

    case_id: str
    position: int
    """Of the case in its file, from 0; results are written out in this order."""
    fingerprint: str
    """The case's, so that an edited case is searched again."""
    outcome: str
    retained: bool
    mics_score: float | None
    record: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ResultHead:
    """A result without its record."""

    position: int
    fingerprint: str
    outcome: str
    retained: bool
    mics_score: float | None


class Results(Store):
    """What became of cases."""

    def put_result(self, result: StoredResult) -> None:
        """Keep what became of a case, in place of what was known of it before.

        Raises:
            DiskError: the disk took it not.
        """
        row = (
            result.case_id, result.position, result.fingerprint, result.outcome, int(result.retained), result.mics_score,
            _pack(result.record),
        )  # fmt: skip
        self._write("INSERT OR REPLACE INTO results VALUES (?,?,?,?,?,?,?)", row)

    def result_heads(self) -> dict[str, ResultHead]:
        """What is known of every case on record, by its id."""
        rows = self._read("SELECT case_id, position, fingerprint, outcome, retained, mics_score FROM results")
        heads = {}
        for case_id, position, fingerprint, outcome, retained, score in rows:
            heads[case_id] = ResultHead(position, fingerprint, outcome, bool(retained), score)
        return heads

    def move_result(self, case_id: str, position: int) -> None:
        """The case stands elsewhere in its file now."""
        self._write("UPDATE results SET position = ? WHERE case_id = ?", (position, case_id))

    def drop_result(self, case_id: str) -> None:
        """The case is in the file no more. Its replies stay: should it come back, it costs nothing."""
        self._write("DELETE FROM results WHERE case_id = ?", (case_id,))

    def results(self, *, retained: bool | None = None) -> Iterator[StoredResult]:
        """Every result in the order of the case file, one at a time; only the retained ones, or only the others, by choice."""
        query = (
            "SELECT case_id, position, fingerprint, outcome, retained, mics_score, record FROM results"
            " WHERE ?1 IS NULL OR retained = ?1 ORDER BY position, case_id"
        )
        for row in self._read(query, (None if retained is None else int(retained),)):
            case_id, position, fingerprint, outcome, kept, score, record = row
            yield StoredResult(case_id, position, fingerprint, outcome, bool(kept), score, self._unpack(case_id, record))

    def outcomes(self) -> dict[tuple[str, bool], int]:
        """How many cases had each (outcome, retained)."""
        rows = self._read("SELECT outcome, retained, COUNT(*) FROM results GROUP BY outcome, retained")
        return {(outcome, bool(retained)): count for outcome, retained, count in rows}

    def scores(self) -> list[float]:
        """The MICS-Score of every case that has one."""
        return [row[0] for row in self._read("SELECT mics_score FROM results WHERE mics_score IS NOT NULL")]

    def _unpack(self, case_id: str, blob: bytes) -> dict[str, Any]:
        try:
            unpacking = zlib.decompressobj()
            text = unpacking.decompress(blob, MAX_RECORD)
            if not unpacking.eof:
                raise self._garbled(case_id)  # cut short, or a bomb
            value = json.loads(text.decode("utf-8", "surrogatepass"))
        except (zlib.error, ValueError, TypeError, RecursionError) as error:
            raise self._garbled(case_id) from error
        if not isinstance(value, dict):
            raise self._garbled(case_id)
        return value

    def _garbled(self, case_id: str) -> InputError:
        return InputError(
            f"{self.path} is damaged: the result of case '{case_id}' cannot be read. Take the results away (sqlite3 {self.path.name}"  # noqa: S608 - words
            " 'DELETE FROM results'); the same search then makes them anew from the replies, at no cost"
        )


def _pack(value: object) -> bytes:
    return zlib.compress(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"), 1)


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
