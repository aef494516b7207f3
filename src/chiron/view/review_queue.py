"""Which paths of a search a reviewer sees, and in which order."""

import hashlib
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from chiron.client.ledger import Ledger
from chiron.errors import InputError
from chiron.jobs.directory import LEDGER
from chiron.reviews.records import ReviewRecord, by_path, hash_path, is_disputed
from chiron.reviews.store import EventHead, ReviewStore
from chiron.view.files import reading
from chiron.view.search_state import SearchState

_PATHS = """
SELECT case_id FROM results WHERE retained = 1 OR (outcome IN ('full_score', 'depth') AND mics_score >= ?) ORDER BY position, case_id
"""


@dataclass(frozen=True)
class ReviewSettings:
    """What a server has reviewed.

    Raises:
        InputError: a value is out of range.
    """

    reviewers: tuple[str, ...] = ()
    """Names of those who have a queue, for the distribution of paths."""
    double: float = 0.0
    """Share of the paths that two reviewers review, each without seeing the other's verdicts."""
    min_score: float | None = None
    """Also review rejected paths with at least this MICS-Score."""

    def __post_init__(self) -> None:
        for name, value in (("--double", self.double), ("--min-score", self.min_score)):
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"{name} must be between 0 and 1 (got {value:g})")

    def needed(self, case_id: str) -> int:
        """Return how many reviews a path needs. A larger share contains the paths of a smaller one."""
        return 2 if _place(case_id, "double") < self.double else 1

    def first_for(self, case_id: str) -> frozenset[str]:
        """Return those in whose queue a path comes before others, so that reviewers rarely work on the same path."""
        number = len(self.reviewers)
        first = int(_place(case_id, "reviewer") * number)
        return frozenset(self.reviewers[(first + more) % number] for more in range(self.needed(case_id))) if number else frozenset()


def _place(case_id: str, what: str) -> float:
    """Return a number from 0 to 1 that depends only on the arguments."""
    return int(hashlib.sha256(f"{what}\0{case_id}".encode("utf-8", "surrogatepass")).hexdigest()[:13], 16) / 16**13


@dataclass(frozen=True, slots=True)
class _QueuedPath:
    case_id: str
    needed: int
    first_for: frozenset[str]


@dataclass(frozen=True)
class QueueView:
    """The paths of a run from one reviewer's side; all are ids of cases."""

    waiting: tuple[str, ...]
    """Not yet reviewed, in the order of work."""
    handled: tuple[str, ...]
    """Reviewed or skipped by the reviewer, last one last."""
    skipped: tuple[str, ...]


class ReviewQueue:
    """The paths of one search that are reviewed."""

    def __init__(self, state: SearchState, settings: ReviewSettings) -> None:
        """Prepare to read; nothing is read before it is needed."""
        self._state, self._settings = state, settings
        self.store = ReviewStore(state.path)
        self._lock = threading.Lock()
        self._hashes: dict[str, str] = {}
        self._ledger = 0
        self._paths: list[_QueuedPath] = []
        self._paths_of: object = None

    def view(self, reviewer: str) -> QueueView:
        """Return what waits for a reviewer, and what the reviewer did.

        Raises:
            InputError: the ledger or the reviews cannot be read.
        """
        paths, heads = self._read_paths(), self._valid(self.store.heads())
        mine = {head.case_id: head for head in heads if head.reviewer == reviewer and head.kind != "adjudication"}
        last = {(head.case_id, head.reviewer): head.kind for head in heads if head.kind != "adjudication"}
        others = Counter(case_id for (case_id, name), kind in last.items() if kind == "review" and name != reviewer)
        waiting = [path for path in paths if path.case_id not in mine and others[path.case_id] < path.needed]
        waiting.sort(key=lambda path: reviewer not in path.first_for)
        handled = sorted(mine, key=lambda name: mine[name].id)
        return QueueView(
            tuple(path.case_id for path in waiting), tuple(handled), tuple(name for name in handled if mine[name].kind == "skip")
        )

    def disputes(self) -> list[str]:
        """Return the cases whose reviews disagree and wait for an adjudication, in the order of their first reviews."""
        events = self.store.events()
        valid = {head.id for head in self._valid([_head(event) for event in events])}
        groups = by_path([event for event in events if event["id"] in valid])
        return [case_id for (case_id, _), of_path in groups.items() if is_disputed(of_path)]

    def has_path(self, case_id: str) -> bool:
        """Return whether the record of a case can be read and contains a path."""
        with self._lock, Ledger.read(self._state.path / LEDGER) as ledger:
            return self._hash(ledger, case_id) is not None

    def _read_paths(self) -> list[_QueuedPath]:
        """Return the paths that are reviewed, in the order of the cases; kept until the ledger changes."""
        with self._lock:
            now = self._state.signature()
            if now != self._paths_of:
                least = 2.0 if self._settings.min_score is None else self._settings.min_score
                with reading(self._state.path / LEDGER) as connection:
                    names = [str(name) for (name,) in connection.execute(_PATHS, (least,))]
                settings = self._settings
                self._paths = [_QueuedPath(name, settings.needed(name), settings.first_for(name)) for name in names]
                self._paths_of = now
            return self._paths

    def _valid(self, heads: Sequence[EventHead]) -> list[EventHead]:
        """Return the events that are about the paths that the ledger contains now."""
        if not heads:
            return []
        with self._lock, Ledger.read(self._state.path / LEDGER) as ledger:
            return [head for head in heads if self._hash(ledger, head.case_id) == head.path_sha256]

    def _hash(self, ledger: Ledger, case_id: str) -> str | None:
        """Return the hash of a path, kept until another ledger takes the place of this one; ``None`` if the case has no path."""
        file = (self._state.path / LEDGER).stat().st_ino
        if file != self._ledger:  # it was repaired
            self._hashes, self._ledger = {}, file
        if case_id not in self._hashes:
            try:
                result = ledger.result(case_id)
            except InputError:
                return None  # the page of the case says what is wrong with it
            reasoning = result.record.get("reasoning") if result is not None else None
            if not isinstance(reasoning, str) or not reasoning:
                return None
            self._hashes[case_id] = hash_path(reasoning)
        return self._hashes[case_id]


def _head(event: ReviewRecord) -> EventHead:
    return EventHead(event["id"], event["at"], event["kind"], event["reviewer"], event["case_id"], event["path_sha256"])
