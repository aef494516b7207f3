"""The ledger: one SQLite file per run that stores every reply under its call's key.

Resume and replay depend on it: a call in the ledger is not sent again. Each reply is committed (WAL, one commit per reply) before its text
is used, so a killed process loses only the calls in flight.
"""

import json
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any, Self

from chiron.client.call import Call, Reply, Usage
from chiron.client.ledger_accounts import Accounts, FailureReason, Spending
from chiron.client.ledger_store import Store, columns, damaged, explained, open_for_reading, open_for_writing
from chiron.errors import InputError

MAX_RECORD = 64 * 2**20
"""Maximum size of one case's record in bytes, uncompressed. The largest trees with long replies are far smaller."""


@dataclass(frozen=True, slots=True)
class ResultHead:
    """A result without its record."""

    case_id: str
    position: int
    """Index of the case in its file, from 0. Results are written in this order."""
    fingerprint: str
    """Fingerprint of the case, so that an edited case is searched again."""
    outcome: str
    retained: bool
    mics_score: float | None


@dataclass(frozen=True, slots=True)
class StoredResult(ResultHead):
    """The result of one case, as recorded by the run."""

    record: dict[str, Any]


_HEAD = "case_id, position, fingerprint, outcome, retained, mics_score"
_SELECT_RESULTS = f"SELECT {_HEAD}, record FROM results"  # noqa: S608 - constant column names


class Results(Store):
    def put_result(self, result: StoredResult) -> None:
        """Store the result of a case, replacing an earlier one."""
        row = (
            result.case_id, result.position, result.fingerprint, result.outcome, int(result.retained), result.mics_score,
            _pack(result.record),
        )  # fmt: skip
        self._write("INSERT OR REPLACE INTO results VALUES (?,?,?,?,?,?,?)", row)

    def result_heads(self) -> dict[str, ResultHead]:
        """Return every result without its record, by case ID."""
        heads = {}
        for case_id, position, fingerprint, outcome, retained, score in self._read(f"SELECT {_HEAD} FROM results"):  # noqa: S608 - as above
            heads[case_id] = ResultHead(case_id, position, fingerprint, outcome, bool(retained), score)
        return heads

    def move_result(self, case_id: str, position: int) -> None:
        """Update the position of a case in its file."""
        self._write("UPDATE results SET position = ? WHERE case_id = ?", (position, case_id))

    def drop_result(self, case_id: str) -> None:
        """Delete the result of a case that is no longer in the file. Its replies are kept, so adding the case again costs nothing."""
        self._write("DELETE FROM results WHERE case_id = ?", (case_id,))

    def results(self, *, retained: bool | None = None) -> Iterator[StoredResult]:
        """Yield results in the order of the case file; ``retained`` selects only retained or only other ones."""
        query = f"{_SELECT_RESULTS} WHERE ?1 IS NULL OR retained = ?1 ORDER BY position, case_id"
        yield from map(self._stored, self._read(query, (None if retained is None else int(retained),)))

    def result(self, case_id: str) -> StoredResult | None:
        row = self._read_one(f"{_SELECT_RESULTS} WHERE case_id = ?", (case_id,))
        return None if row is None else self._stored(row)

    def _stored(self, row: tuple[Any, ...]) -> StoredResult:
        case_id, position, fingerprint, outcome, retained, score, record = row
        return StoredResult(case_id, position, fingerprint, outcome, bool(retained), score, self._unpack(case_id, record))

    def outcomes(self) -> dict[tuple[str, bool], int]:
        """Count the cases by (outcome, retained)."""
        rows = self._read("SELECT outcome, retained, COUNT(*) FROM results GROUP BY outcome, retained")
        return {(outcome, bool(retained)): count for outcome, retained, count in rows}

    def scores(self) -> list[float]:
        """Return the MICS-Score of every case that has one."""
        return [row[0] for row in self._read("SELECT mics_score FROM results WHERE mics_score IS NOT NULL")]

    def _unpack(self, case_id: str, blob: bytes) -> dict[str, Any]:
        try:
            unpacking = zlib.decompressobj()
            text = unpacking.decompress(blob, MAX_RECORD)
            if not unpacking.eof:
                raise self._garbled(case_id)  # truncated, or a decompression bomb
            value = json.loads(text.decode("utf-8", "surrogatepass"))
        except (zlib.error, ValueError, TypeError, RecursionError) as error:
            raise self._garbled(case_id) from error
        if not isinstance(value, dict):
            raise self._garbled(case_id)
        return value

    def _garbled(self, case_id: str) -> InputError:
        return InputError(
            f"{self.path} is damaged: the result of case '{case_id}' cannot be read. Delete the results (sqlite3 {self.path.name}"  # noqa: S608 - not SQL
            " 'DELETE FROM results'); the same search then computes them again from the replies, at no cost"
        )


