"""Opening a ledger's file, and saying in words what SQLite makes of it: a full disk, a damaged file, one that is not ours to open."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chiron.errors import ChironError, DiskError, InputError

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
"""
_FACTS = "CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)"


class Store:
    """An open ledger's file. Whatever SQLite says of it comes out as an error that a person can act upon."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        """Wrap an open connection."""
        self._db = connection
        self.path = path

    def _read(self, sql: str, values: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        """Rows, one at a time."""
        with explained(self.path):
            yield from self._db.execute(sql, values)

    def _read_one(self, sql: str, values: tuple[Any, ...] = ()) -> tuple[Any, ...] | None:
        """The first row. Apart from :meth:`_read`, since it is asked before every call."""
        with explained(self.path):
            row: tuple[Any, ...] | None = self._db.execute(sql, values).fetchone()
            return row

    def _write(self, sql: str, row: tuple[Any, ...]) -> sqlite3.Cursor:
        with explained(self.path, writing=True):
            return self._db.execute(sql, row)

    @contextmanager
    def _together(self) -> Iterator[None]:
        """What is written in here is kept whole or not at all."""
        self._write("BEGIN IMMEDIATE", ())
        try:
            yield
            self._write("COMMIT", ())
        except BaseException:
            if self._db.in_transaction:  # a full disk may have ended it already
                self._db.execute("ROLLBACK")
            raise


def open_for_writing(path: Path) -> sqlite3.Connection:
    """Open a ledger; create it, readable by its owner alone, if it is not there.

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
    with explained(path):
        db = sqlite3.connect(path.resolve(), timeout=30, isolation_level=None)
        db.execute("PRAGMA journal_mode=WAL")
        # NORMAL: a killed process loses nothing; only a power cut may cost the last moments.
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("PRAGMA cache_size=-8000")
        # Keys are random, so a checkpoint rewrites pages all over the file: fewer, larger ones cost a fraction (64 MiB at most).
        db.execute("PRAGMA wal_autocheckpoint=16000")
        if _version(db) == 0:
            db.executescript(_SCHEMA)
            db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        _check(db, path)
        db.execute(_FACTS)  # ledgers begun before there was this table are as good as any
    return db


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Open a ledger that another process may be writing.

    Raises:
        InputError: there is none, or it is no ledger.
    """
    if not path.is_file():
        raise InputError(f"{path.parent} is not a run directory: it has no {path.name}")
    with explained(path):
        db = sqlite3.connect(_reading_uri(path), uri=True, timeout=30, isolation_level=None)
        _check(db, path)
    return db


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _check(db: sqlite3.Connection, path: Path) -> None:
    """Whether it is a ledger of ours, and whole as far as a glance can tell."""
    version = _version(db)
    if version != SCHEMA_VERSION:
        raise InputError(f"{path} was written by another version of chiron (schema {version}): use that version, or a new --run")
    there = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if missing := [name for name in ("calls", "failures", "results") if name not in there]:
        # Not made anew in passing: what was spent stands in them.
        raise damaged(path, f"no such table: {missing[0]}")


def _reading_uri(path: Path) -> str:
    """The URI under which SQLite can read the file.

    To read a WAL database SQLite writes two files beside it. Where it may not (a read-only copy or medium), the file is read as one
    that nobody changes, provided that nothing is left in its log.

    Raises:
        InputError: it cannot be read there.
    """
    uri = f"{path.resolve().as_uri()}?mode=ro"
    with explained(path):
        db = sqlite3.connect(uri, uri=True, timeout=30)
        try:
            db.execute("PRAGMA user_version").fetchone()
        except sqlite3.OperationalError as error:
            if _primary(error) not in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
                raise
            log = path.with_name(f"{path.name}-wal")
            if log.exists() and log.stat().st_size:
                raise InputError(
                    f"{path} cannot be read where it lies, because {log.name} beside it holds its last replies and SQLite may not write"
                    " there: copy the whole directory to a place of your own"
                ) from error
            return f"{uri}&immutable=1"
        finally:
            db.close()
    return uri


@contextmanager
def explained(path: Path, *, writing: bool = False) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.DatabaseError as error:
        ours = _ours(path, error, writing=writing)
        if ours is None:
            raise
        raise ours from error


def damaged(path: Path, why: str) -> InputError:
    """What to say of a ledger that cannot be read, and how to mend it."""
    return InputError(
        f"{path} is damaged or is no ledger ({why}): the sqlite3 program's .recover, where it has one, or else .dump, saves what can be"
        " saved into a new file, to be put in its place; or move it away and run again, which asks and pays for everything anew"
    )


def _ours(path: Path, error: sqlite3.DatabaseError, *, writing: bool) -> ChironError | None:
    """The error in our words; ``None`` if it is a crash of ours."""
    code = _primary(error)
    why = str(error) or getattr(error, "sqlite_errorname", "") or "SQLite gives no reason"
    if code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}:
        return DiskError(
            f"{path} cannot be {'written' if writing else 'used'} ({why}): free space on its disk and run the same command again; what it"
            " holds is safe"
        )
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return DiskError(f"{path} is locked by another process ({why}): wait for it and run the same command again")
    if code in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}:
        text = f"{path} cannot be {'written' if writing else 'opened'} ({why}): see that it and its directory are yours to use"
        return DiskError(f"{text}; what it holds is safe") if writing else InputError(text)
    # Without a code: what a column holds is no text. SQLITE_ERROR is also what a mistake in our SQL would be.
    ours_to_blame = code == sqlite3.SQLITE_ERROR and not why.startswith("no such ") and "has no column" not in why
    return None if ours_to_blame else damaged(path, why)


def _primary(error: sqlite3.Error) -> int | None:
    """SQLite's error code without its details; ``None`` where Python's own layer raised it."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
