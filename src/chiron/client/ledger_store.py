"""Open a ledger's file, and translate SQLite's errors: a full disk, a damaged file, missing permissions."""

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chiron.errors import ChironError, DiskError, InputError

SCHEMA_VERSION = 1
CHECKPOINT_EVERY = 30.0
"""Maximum seconds between checkpoints while data is written."""
_CHECKPOINT_PAGES = 16_000
"""Size of the log in pages (64 MiB) at which SQLite makes a checkpoint itself. Keys are random, so each checkpoint rewrites pages all over
the file. Fewer, larger checkpoints cost much less.
"""

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
_OURS = {"calls", "failures", "results", "facts"}
_ANYTHING = "SELECT 1 FROM calls UNION ALL SELECT 1 FROM failures UNION ALL SELECT 1 FROM results UNION ALL SELECT 1 FROM facts LIMIT 1"
_CHECKSUM = "ALTER TABLE calls ADD COLUMN checksum BLOB"
"""The first ledgers had no checksums; rows without one are valid."""
_FACTS = "CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)"


class Store:
    """An open ledger file. Methods raise ``InputError`` if it is damaged, and ``DiskError`` if it cannot be written."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db = connection
        self.path = path
        self._checkpointed = time.monotonic()

    def _read(self, sql: str, values: tuple[Any, ...] = ()) -> Generator[tuple[Any, ...], None, None]:
        """Yield the rows, one at a time."""
        with explained(self.path):
            yield from self._db.execute(sql, values)

    def _read_one(self, sql: str, values: tuple[Any, ...] = ()) -> tuple[Any, ...] | None:
        """Return the first row. Separate from :meth:`_read` for speed, since it runs before every call."""
        with explained(self.path):
            row: tuple[Any, ...] | None = self._db.execute(sql, values).fetchone()
            return row

    def _value(self, sql: str, values: tuple[Any, ...] = ()) -> Any:
        """Return the first column of the first row; ``None`` without a row."""
        row = self._read_one(sql, values)
        return None if row is None else row[0]

    def _write(self, sql: str, row: tuple[Any, ...]) -> sqlite3.Cursor:
        with explained(self.path, writing=True):
            cursor = self._db.execute(sql, row)
            if not self._db.in_transaction and time.monotonic() - self._checkpointed >= CHECKPOINT_EVERY:
                # A copy of the file alone then lacks at most half a minute. Pages that readers still need wait for the next checkpoint.
                self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                self._checkpointed = time.monotonic()
            return cursor

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Run the block in one transaction."""
        self._write("BEGIN IMMEDIATE", ())
        try:
            yield
            self._write("COMMIT", ())
        except BaseException:
            if self._db.in_transaction:  # a full disk may have ended the transaction already
                self._db.execute("ROLLBACK")
            raise


def open_for_writing(path: Path, *, begun: bool) -> sqlite3.Connection:
    """Open a ledger for writing; see :meth:`~chiron.client.ledger.Ledger.open`."""
    _refuse_emptied(path, begun=begun)
    try:
        # Created before SQLite opens it: it will contain patient data, so the mode must be right from the start.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        path.chmod(0o600)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
    with explained(path):
        db = sqlite3.connect(path.resolve(), timeout=30, isolation_level=None)
        db.execute("PRAGMA journal_mode=WAL")
        # NORMAL: a killed process loses nothing; only a power failure may lose the last moments.
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("PRAGMA cache_size=-8000")
        db.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
        if _version(db) == 0:
            _create(db, path, begun=begun)
        _check(db, path)
        db.execute(_FACTS)  # ledgers from before this table existed are valid
        if "checksum" not in columns(db):
            db.execute(_CHECKSUM)
        if begun and db.execute(_ANYTHING).fetchone() is None:
            # A new run stores its identity here before it writes run.json.
            db.close()
            raise emptied(path)
    return db


def columns(db: sqlite3.Connection) -> set[str]:
    """Return the column names of the table of replies."""
    return {row[1] for row in db.execute("PRAGMA table_info(calls)")}