def _pack(value: object) -> bytes:
    return zlib.compress(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"), 1)


__all__ = ["FailureReason", "Ledger", "ResultHead", "Spending", "StoredResult"]

REPLY = "text, finish, prompt_tokens, completion_tokens, served_by, seconds, attempts, cost_usd"
"""Columns of a parsed reply, which its checksum covers in this order."""
COLUMNS = f"key, role, model, identity, {REPLY}, raw, answered_at"
_PUT = f"INSERT OR IGNORE INTO calls ({COLUMNS}, checksum) VALUES ({','.join('?' * 15)})"  # noqa: S608 - constant column names
_TAKE_OVER = f"INSERT OR IGNORE INTO calls ({COLUMNS}, checksum, copied) VALUES ({','.join('?' * 15)}, 1)"  # noqa: S608 - as above
_HALF = 8
"""Bytes of the checksum of the parsed reply. The raw response has its own checksum of the same size, because it is read separately."""


class Ledger(Results, Accounts):
    """An open ledger. One process writes; others may read at the same time."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        super().__init__(connection, path)
        with explained(path):
            # Ledgers of older versions have no checksum column if they are opened read-only.
            self.checksum_column = "checksum" if "checksum" in columns(connection) else "NULL"
        self._get = f"SELECT {self.checksum_column}, {REPLY} FROM calls WHERE key = ?"  # noqa: S608 - constant column names

    @classmethod
    def open(cls, path: Path, *, begun: bool = False) -> Self:
        """Open for writing. A new file is readable only by its owner.

        Args:
            path: the file; ``-wal`` and ``-shm`` files next to it belong to it.
            begun: whether the run has started, so that an emptied file is rejected instead of being initialized again.

        Raises:
            InputError: the file cannot be opened, is not a ledger, or was emptied.
            DiskError: the disk is full.
        """
        return cls(open_for_writing(path, begun=begun), path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Open for reading, also while another process writes.

        Raises:
            InputError: the file does not exist, or is not a ledger.
        """
        return cls(open_for_reading(path), path)

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, key: str) -> Reply | None:
        """Return the reply stored under ``key``, or ``None``."""
        row = self._read_one(self._get, (bytes.fromhex(key),))
        if row is None:
            return None
        checksum, *values = row
        self._verify(key, checksum, values)
        text, finish, prompt, completion, served_by, seconds, attempts, cost = values
        if not isinstance(text, str) or not isinstance(finish, str):
            raise damaged(self.path, f"the reply {key[:12]}... is not text")
        return Reply(text, finish, Usage(prompt, completion), served_by, seconds, attempts, cost)

    def put(self, call: Call, reply: Reply, *, attempt: int | None = None) -> None:
        """Store a reply. If the key exists, its first reply is kept.

        ``attempt`` (from :meth:`begin_attempt`): its reservation is released in the same transaction.
        """
        values = (
            reply.text, reply.finish, reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.served_by, _real(reply.seconds),
            reply.attempts, _real(reply.cost_usd),
        )  # fmt: skip
        checksum = _checksum(call.key, values) + _checksum(call.key, (reply.raw,))
        row = (bytes.fromhex(call.key), call.role, call.model, call.identity, *values, reply.raw, time.time(), checksum)
        if attempt is None:
            self._write(_PUT, row)
            return
        with self._together():
            self._write(_PUT, row)
            self.end_attempt(attempt)

    def raw(self, key: str) -> str | None:
        """Return the endpoint's response under ``key``, unchanged."""
        row = self._read_one(f"SELECT {self.checksum_column}, raw FROM calls WHERE key = ?", (bytes.fromhex(key),))  # noqa: S608 - as above
        if row is None:
            return None
        checksum, raw = row
        self._verify(key, checksum, (raw,), offset=_HALF)
        return None if raw is None else str(raw)

    def remember(self, name: str, value: str) -> str:
        """Store a fact about the whole ledger unless the name exists. Returns the stored value."""
        self._write("INSERT OR IGNORE INTO facts VALUES (?,?)", (name, value))
        return str(self._value("SELECT value FROM facts WHERE name = ?", (name,)))

    def copy_calls_from(self, other: Path, keys: Iterable[str] | None = None) -> int:
        """Copy every reply that this ledger lacks from another one, or only those of ``keys``. Returns their number.

        They cost this run nothing.

        Raises:
            InputError: the other ledger cannot be read.
        """
        with Ledger.read(other) as source, self._together(), explained(self.path, writing=True):
            return self._db.executemany(_TAKE_OVER, source._rows(keys)).rowcount  # noqa: SLF001 - the same class

    def has_calls(self) -> bool:
        """Return whether the ledger contains any reply."""
        return self._value("SELECT 1 FROM calls LIMIT 1") is not None

    def _rows(self, keys: Iterable[str] | None = None) -> Iterator[tuple[Any, ...]]:
        """Yield every reply, or those of ``keys``, in stored form, after verifying its checksum."""
        query = f"SELECT {COLUMNS}, {self.checksum_column} FROM calls"  # noqa: S608 - constant column names
        named = [()] if keys is None else ((bytes.fromhex(key),) for key in keys)
        where = "" if keys is None else " WHERE key = ?"
        for row in chain.from_iterable(self._read(query + where, name) for name in named):
            key, _, _, _, *values, _, checksum = row
            self.verify(key, checksum, values)
            yield row

    def verify(self, key: object, checksum: object, values: Sequence[Any]) -> None:
        """Check a stored reply against its checksums. ``values``: the columns of the reply, then the raw response."""
        if not isinstance(key, bytes):
            raise damaged(self.path, "a key is text")
        self._verify(key.hex(), checksum, values[:-1])
        self._verify(key.hex(), checksum, values[-1:], offset=_HALF)

    def _verify(self, key: str, checksum: object, values: Sequence[Any], *, offset: int = 0) -> None:
        """Check a reply's columns against its checksum, if it has one."""
        if checksum is None:
            return
        if not isinstance(checksum, bytes) or checksum[offset : offset + _HALF] != _checksum(key, values):
            raise InputError(
                f"{self.path} is damaged: the reply {key[:12]}... does not match its checksum. Delete it (sqlite3 {self.path.name}"  # noqa: S608 - not SQL
                f" \"DELETE FROM calls WHERE key = x'{key}'\") and run again, which sends and pays for this call again; then check"
                " the disk"
            )


def _real(number: float | None) -> float | None:
    """Return a number as SQLite returns it from a REAL column: always a float, and never -0.0."""
    return None if number is None else float(number) + 0.0


def _checksum(key: str, values: Sequence[Any]) -> bytes:
    """Return the checksum of a reply's columns and key. Floats are written in full precision, so values survive the round trip."""
    text = "\0".join((key, *(repr(value) for value in values)))
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_HALF).digest()
