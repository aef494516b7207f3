"""Index of the cases of a search: an SQLite table in memory, kept up to date by reading only new results."""

import hashlib
import json
import sqlite3
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

from chiron.cases.body_systems import BODY_SYSTEMS, body_system_of_case
from chiron.cases.case import Case
from chiron.cases.modalities import modalities_of_case
from chiron.cases.reader import Selection
from chiron.client.failures import Missing
from chiron.errors import ChironError, InputError
from chiron.reports.case_view import Kind, kind_of, reason_in_words
from chiron.reports.run_summary import Totals
from chiron.reviews.records import hash_path
from chiron.view.states import MOST

_TABLE = """
CREATE TABLE cases (
    case_id TEXT PRIMARY KEY, key TEXT NOT NULL, position INTEGER NOT NULL, kind TEXT NOT NULL, score REAL,
    detailed INTEGER NOT NULL DEFAULT 0, baseline REAL, uplift REAL, depth INTEGER, question TEXT, words TEXT, reason TEXT,
    missing_candidates INTEGER, missing_evaluations INTEGER, cost_usd REAL, calls INTEGER, path_sha256 TEXT,
    modalities TEXT, body_system TEXT
) WITHOUT ROWID;
CREATE TABLE reviews (
    case_id TEXT NOT NULL, path_sha256 TEXT NOT NULL, status TEXT NOT NULL, PRIMARY KEY (case_id, path_sha256)
) WITHOUT ROWID;
CREATE TABLE labels (case_id TEXT PRIMARY KEY, modalities TEXT NOT NULL, body_system TEXT NOT NULL) WITHOUT ROWID;
CREATE UNIQUE INDEX by_key ON cases (key);
CREATE INDEX in_detail ON cases (detailed);
"""
_HEADS = "SELECT case_id, position, outcome, retained, mics_score FROM results WHERE rowid >= ? AND rowid <= ? ORDER BY rowid"
_HEADS_AT_ONCE = 2000
_PUT = (
    "INSERT OR REPLACE INTO cases (case_id, key, position, kind, score, modalities, body_system)"
    " SELECT ?1, ?2, ?3, ?4, ?5, modalities, body_system FROM (SELECT 1) LEFT JOIN labels ON labels.case_id = ?1"
)
_DETAIL = (
    "UPDATE cases SET detailed = 1, baseline = ?, uplift = ?, depth = ?, question = ?, words = ?, reason = ?,"
    " missing_candidates = ?, missing_evaluations = ?, cost_usd = ?, calls = ?, path_sha256 = ? WHERE case_id = ?"
)
_CHUNK = 200
_MOST_RECORD = 64 * 2**20
SEPARATOR = "\x1f"
"""Separates a case's modalities."""
UNKNOWN = "unknown"


