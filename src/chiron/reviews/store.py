"""``reviews.sqlite`` in a run directory: append-only events, and drafts of reviews that are being written."""

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

from chiron.client.ledger_store import explained
from chiron.errors import InputError
from chiron.io import alone, write_atomically
from chiron.reviews.records import FORMAT, Decision, Kind, ReviewBody, ReviewRecord, by_path, decide

REVIEWS: Final = "reviews.sqlite"
_SCHEMA_VERSION: Final = 1
_SCHEMA: Final = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, kind TEXT NOT NULL, reviewer TEXT NOT NULL, case_id TEXT NOT NULL,
    path_sha256 TEXT NOT NULL, body TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS events_of_case ON events (case_id, id);
CREATE TABLE IF NOT EXISTS drafts (
    reviewer TEXT NOT NULL, case_id TEXT NOT NULL, path_sha256 TEXT NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (reviewer, case_id, path_sha256, kind)
);
CREATE TRIGGER IF NOT EXISTS events_stay BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER IF NOT EXISTS events_do_not_change BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
PRAGMA user_version = 1;
COMMIT;
"""
_COLUMNS: Final = "id, at, kind, reviewer, case_id, path_sha256"


@dataclass(frozen=True, slots=True)
class EventHead:
    """An event without its verdicts."""

    id: int
    at: str
    kind: Kind
    reviewer: str
    case_id: str
    path_sha256: str


@dataclass(frozen=True)
class ReviewStore:
    """The reviews of one run. Each operation opens the file again, so threads and processes may use it at once."""

    directory: Path

    @property
    def path(self) -> Path:
        """Path of the file. It is created by the first write."""
        return self.directory / REVIEWS

    def add(self, kind: Kind, reviewer: str, case_id: str, path_sha256: str, body: ReviewBody) -> int:
        """Append an event, remove the reviewer's draft of it, and return the event's number.

        Raises:
            DiskError: the disk is full, or another process writes for too long; nothing was changed.
            InputError: the file cannot be used.
        """
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        with self._writing() as db:
            cursor = db.execute(
                "INSERT INTO events (at, kind, reviewer, case_id, path_sha256, body) VALUES (?,?,?,?,?,?)",
                (at, kind, reviewer, case_id, path_sha256, json.dumps(body)),
            )
            db.execute(
                "DELETE FROM drafts WHERE reviewer = ? AND case_id = ? AND path_sha256 = ? AND (kind = 'adjudication') = ?",
                (reviewer, case_id, path_sha256, kind == "adjudication"),
            )
            return int(cursor.lastrowid or 0)

    def save_draft(self, kind: Kind, reviewer: str, case_id: str, path_sha256: str, body: Any) -> None:
        """Store an unfinished review in place of the one before; errors as in :meth:`add`."""
        with self._writing() as db:
            db.execute(
                "INSERT OR REPLACE INTO drafts (reviewer, case_id, path_sha256, kind, body) VALUES (?,?,?,?,?)",
                (reviewer, case_id, path_sha256, kind, json.dumps(body)),
            )

    def draft(self, kind: Kind, reviewer: str, case_id: str, path_sha256: str) -> Any:
        """Return an unfinished review, or ``None``."""
        sql = "SELECT body FROM drafts WHERE reviewer = ? AND case_id = ? AND path_sha256 = ? AND kind = ?"
        row = next(self._read(sql, (reviewer, case_id, path_sha256, kind)), None)
        return None if row is None else self._parsed(row[0])

    def heads(self) -> list[EventHead]:
        """Return every event without its verdicts, in order."""
        return [EventHead(*row) for row in self._read(f"SELECT {_COLUMNS} FROM events ORDER BY id")]  # noqa: S608 - constants

    def events(self, case_id: str | None = None, *, after: int = 0) -> list[ReviewRecord]:
        """Return the events in order, of all cases or of one, with numbers above ``after``.

        Raises:
            InputError: the file cannot be read.
        """
        where, values = ("", ()) if case_id is None else ("AND case_id = ?", (case_id,))
        rows = self._read(f"SELECT {_COLUMNS}, body FROM events WHERE id > ? {where} ORDER BY id", (after, *values))  # noqa: S608 - constants
        return [cast("ReviewRecord", {"version": FORMAT, **asdict(EventHead(*head)), **self._parsed(body)}) for *head, body in rows]

    def _parsed(self, text: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, TypeError, RecursionError) as error:
            raise _damaged(self.path, str(error)) from error

    def decisions(self) -> dict[tuple[str, str], Decision]:
        """Return what the reviews of each path lead to, by case id and hash of the path."""
        decided = {path: decide(events) for path, events in by_path(self.events()).items()}
        return {path: decision for path, decision in decided.items() if decision is not None}

    def _read(self, sql: str, values: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        if not self.path.is_file():
            return
        uri = f"{self.path.resolve().as_uri()}?mode=ro"
        with explained(self.path, damage=_damaged), closing(sqlite3.connect(uri, uri=True, timeout=30)) as db:
            if not _version(db) and not db.execute("SELECT 1 FROM sqlite_master").fetchone():
                return  # another process is creating it
            _check(db, self.path)
            rows = db.execute(sql, values).fetchall()
        yield from rows

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Open the file and run the block in one transaction."""
        try:
            # Created before SQLite opens it: reviews quote case data, so the mode must be right from the start.
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise InputError(f"{self.path} cannot be written ({error.strerror}): check the permissions of its folder") from error
        with (
            explained(self.path, writing=True, damage=_damaged),
            closing(sqlite3.connect(self.path.resolve(), timeout=30, isolation_level=None)) as db,
        ):
            if not _version(db):
                self._create(db)
            _check(db, self.path)
            db.execute("PRAGMA synchronous=FULL")  # a verdict that was confirmed survives a power failure
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:  # a full disk may have ended it already
                    db.execute("ROLLBACK")
                raise

    def _create(self, db: sqlite3.Connection) -> None:
        # SQLite does not wait for another process that changes the journal mode.
        lock = self.path.with_name(f".{REVIEWS}.lock")
        with alone(lock, place=f"folder {self.directory}", busy=f"{self.path} is locked by another process: try again", wait=30.0):
            if not _version(db):
                if db.execute("SELECT 1 FROM sqlite_master").fetchone():
                    raise InputError(f"{self.path} is an SQLite database of something else: move it away")
                db.execute("PRAGMA journal_mode=WAL")
                db.executescript(_SCHEMA)


