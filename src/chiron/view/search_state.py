"""State of a search or a replay."""

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from chiron.cases.images import ImageFolder
from chiron.cases.reader import Selection, Shard
from chiron.errors import ChironError, InputError
from chiron.jobs.directory import LEDGER, RUN, WorkDirectory
from chiron.reviews.records import by_path, decide
from chiron.reviews.store import REVIEWS, ReviewStore
from chiron.view.accounts import Accounts
from chiron.view.case_index import CaseIndex
from chiron.view.discovery import Kind, Place
from chiron.view.files import reading
from chiron.view.states import RunLine, RunState, stat_of

_QUICK = 4e6
"""Bytes of a file of cases that are counted at once; a larger one is counted in the background."""


@dataclass
class _Total:
    """Number of cases that a run selects, counted in the background."""

    source: object = None
    count: int | None = None
    problem: str = ""


class SearchState(RunState):
    """A search or a replay."""

    kind: Kind = "search"
    files = (RUN, LEDGER, f"{LEDGER}-wal")

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.total = _Total()
        self.wants_details = False
        self.labelled = False
        self.reviews_problem = ""
        self._file = 0
        self._reviews: tuple[object, int] = (None, 0)
        """State of the file of reviews when it was read, and the number of the last event that was read."""

    @cached_property
    def index(self) -> CaseIndex:
        """Index of the cases, created when it is first needed."""
        return CaseIndex()

    def close(self) -> None:
        if "index" in vars(self):
            self.index.close()

    @property
    def selection(self) -> Selection:
        """The cases that the run selects.

        Raises:
            InputError: ``run.json`` does not name them.
        """
        cases, limit, shard = (self.run.get(name) for name in ("cases", "limit", "shard"))
        if not isinstance(cases, str) or not cases or "\0" in cases:
            raise InputError(f"{self.path / RUN} names no file of cases")
        return Selection(Path(cases), limit if isinstance(limit, int) else None, Shard.parse(shard) if isinstance(shard, str) else None)

    def refresh(self, until: float) -> bool:
        self.run = WorkDirectory(self.path).read_run() or {}
        with reading(self.path / LEDGER) as connection:
            file = (self.path / LEDGER).stat().st_ino
            if file != self._file:  # a repaired ledger has taken the place of the damaged one
                self.close()
                vars(self).pop("index", None)
                self._file, self._reviews = file, (None, 0)
            self.accounts = self.accounts or Accounts(self.path / LEDGER)
            done = self.accounts.advance(connection, until)
            done &= self.index.advance(connection, until)
        if self.total.source is None and time.monotonic() < until:
            self._count(most_bytes=_QUICK)
        return done

    def describe(self, *, running: bool) -> RunLine:
        counts = self.index.counts()
        done = counts.total() - counts["pending"]
        total = self.total.count
        finished = not counts["pending"] and (total is None or done >= total)
        return self.line_with(
            subject=Path(str(self.run.get("cases", ""))).name,
            state="running" if running else "complete" if finished else "stopped",
            done=done,
            total=total,
            retained=counts["retained"],
            seconds_left=_seconds_left(self.accounts, done, total) if running and self.accounts else None,
            **self.costs(),
        )

    def work(self, until: float) -> bool:
        """Count the cases, then read the records and labels that the search's own page shows."""
        with self.lock:
            changed = super().work(until)
            if not self.problem:
                changed |= self._count()
                changed |= self.wants_details and self._read_more(until)
            return changed

    def _count(self, most_bytes: float = float("inf")) -> bool:
        """Count the cases if their file has changed and is not too large; return whether it was counted."""
        try:
            selection = self.selection
            about = stat_of(selection.cases)
            source = (about, selection)
            if source == self.total.source or (about is not None and about[1] > most_bytes):
                return False
            self.total = _Total(source, count_cases(selection))
        except ChironError as problem:
            if self.total.problem == str(problem):
                return False
            self.total = _Total(None, None, str(problem))
        self._line = None
        return True

    @property
    def reviewed(self) -> bool:
        """Whether there are reviews of this run."""
        return bool(self._reviews[1])

    def read_reviews(self) -> bool:
        """Read new reviews into the index; return whether there were any."""
        store = ReviewStore(self.path)
        now = stat_of(store.path), stat_of(store.path.with_name(f"{REVIEWS}-wal"))
        seen, last = self._reviews
        if now == seen:
            return False
        try:
            new = store.events(after=last)
            # The first time all events are read already; later, only those of the cases that were reviewed meanwhile.
            events = new if not last else [event for name in {event["case_id"] for event in new} for event in store.events(name)]
        except ChironError as problem:
            self._reviews, self.reviews_problem = (now, last), str(problem)
            return True
        decided = {path: decide(of_path) for path, of_path in by_path(events).items()}
        self.index.put_reviews({path: decision.status if decision is not None else None for path, decision in decided.items()})
        self._reviews, self.reviews_problem = (now, max((event["id"] for event in new), default=last)), ""
        return bool(new)

    def read_details(self, until: float) -> None:
        """Read records into the index, now and in the background from now on."""
        self.wants_details = True
        if self.index.waiting:
            with reading(self.path / LEDGER) as connection:
                self.index.read_details(connection, until)

    def _read_more(self, until: float) -> bool:
        changed = self.read_reviews()
        if self.index.waiting:
            self.read_details(until)
            changed = True
        elif not self.total.problem:
            before, self.labelled = self.labelled, self.index.read_labels(self.total.source, self.selection, until)
            changed |= not (before and self.labelled)
        return changed

    def case_file_images(self) -> ImageFolder | None:
        folder = self.run.get("images")
        return ImageFolder(Path(folder)) if isinstance(folder, str) and folder else None


def _seconds_left(accounts: Accounts, done: int, total: int | None) -> float | None:
    """Estimate the seconds left from the calls of a finished case and the speed of the last calls."""
    if not done or total is None or not accounts.calls_per_second:
        return None
    return max(0, total - done) * (accounts.calls / done) / accounts.calls_per_second


def count_cases(selection: Selection) -> int:
    """Count the selected cases; quick for a whole JSONL file, whose lines are not read as cases.

    Raises:
        InputError: the file cannot be read.
    """
    path = Path(selection.cases)
    if selection.shard is not None or path.suffix.lower() != ".jsonl":
        return selection.count()
    try:
        with path.open("rb") as file:
            lines = sum(1 for line in file if line.strip())
    except OSError:
        return selection.count()  # which explains the problem
    return lines if selection.limit is None else min(lines, selection.limit)