def case_key(case_id: str) -> str:
    """Return the key of a case in addresses. Case ids may contain any character."""
    return hashlib.sha256(case_id.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class CaseRow:
    """One line of the table of cases."""

    case_id: str
    key: str
    position: int
    kind: str
    score: float | None
    uplift: float | None
    depth: int | None
    question: str | None
    reason: str | None
    modalities: str | None
    body_system: str | None
    review: str | None
    """What the reviews of the path lead to; ``None`` without a review."""


@dataclass(frozen=True, slots=True)
class CaseHead:
    """What is compared between two searches."""

    case_id: str
    key: str
    kind: str
    score: float | None
    calls: int | None


_REVIEW = "(SELECT status FROM reviews AS r WHERE r.case_id = cases.case_id AND r.path_sha256 = cases.path_sha256)"
_COLUMNS = ", ".join([*(field.name for field in fields(CaseRow) if field.name != "review"), _REVIEW])
_KEPT = 8
"""Queries whose results are kept."""
SORTS: Mapping[str, str] = {
    "file": "position, case_id",
    "score": "score IS NULL, score DESC, position",
    "low": "score IS NULL, score, position",
    "uplift": "uplift IS NULL, uplift DESC, position",
    "depth": "depth IS NULL, depth DESC, position",
    "cost": "cost_usd IS NULL, cost_usd DESC, position",
}
SCORES: Mapping[str, tuple[float, float]] = {
    "0": (-1.0, 0.0),
    "0-0.5": (0.0, 0.5),
    "0.5-1": (0.5, 0.999999),
    "1": (0.999999, 2.0),
}
"""Intervals of the score filter, open below and closed above."""
NOT_REVIEWED = "none"
"""Filter for paths that no one has reviewed yet."""
UPLIFTS: Mapping[str, str] = {"better": "uplift > 1e-9", "same": "ABS(uplift) <= 1e-9", "worse": "uplift < -1e-9"}


@dataclass(frozen=True, slots=True)
class Query:
    """Which cases to show, and in which order."""

    find: str = ""
    outcome: str = ""
    score: str = ""
    uplift: str = ""
    depth: str = ""
    modality: str = ""
    body_system: str = ""
    review: str = ""
    """A status of reviewed paths, or :data:`NOT_REVIEWED`."""
    sort: str = "file"

    def changed(self) -> dict[str, str]:
        """Return the fields that do not have their usual value, for addresses."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) != field.default}

    def where(self) -> tuple[str, list[Any]]:
        """Return the SQL condition and its values."""
        terms: list[tuple[str, list[Any]]] = [
            ("INSTR(COALESCE(words, LOWER(case_id)), ?) > 0", [word]) for word in self.find.lower().split()[:8]
        ]
        if self.outcome:
            terms.append(("kind = ?", [self.outcome]))
        if self.score in SCORES:
            terms.append(("score > ? AND score <= ?", list(SCORES[self.score])))
        if self.uplift in UPLIFTS:
            terms.append((UPLIFTS[self.uplift], []))
        if self.depth.isascii() and self.depth.isdigit():
            terms.append(("depth = ?", [int(self.depth[:6])]))
        if self.modality:
            terms.append(("INSTR(modalities, ?) > 0", [f"{SEPARATOR}{self.modality}{SEPARATOR}"]))
        if self.body_system:
            terms.append(("body_system = ?", [self.body_system]))
        if self.review == NOT_REVIEWED:
            terms.append((f"path_sha256 IS NOT NULL AND {_REVIEW} IS NULL", []))
        elif self.review:
            terms.append((f"{_REVIEW} = ?", [self.review]))
        return " AND ".join(term for term, _ in terms) or "1", [value for _, values in terms for value in values]


class CaseIndex:
    """Index of one search. Not safe for several threads at once."""

    def __init__(self) -> None:
        self._db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self._db.executescript(_TABLE)
        self._last = 0
        self._labels: Iterator[tuple[int, Any]] | None = None
        self._labels_of: object = None
        self._kept: dict[Query, list[str]] = {}
        self._kept_at = 0
        self._summary: tuple[int, Totals, dict[str, list[str]]] | None = None
        self.labels_problem = ""
        """Why modalities and body systems are not known."""

    def close(self) -> None:
        self._db.close()

    def advance(self, ledger: sqlite3.Connection, until: float) -> bool:
        """Add new and changed results, without what is in their records, until all are added or the monotonic clock shows ``until``.

        Returns whether all are added.
        """
        newest, count = ledger.execute("SELECT COALESCE(MAX(rowid), 0), COUNT(*) FROM results").fetchone()
        if newest < self._last:
            self._last = 0
        # The newest row is read again each time, because a replaced result may get the same number.
        while True:
            end = min(newest, self._last + _HEADS_AT_ONCE)
            self._add_heads(ledger, self._last, end)
            self._last = end
            if end == newest:
                break
            if time.monotonic() >= until:
                return False
        if self._db.execute("SELECT COUNT(*) FROM cases").fetchone()[0] != count:
            self._drop_lost(ledger)
            self._add_heads(ledger, 0, newest)
        return True

    def _add_heads(self, ledger: sqlite3.Connection, first: int, last: int) -> None:
        with self._db:
            self._db.execute("BEGIN")
            for case_id, position, outcome, retained, score in ledger.execute(_HEADS, (first, last)):
                if not (isinstance(case_id, str) and isinstance(position, int) and (score is None or _number(score) is not None)):
                    raise InputError(f"the result of case {case_id!r} in the ledger is damaged: restore the ledger from a copy")
                kind = str(kind_of(outcome, retained=bool(retained)))
                self._db.execute(_PUT, (case_id, case_key(case_id), position, kind, score))

    def _drop_lost(self, ledger: sqlite3.Connection) -> None:
        there = {name for (name,) in ledger.execute("SELECT case_id FROM results")}
        for (name,) in self._db.execute("SELECT case_id FROM cases").fetchall():
            if name not in there:
                self._db.execute("DELETE FROM cases WHERE case_id = ?", (name,))

    def read_details(self, ledger: sqlite3.Connection, until: float) -> None:
        """Read records of results until all are read or the monotonic clock shows ``until``."""
        while names := self._db.execute("SELECT case_id FROM cases WHERE detailed = 0 ORDER BY position LIMIT ?", (_CHUNK,)).fetchall():
            with self._db:
                self._db.execute("BEGIN")
                for (name,) in names:
                    row = ledger.execute("SELECT record, mics_score FROM results WHERE case_id = ?", (name,)).fetchone()
                    self._db.execute(_DETAIL, (*_details(name, row), name))
            if time.monotonic() >= until:
                break

    def read_labels(self, source: object, selection: Selection, until: float) -> bool:
        """Read modalities and body systems from the file of cases; return whether all are read.

        Args:
            source: changes whenever the file has to be read again.
            selection: the cases of the run.
            until: time of the monotonic clock at which to stop for now.
        """
        if source != self._labels_of:
            self._labels, self._labels_of, self.labels_problem = iter(selection), source, ""
        if self._labels is None:
            return True
        try:
            while chunk := list(islice(self._labels, _CHUNK)):
                rows = [(c.id, *_labels_of(c)) for _, c in chunk if isinstance(c, Case)]
                with self._db:
                    self._db.execute("BEGIN")
                    self._db.executemany("INSERT OR REPLACE INTO labels VALUES (?,?,?)", rows)
                    self._db.executemany("UPDATE cases SET modalities = ?2, body_system = ?3 WHERE case_id = ?1", rows)
                if time.monotonic() >= until:
                    return False
        except ChironError as problem:
            self.labels_problem = str(problem)
        self._labels = None
        return True

    def put_reviews(self, statuses: Mapping[tuple[str, str], str | None]) -> None:
        """Set what the reviews of paths lead to, by case id and hash of the path; ``None`` for a path whose reviews were withdrawn."""
        with self._db:
            self._db.execute("BEGIN")
            self._db.executemany("DELETE FROM reviews WHERE case_id = ? AND path_sha256 = ?", list(statuses))
            rows = [(*path, status) for path, status in statuses.items() if status is not None]
            self._db.executemany("INSERT INTO reviews VALUES (?,?,?)", rows)

    @property
    def waiting(self) -> int:
        """Number of results whose records are not read yet."""
        return int(self._db.execute("SELECT COUNT(*) FROM cases WHERE detailed = 0").fetchone()[0])

    def counts(self) -> Counter[str]:
        """Count the cases by outcome."""
        return Counter(dict(self._db.execute("SELECT kind, COUNT(*) FROM cases GROUP BY kind")))

    def summary(self) -> tuple[Totals, dict[str, list[str]]]:
        """Return the totals that the report shows, and the values that the filters offer; kept until the index changes."""
        if self._summary is None or self._summary[0] != self._db.total_changes:
            self._summary = (self._db.total_changes, self._totals(), self._choices())
        return self._summary[1], self._summary[2]

    def _totals(self) -> Totals:
        totals = Totals()
        totals.kinds = Counter({Kind(kind): count for kind, count in self.counts().items()})
        totals.cases = totals.kinds.total()
        totals.reasons = Counter(dict(self._db.execute("SELECT reason, COUNT(*) FROM cases WHERE reason != '' GROUP BY reason")))
        scores = self._db.execute("SELECT score, kind = 'retained', COUNT(*) FROM cases WHERE score IS NOT NULL GROUP BY 1, 2")
        totals.scores = Counter({(score, bool(retained)): count for score, retained, count in scores})
        pairs = self._db.execute(
            "SELECT baseline, score, COUNT(*) FROM cases WHERE baseline IS NOT NULL AND score IS NOT NULL GROUP BY baseline, score"
        )
        totals.pairs = Counter({(baseline, score): count for baseline, score, count in pairs})
        row = self._db.execute(
            "SELECT COUNT(*), COALESCE(SUM(missing_candidates), 0), COALESCE(SUM(missing_evaluations), 0) FROM cases"
            " WHERE missing_candidates > 0 OR missing_evaluations > 0"
        ).fetchone()
        totals.incomplete, totals.missing = row[0], Missing(row[1], row[2])
        return totals

    def keys(self, query: Query) -> list[str]:
        """Return the keys of the matching cases in order; kept until the index changes."""
        if self._kept_at != self._db.total_changes:
            self._kept, self._kept_at = {}, self._db.total_changes
        if query not in self._kept:
            where, values = query.where()
            order = SORTS.get(query.sort, SORTS["file"])
            rows = self._db.execute(f"SELECT key FROM cases WHERE {where} ORDER BY {order}", values)  # noqa: S608 - constants
            while len(self._kept) >= _KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[query] = [key for (key,) in rows]
        return self._kept[query]

    def by_key(self, key: str) -> CaseRow | None:
        row = self._db.execute(f"SELECT {_COLUMNS} FROM cases WHERE key = ?", (key,)).fetchone()  # noqa: S608 - constants
        return None if row is None else CaseRow(*row)

    def heads(self) -> list[CaseHead]:
        """Return every case in the order of the file."""
        return [CaseHead(*row) for row in self._db.execute("SELECT case_id, key, kind, score, calls FROM cases ORDER BY position, case_id")]

    @property
    def changes(self) -> int:
        """Number that increases whenever the index changes."""
        return self._db.total_changes

    def neighbors(self, key: str, query: Query) -> tuple[str | None, str | None, int, int]:
        """Return the keys of the cases before and after one in the order of a query, its place from 1 (0: not in it) and their number."""
        keys = self.keys(query)
        if key not in keys:
            return None, None, 0, len(keys)
        place = keys.index(key)
        return keys[place - 1] if place else None, keys[place + 1] if place + 1 < len(keys) else None, place + 1, len(keys)

    def _choices(self) -> dict[str, list[str]]:
        depths = [str(depth) for (depth,) in self._db.execute("SELECT DISTINCT depth FROM cases WHERE depth IS NOT NULL ORDER BY depth")]
        systems = {name for (name,) in self._db.execute("SELECT DISTINCT body_system FROM cases WHERE body_system IS NOT NULL")}
        lists = [
            text.strip(SEPARATOR).split(SEPARATOR)
            for (text,) in self._db.execute("SELECT DISTINCT modalities FROM cases WHERE modalities IS NOT NULL")
        ]
        order = [system.name for system in BODY_SYSTEMS]
        known = sorted(systems, key=lambda name: (order.index(name) if name in order else len(order), name))
        return {"depth": depths, "modality": sorted({name for names in lists for name in names}), "body_system": known}


def _details(name: str, row: tuple[bytes, float | None] | None) -> tuple[Any, ...]:
    """Return the values of a result's record; those of a damaged record are empty, and its page says that it is damaged."""
    record, score = (_unpacked(row[0]), _number(row[1])) if row is not None else ({}, None)
    question, answer, final = (_text(record, field) for field in ("question", "answer", "final_answer"))
    baseline = _number(record.get("baseline"))
    missing = _missing(record)
    reason = _text(record, "reason")
    return (
        baseline,
        None if baseline is None or score is None else score - baseline,
        record.get("depth") if isinstance(record.get("depth"), int) else None,
        question,
        f"{name}\n{question}\n{answer}\n{final}".lower(),
        reason_in_words(reason) if reason else "",
        missing.candidates,
        missing.evaluations,
        _number(record.get("cost_usd")),
        record.get("calls") if isinstance(record.get("calls"), int) else None,
        hash_path(reasoning) if (reasoning := _text(record, "reasoning")) else None,
    )


def _missing(record: dict[str, Any]) -> Missing:
    try:
        return Missing.of(record)
    except (KeyError, TypeError, AttributeError):
        return Missing()


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and abs(value) < MOST else None


def _text(record: dict[str, Any], name: str) -> str:
    value = record.get(name)
    return value if isinstance(value, str) else ""


def _unpacked(blob: object) -> dict[str, Any]:
    try:
        text = zlib.decompressobj().decompress(blob, _MOST_RECORD)  # type: ignore[arg-type]
        value = json.loads(text.decode("utf-8", "surrogatepass"))
    except (zlib.error, ValueError, TypeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _labels_of(case: Case) -> tuple[str, str]:
    names = [modality.name for modality in modalities_of_case(case)] or [UNKNOWN]
    system = body_system_of_case(case)
    return SEPARATOR + SEPARATOR.join(names) + SEPARATOR, system.name if system is not None else UNKNOWN