def _create(db: sqlite3.Connection, path: Path, *, begun: bool) -> None:
    """Create the tables and write them to the file itself. Otherwise a ledger that loses its log would look like a new one."""
    _refuse_foreign(db, path)
    if begun:
        raise emptied(path)
    db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _refuse_emptied(path: Path, *, begun: bool) -> None:
    """Reject an emptied ledger before SQLite opens it, because SQLite deletes the log next to an empty file."""
    log = path.with_name(f"{path.name}-wal")
    try:
        empty = path.is_file() and not path.stat().st_size
        if empty and (begun or (log.is_file() and log.stat().st_size)):
            raise emptied(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def emptied(path: Path) -> InputError:
    """Return the error for an empty ledger of a run that has started."""
    return InputError(
        f"{path} is empty, but its run has started and it contained every reply: restore {path.name} together with its {path.name}-wal and"
        f" {path.name}-shm (the three belong together), for example from a backup, or choose another directory. To start again in this one"
        " and pay for every call again, move all of them and run.json away"
    )


def _refuse_foreign(db: sqlite3.Connection, path: Path) -> None:
    there = _tables(db)
    if there and not there & _OURS:
        raise InputError(
            f"{path} is an SQLite database of something else (it has a table '{min(there)}'): move it away, or choose another directory"
        )


def _tables(db: sqlite3.Connection) -> set[str]:
    return {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Open a ledger for reading; see :meth:`~chiron.client.ledger.Ledger.read`."""
    if not path.is_file():
        raise InputError(f"{path.parent} is not a run directory (it has no {path.name}): put the file back, or choose another directory")
    with explained(path):
        db = sqlite3.connect(_reading_uri(path), uri=True, timeout=30, isolation_level=None)
        _check(db, path)
    return db


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _check(db: sqlite3.Connection, path: Path) -> None:
    """Check that the file is a ledger, and that a quick test finds no damage."""
    _refuse_foreign(db, path)
    version, there = _version(db), _tables(db)
    if not version and not there:
        raise emptied(path)
    if version != SCHEMA_VERSION:
        raise InputError(f"{path} was written by another version of chiron (schema {version}): use that version, or a new --run")
    if missing := [name for name in ("calls", "failures", "results") if name not in there]:
        # Do not create missing tables: they contained the money spent.
        raise damaged(path, f"no such table: {missing[0]}")


def _reading_uri(path: Path) -> str:
    """Return the URI with which SQLite can read the file.

    To read a WAL database, SQLite writes two files next to it. If it cannot (a read-only copy or medium), the file is opened as immutable,
    provided that its log is empty.
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
                    f"{path} cannot be read in its folder, because {log.name} contains its last replies and SQLite may not write"
                    " there: copy the whole directory to a place where you may write"
                ) from error
            return f"{uri}&immutable=1"
        finally:
            db.close()
    return uri


_NOT_LOCAL = {
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_IOERR_SHMOPEN,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_SHMLOCK,
    sqlite3.SQLITE_IOERR_SHMMAP,
    sqlite3.SQLITE_IOERR_LOCK,
    sqlite3.SQLITE_IOERR_UNLOCK,
    sqlite3.SQLITE_IOERR_RDLOCK,
    sqlite3.SQLITE_IOERR_CHECKRESERVEDLOCK,
    sqlite3.SQLITE_IOERR_BLOCKED,
}
"""Extended error codes for locks and shared memory."""
_SHARED_MEMORY = 2**15
"""Bytes of SQLite's smallest ``-shm`` file."""
_UNREADABLE = {sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS, sqlite3.SQLITE_IOERR_DATA}
"""Extended error codes for a disk that returns no data or wrong data."""


def damaged(path: Path, why: str) -> InputError:
    """Return the error for a damaged ledger, with instructions to recover it."""
    return InputError(
        f"{path} is damaged or not a ledger ({why}). Recover it with the sqlite3 program (.recover or .dump) into a new file that"
        " replaces it, or move it away and run again; all calls are then sent and paid for again"
    )


@contextmanager
def explained(path: Path, *, writing: bool = False, damage: Callable[[Path, str], InputError] = damaged) -> Iterator[None]:
    """Translate SQLite's errors into chiron's; ``damage`` returns the error for a damaged file."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.DatabaseError as error:
        ours = _ours(path, error, writing=writing, damage=damage)
        if ours is None:
            raise
        raise ours from error


def _is_full(folder: Path) -> bool:
    """Return whether a disk has no room for the shared memory of SQLite, which readers need too."""
    try:
        return shutil.disk_usage(folder).free < _SHARED_MEMORY
    except OSError:
        return False


def _ours(path: Path, error: sqlite3.DatabaseError, *, writing: bool, damage: Callable[[Path, str], InputError]) -> ChironError | None:
    """Translate an SQLite error; ``None`` if it is caused by a bug in chiron."""
    code = _primary(error)
    why = str(error) or getattr(error, "sqlite_errorname", "") or "SQLite gives no reason"
    if getattr(error, "sqlite_errorcode", None) in _NOT_LOCAL and not _is_full(path.parent):
        return DiskError(
            f"{path} cannot be {'written' if writing else 'used'} ({why}): its file system lacks the locks or the shared memory that SQLite"
            " needs, as network file systems do; put the run directory on a local disk. Its content is safe"
        )
    if getattr(error, "sqlite_errorcode", None) in _UNREADABLE:
        return DiskError(f"{path} cannot be read from its disk ({why}): check the disk, copy the directory to another one, and run again")
    if code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}:
        return DiskError(
            f"{path} cannot be {'written' if writing else 'used'} ({why}): free space on its disk and run the same command again; its"
            " content is safe"
        )
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return DiskError(f"{path} is locked by another process ({why}): wait for it and run the same command again")
    if code in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}:
        text = f"{path} cannot be {'written' if writing else 'opened'} ({why}): check the permissions of the file and its directory"
        return DiskError(f"{text}; its content is safe") if writing else InputError(text)
    # Errors without a code: a column contains invalid text. SQLITE_ERROR may also be caused by a mistake in chiron's SQL.
    ours_to_blame = code == sqlite3.SQLITE_ERROR and not why.startswith("no such ") and "has no column" not in why
    return None if ours_to_blame else damage(path, why)


def _primary(error: sqlite3.Error) -> int | None:
    """Return SQLite's error code without its details; ``None`` if the error was raised by Python's sqlite3 module itself."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
