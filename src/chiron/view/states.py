"""State of a run: the line on the home page, and what all kinds of runs have in common."""

import logging
import os
import threading
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chiron.client.batch_record import FOLDER as BATCHES
from chiron.client.batch_record import read_open_batches
from chiron.errors import ChironError, InputError
from chiron.jobs.directory import LEDGER, RUN, WorkDirectory
from chiron.view.accounts import Accounts
from chiron.view.discovery import METRICS, PROVENANCE, Kind, Place, kind_of
from chiron.view.files import in_use, reading

_log = logging.getLogger(__name__)
Signature = tuple[object, ...]
MOST = 1e15
"""Numbers in files are below this. Larger ones, infinite ones and NaN come from damage."""


@dataclass(frozen=True)
class RunLine:
    """One line of the home page."""

    id: str
    name: str
    kind: Kind
    subject: str = ""
    """What the run works on, in a few words."""
    state: str = ""
    """``running``, ``complete``, ``stopped``, ``damaged``, or ``reading`` before anything is known."""
    done: int | None = None
    total: int | None = None
    unit: str = "cases"
    retained: int | None = None
    known_usd: float | None = None
    possible_usd: float = 0.0
    priced: bool = True
    seconds_left: float | None = None
    changed: float = 0.0
    """Time of the last change, in seconds since 1970."""
    problem: str = ""
    batches: tuple[str, ...] = ()
    """Batches that are not collected yet, one line each."""

    @property
    def noun(self) -> str:
        """The unit as it follows the last number of the progress: ``1 of 1 case``, ``1 of 2 cases``."""
        word, space, rest = self.unit.partition(" ")
        return f"{word.removesuffix('s')}{space}{rest}" if (self.total or self.done) == 1 else self.unit


def stat_of(path: Path | str) -> tuple[int, int, int] | None:
    """Return what changes when a file changes; ``None`` if it does not exist."""
    try:
        about = os.stat(path)  # noqa: PTH116 - a string, see signature()
    except (OSError, ValueError):
        return None
    return about.st_ino, about.st_size, about.st_mtime_ns


class RunState:
    """A run directory, with what is known of it so far. Methods may be called by several threads."""

    kind: Kind = "unknown"
    files: tuple[str, ...] = (RUN,)
    """Files whose changes change the run's pages."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._folder = f"{place.path}{os.sep}"
        self.lock = threading.RLock()
        self.run: dict[str, Any] = {}
        """Content of ``run.json``."""
        self.accounts: Accounts | None = None
        """Calls of the run, once its ledger is read."""
        self.problem = ""
        self.settled = False
        """Whether everything is read that the home page shows."""
        self._seen: Signature | None = None
        self._line: RunLine | None = None

    @property
    def path(self) -> Path:
        return self.place.path

    def signature(self) -> Signature:
        """Return a value that changes when the run changes."""
        # Asked for every run, every second: strings are joined ten times as fast as paths.
        return (in_use(self.path), *(stat_of(f"{self._folder}{name}") for name in (*self.files, BATCHES)))

    def line(self, until: float) -> RunLine:
        """Return the line of the home page. Reading stops when the monotonic clock shows ``until``, and continues in the background."""
        left = until - time.monotonic()
        # A page with many runs waits neither for all of them nor for the background thread, which may be reading this one.
        if (self._line is None and left <= 0) or not self.lock.acquire(timeout=max(0.0, min(left, threading.TIMEOUT_MAX))):
            return self._line or self.line_with(state="reading")
        try:
            now = self.signature()
            if self._line is None or now != self._seen or not self.settled:
                self._line = self._fresh(now, until)
                self._seen = now
            return self._line
        finally:
            self.lock.release()

    def _fresh(self, now: Signature, until: float) -> RunLine:
        try:
            self.problem = ""
            self.settled = self.refresh(until)
            line = self.describe(running=bool(now[0]))
        except Exception as problem:  # noqa: BLE001 - one damaged run must not take the others down
            line = self.damaged(problem)
        # Reading a ledger creates an empty -wal file next to it, which does not change the run.
        times = [about[2] for about in now[1:] if isinstance(about, tuple) and about[1]]
        return replace(line, changed=max(times, default=0) / 1e9, batches=self._batches())

    def _batches(self) -> tuple[str, ...]:
        try:
            return tuple(batch.words for batch in read_open_batches(self.path))
        except InputError as problem:
            return (str(problem),)

    def damaged(self, problem: Exception) -> RunLine:
        """Note why the run cannot be read, until its files change; return its line."""
        with self.lock:
            self.settled, self.problem, self._seen = True, str(problem), self.signature()
            if not isinstance(problem, ChironError):
                # The message of the exception may quote a case, so the log has only its type and where it was raised.
                where = "".join(traceback.format_tb(problem.__traceback__))
                _log.error("run %s cannot be read: %s\n%s", self.place.id, type(problem).__name__, where)
                self.problem = (
                    f"{self.path} cannot be read ({type(problem).__name__}): a file in it is damaged, or of another version of chiron;"
                    " restore it from a copy"
                )
            self._line = self.line_with(state="damaged", problem=self.problem)
            return self._line

    def line_with(self, **values: Any) -> RunLine:
        return RunLine(self.place.id, self.place.name, self.kind, **values)

    def costs(self) -> dict[str, Any]:
        """Return the cost fields of a line; none without a ledger."""
        known = self.accounts
        return {} if known is None else {"known_usd": known.known_usd, "possible_usd": known.possible_usd, "priced": known.priced}

    def read_calls(self, until: float) -> bool:
        """Read ``run.json`` and, if there is a ledger, its new calls; return whether all are read."""
        self.run = WorkDirectory(self.path).read_run() or {}
        ledger = self.path / LEDGER
        if not ledger.is_file():
            return True
        self.accounts = self.accounts or Accounts(ledger)
        with reading(ledger) as connection:
            return self.accounts.advance(connection, until)

    def refresh(self, until: float) -> bool:  # noqa: ARG002 - for others
        """Read what is new; return whether everything is read.

        Raises:
            ChironError: the run cannot be read.
        """
        return True

    def describe(self, *, running: bool) -> RunLine:
        """Return the line from what is read.

        Raises:
            ChironError: the run cannot be read.
        """
        raise NotImplementedError

    def work(self, until: float) -> bool:
        """Do background work until the monotonic clock shows ``until``; return whether a page would look different now."""
        if self.settled:
            return False
        self.line(until)
        return True

    def close(self) -> None:
        """Free memory."""


class UnknownState(RunState):
    """A directory that cannot be read as a run."""

    files = (RUN, LEDGER, METRICS, PROVENANCE)

    def describe(self, *, running: bool) -> RunLine:  # noqa: ARG002 - the problem is the same
        raise InputError(kind_of(self.path)[1] or "this directory changed while it was read: reload the page")
