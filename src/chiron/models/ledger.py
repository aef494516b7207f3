"""The ledger: one SQLite file a run that keeps every reply under its call's key, and never forgets one.

Resume, replay and a lost power cord all rest on it: what it holds is not asked again. A reply is committed (WAL, one commit a
reply) before anything reads its text, so a killed process loses the calls in flight and nothing else.
"""

import json
import os
import sqlite3
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from chiron.errors import DiskError, InputError
from chiron.models.call import Call, Reply, Usage

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    key BLOB PRIMARY KEY, role TEXT NOT NULL, model TEXT NOT NULL, identity TEXT NOT NULL,
    text TEXT NOT NULL, finish TEXT NOT NULL, prompt_tokens INTEGER, completion_tokens INTEGER,
    cost_usd REAL, seconds REAL NOT NULL, attempts INTEGER NOT NULL, served_by TEXT,
    raw TEXT, answered_at REAL NOT NULL, copied INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS failures (
    id INTEGER PRIMARY KEY, key BLOB NOT NULL, role TEXT NOT NULL, model TEXT NOT NULL, kind TEXT NOT NULL,
    message TEXT NOT NULL, final INTEGER NOT NULL, cost_at_most REAL NOT NULL, failed_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS results (
    case_id TEXT PRIMARY KEY, position INTEGER NOT NULL, fingerprint TEXT NOT NULL, outcome TEXT NOT NULL,
    retained INTEGER NOT NULL, mics_score REAL, record BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS results_in_order ON results (position, case_id);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""

_COPY = """
INSERT OR IGNORE INTO calls (key, role, model, identity, text, finish, prompt_tokens, completion_tokens, cost_usd, seconds, attempts,
                             served_by, raw, answered_at, copied)
SELECT key, role, model, identity, text, finish, prompt_tokens, completion_tokens, cost_usd, seconds, attempts,
       served_by, raw, answered_at, 1 FROM other.calls
"""


@dataclass(frozen=True, slots=True)
class Spending:
    """What one model was asked in one role, summed over the ledger."""

    model: str
    role: str
    calls: int
    copied: int
    """Of these, replies that a replay took over from another ledger."""
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    priced: bool
    """Whether ``cost_usd`` covers every call."""
    seconds: float
    retries: int
    failed: int
    """How often a call got no answer in the end; a later run may have got it."""
    cut_off: int = 0
    """Replies that the token limit ended."""


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


class Ledger:
    """An open ledger. One process writes; others may read meanwhile."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        """Wrap an open connection; use :meth:`open` or :meth:`read`."""
        self._db = connection
        self.path = path

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open for writing; create it, readable by its owner alone, if it is not there.

        Raises:
            InputError: it cannot be opened or is no ledger.
            DiskError: the disk is full.
        """
        try:
            # Created before SQLite sees it, because the mode must be right from the first byte: it holds patients' data.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            path.chmod(0o600)
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from error
        with _readable(path):
            # By URI, because a ledger is attached by URI later, and not every SQLite takes one otherwise.
            db = sqlite3.connect(path.resolve().as_uri(), uri=True, timeout=30, isolation_level=None)
            db.execute("PRAGMA journal_mode=WAL")
            # NORMAL: a killed process loses nothing; only a power cut may cost the last moments.
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute("PRAGMA cache_size=-8000")
            # Keys are random, so a checkpoint rewrites pages all over the file: fewer, larger ones cost a fraction (64 MiB at most).
            db.execute("PRAGMA wal_autocheckpoint=16000")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, SCHEMA_VERSION):
                raise InputError(f"{path} was written by another version of chiron (schema {version}): use that version, or a new --run")
            db.executescript(_SCHEMA)
            db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        return cls(db, path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Open for reading, also while another process writes.

        Raises:
            InputError: there is none, or it is no ledger.
        """
        if not path.is_file():
            raise InputError(f"{path.parent} is not a run directory: it has no {path.name}")
        with _readable(path):
            db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30, isolation_level=None)
            version = db.execute("PRAGMA user_version").fetchone()[0]
        if version != SCHEMA_VERSION:
            raise InputError(f"{path} was written by another version of chiron (schema {version}): use that version")
        return cls(db, path)

    def close(self) -> None:
        """Close; safe to call twice."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, key: str) -> Reply | None:
        """The reply under ``key``, if there is one."""
        row = self._db.execute(
            "SELECT text, finish, prompt_tokens, completion_tokens, served_by, seconds, attempts, cost_usd FROM calls WHERE key = ?",
            (bytes.fromhex(key),),
        ).fetchone()
        if row is None:
            return None
        text, finish, prompt, completion, served_by, seconds, attempts, cost = row
        return Reply(text, finish, Usage(prompt, completion), served_by, seconds, attempts, cost)

    def put(self, call: Call, reply: Reply) -> None:
        """Keep a reply for good. A key that is there already keeps its first reply.

        Raises:
            DiskError: the disk took it not.
        """
        row = (
            bytes.fromhex(call.key), call.role, call.model, call.identity, reply.text, reply.finish,
            reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.cost_usd, reply.seconds, reply.attempts,
            reply.served_by, reply.raw, time.time(),
        )  # fmt: skip
        self._write(
            "INSERT OR IGNORE INTO calls (key, role, model, identity, text, finish, prompt_tokens, completion_tokens, cost_usd,"
            " seconds, attempts, served_by, raw, answered_at) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            row,
        )

    def raw(self, key: str) -> str | None:
        """The endpoint's own reply under ``key``, as it came."""
        row = self._db.execute("SELECT raw FROM calls WHERE key = ?", (bytes.fromhex(key),)).fetchone()
        return None if row is None else row[0]

    def note_failure(self, call: Call, kind: str, message: str, *, final: bool, cost_at_most: float = 0.0) -> None:
        """Record an attempt that failed: for the counts, and for what a provider may bill all the same."""
        row = (bytes.fromhex(call.key), call.role, call.model, kind, message, int(final), cost_at_most, time.time())
        self._write(
            "INSERT INTO failures (key, role, model, kind, message, final, cost_at_most, failed_at) VALUES (?,?,?,?,?,?,?,?)",
            row,
        )

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

    def remember(self, name: str, value: str) -> str:
        """Keep a fact about the ledger as a whole, if there is none of that name; the one that stands.

        Raises:
            DiskError: the disk took it not.
        """
        self._write("INSERT OR IGNORE INTO facts VALUES (?,?)", (name, value))
        return str(self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()[0])

    def drop_results(self, outcome: str) -> None:
        """Forget the results of one outcome, because the run about to begin finds them anew."""
        self._write("DELETE FROM results WHERE outcome = ?", (outcome,))

    def result_heads(self) -> dict[str, ResultHead]:
        """What is known of every case on record, by its id."""
        rows = self._db.execute("SELECT case_id, position, fingerprint, outcome, retained, mics_score FROM results")
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
        for row in self._db.execute(query, (None if retained is None else int(retained),)):
            case_id, position, fingerprint, outcome, kept, score, record = row
            yield StoredResult(case_id, position, fingerprint, outcome, bool(kept), score, _unpack(record))

    def outcomes(self) -> dict[tuple[str, bool], int]:
        """How many cases had each (outcome, retained)."""
        rows = self._db.execute("SELECT outcome, retained, COUNT(*) FROM results GROUP BY outcome, retained")
        return {(outcome, bool(retained)): count for outcome, retained, count in rows}

    def scores(self) -> list[float]:
        """The MICS-Score of every case that has one."""
        return [row[0] for row in self._db.execute("SELECT mics_score FROM results WHERE mics_score IS NOT NULL")]

    def spent_usd(self) -> float:
        """Paid in this run: replies of its own, and attempts that a provider may bill without having answered."""
        paid = self._db.execute("SELECT COALESCE(SUM(cost_usd), 0) FROM calls WHERE copied = 0").fetchone()[0]
        lost = self._db.execute("SELECT COALESCE(SUM(cost_at_most), 0) FROM failures").fetchone()[0]
        return float(paid + lost)

    def spending(self) -> list[Spending]:
        """By model and role."""
        failed = {
            (model, role): (finals, lost)
            for model, role, finals, lost in self._db.execute(
                "SELECT model, role, SUM(final), SUM(cost_at_most) FROM failures GROUP BY model, role"
            )
        }
        rows = self._db.execute(
            "SELECT model, role, COUNT(*), SUM(copied), COALESCE(SUM(prompt_tokens),0), COALESCE(SUM(completion_tokens),0),"
            " COALESCE(SUM(CASE WHEN copied THEN 0 ELSE cost_usd END),0), COUNT(cost_usd) = COUNT(*),"
            " SUM(seconds), SUM(attempts-1), SUM(finish = 'length')"
            " FROM calls GROUP BY model, role"
        )
        found = {}
        for model, role, calls, copied, prompt, completion, cost, priced, seconds, retries, cut_off in rows:
            finals, lost = failed.pop((model, role), (0, 0.0))
            found[model, role] = Spending(
                model, role, calls, copied, prompt, completion, cost + lost, bool(priced), seconds, retries, finals, cut_off
            )
        for (model, role), (finals, lost) in failed.items():
            found[model, role] = Spending(model, role, 0, 0, 0, 0, lost, lost > 0, 0.0, 0, finals)
        order = {"mentor": 0, "intern": 1, "judge": 2}
        return [found[k] for k in sorted(found, key=lambda k: (order.get(k[1], 3), k[0]))]

    def copy_calls_from(self, other: Path) -> int:
        """Take over every reply of another ledger that this one lacks; how many there were. They cost this run nothing."""
        with _readable(other), self._disk():
            self._db.execute("ATTACH DATABASE ? AS other", (f"{other.resolve().as_uri()}?mode=ro",))
            try:
                cursor = self._db.execute(_COPY)
                return cursor.rowcount
            finally:
                self._db.execute("DETACH DATABASE other")

    def _write(self, sql: str, row: tuple[Any, ...]) -> None:
        with self._disk():
            self._db.execute(sql, row)

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise DiskError(
                f"{self.path} cannot be written ({error}): free space on its disk and run the same command again; what it holds is safe"
            ) from error


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if "full" in str(error) or "I/O" in str(error):
            raise DiskError(f"{path} cannot be written ({error}): free space on its disk") from error
        raise InputError(f"{path} cannot be opened: {error}") from error
    except sqlite3.DatabaseError as error:
        raise InputError(f"{path} is damaged or is no ledger ({error}): use another --run") from error


def _pack(value: object) -> bytes:
    return zlib.compress(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"), 1)


def _unpack(blob: bytes) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(zlib.decompress(blob).decode("utf-8", "surrogatepass"))
    return value