def export_reviews(run: Path | str, out: Path | str | None = None) -> Path:
    """Write the events of a run as JSONL, by default to ``reviews.jsonl`` in its directory, and return the file's path.

    Raises:
        InputError: the run has no reviews, or they cannot be read.
        DiskError: the file cannot be written.
    """
    events = read_reviews(run)
    target = Path(out) if out is not None else Path(run) / "reviews.jsonl"
    write_atomically(target, (json.dumps(event, ensure_ascii=False) + "\n" for event in events))
    return target


def read_reviews(run: Path | str) -> list[ReviewRecord]:
    """Return the reviews, skips and adjudications of a run, in the order in which they were made.

    Raises:
        InputError: the run has no reviews, or they cannot be read.
    """
    store = ReviewStore(Path(run))
    if not store.path.is_file():
        raise InputError(f"{run} has no reviews ({REVIEWS} is missing): review its paths with 'chiron view {run} --review NAME'")
    return store.events()


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _check(db: sqlite3.Connection, path: Path) -> None:
    if (version := _version(db)) != _SCHEMA_VERSION:
        raise InputError(f"{path} has schema {version}, and this program reads schema {_SCHEMA_VERSION}: use the version that wrote it")


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"{path} is damaged ({why}): recover it with the sqlite3 program (.recover) into a new file that replaces it")
