"""Files of a run, read while another process may write them."""

import json
import os
import sqlite3
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from chiron.client.ledger_store import explained, open_for_reading
from chiron.errors import InputError
from chiron.jobs.directory import LOCK, WorkDirectory

fcntl: ModuleType | None
try:
    import fcntl
except ModuleNotFoundError:  # on Windows
    fcntl = None

_BLOCK = 1 << 20


@contextmanager
def reading(ledger: Path) -> Iterator[sqlite3.Connection]:
    """Open a ledger for reading, also while another process writes it; errors of SQLite become errors that say what to do.

    Raises:
        InputError: the file is missing, damaged, or written by another version.
    """
    with explained(ledger), closing(open_for_reading(ledger)) as connection:
        yield connection


def in_use(directory: Path) -> bool:
    """Return whether a process works in a run directory now. A missing lock file is not created."""
    lock = directory / LOCK
    if fcntl is None:
        return lock.is_file() and WorkDirectory(directory).in_use
    try:
        with lock.open("rb") as file:
            # A shared lock for a moment; a command that wants the run waits longer than that.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False  # there is no lock, or it cannot be read


def read_object(path: Path) -> dict[str, Any] | None:
    """Read a JSON file that holds one object; ``None`` if it is missing.

    Raises:
        InputError: it is damaged.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}): write it again with the command that made it") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a JSON object: write it again with the command that made it")
    return value


class LineFile:
    """Positions of the complete lines of a file, found incrementally."""

    def __init__(self, path: Path) -> None:
        """Prepare to read ``path``, which need not exist."""
        self.path = path
        self._starts = array("Q")
        self._end = 0
        self._inode: tuple[int, int] | None = None
        self.restarts = 0
        """How often another file took this one's place, or it was truncated. Lines that were read before may have changed then."""

    def __len__(self) -> int:
        """Return the number of lines found so far."""
        return len(self._starts)

    def advance(self, until: float) -> bool:
        """Find new lines until the file ends or the monotonic clock shows ``until``; return whether all are found."""
        try:
            with self.path.open("rb") as file:
                self._restart_if_replaced(os.fstat(file.fileno()))
                file.seek(self._end)
                while block := file.read(_BLOCK):
                    complete = block.rfind(b"\n") + 1
                    if not complete and len(block) == _BLOCK:
                        block += file.readline()
                        complete = len(block) if block.endswith(b"\n") else 0
                    if not complete:
                        return True  # the last line is not complete yet
                    self._add(block[:complete])
                    file.seek(self._end)
                    if time.monotonic() >= until:
                        return False
        except FileNotFoundError:
            self._restart(None)
        except OSError as error:
            raise InputError(f"{self.path} cannot be read ({error.strerror}): check its permissions and its disk") from error
        return True

    def _restart_if_replaced(self, about: os.stat_result) -> None:
        inode = (about.st_dev, about.st_ino)
        if inode != self._inode or about.st_size < self._end:
            self._restart(inode)

    def _restart(self, inode: tuple[int, int] | None) -> None:
        self._starts, self._end, self._inode = array("Q"), 0, inode
        self.restarts += 1

    def _add(self, block: bytes) -> None:
        start = 0
        while (end := block.find(b"\n", start)) >= 0:
            if block[start:end].strip():
                self._starts.append(self._end + start)
            start = end + 1
        self._end += len(block)

    def record(self, number: int) -> dict[str, Any]:
        """Read one line, from 0.

        Raises:
            InputError: it is not a JSON object, or the file cannot be read.
            IndexError: there is no such line.
        """
        start = self._starts[number]
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                value = json.loads(file.readline())
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{self.path}, line {number + 1} cannot be read ({type(error).__name__}): run its command again") from error
        if not isinstance(value, dict):
            raise InputError(f"{self.path}, line {number + 1} is not a JSON object: run its command again")
        return value


class FieldCounts:
    """How often each value of a field occurs in a file, counted as it grows. Lines that cannot be read are counted as such."""

    def __init__(self, path: Path, name: str) -> None:
        """Count the values of ``name``."""
        self._lines, self._name = LineFile(path), name
        self._read = self._restarts = 0
        self.counts: Counter[str] = Counter()
        self.done = False

    def advance(self, until: float) -> bool:
        """Count until all lines are counted or the monotonic clock shows ``until``; return whether a line was counted."""
        self.done = self._lines.advance(until)
        if self._lines.restarts != self._restarts:
            self.counts, self._read, self._restarts = Counter(), 0, self._lines.restarts
        first = self._read
        while self._read < len(self._lines):
            try:
                self.counts[str(self._lines.record(self._read).get(self._name))] += 1
            except InputError:
                self.counts["(not readable)"] += 1
            self._read += 1
            if time.monotonic() >= until:
                self.done = self._read == len(self._lines)
                break
        return self._read > first
