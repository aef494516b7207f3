"""Merge ledgers: replies, failures and results of several runs, batch by batch in flat memory."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chiron.client.ledger import COLUMNS, REPLY, Ledger
from chiron.client.ledger_accounts import DUPLICATE, HIDDEN, LOST, LOST_WORDS, QUEUED, SURPRISE, UNDER_WAY
from chiron.client.ledger_store import damaged, explained
from chiron.errors import InputError

_BATCH = 20_000
"""Replies per transaction. A killed merge repeats at most this many."""
_CALLS = f"{COLUMNS}, copied"
_FAILURES = "key, role, model, kind, message, final, cost_at_most, failed_at"
_RESULTS = "case_id, position, fingerprint, outcome, retained, mics_score, record"
_BOUNDS = "rowid > ?1 AND rowid <= ?2"
_DUPLICATES = (
    "INSERT INTO temp.twice SELECT s.rowid, m.text <> s.text FROM shard.calls s JOIN main.calls m ON m.key = s.key"
    " WHERE s.rowid > ?1 AND s.rowid <= ?2 AND m.answered_at <> s.answered_at"
)
"""Replies that both ledgers have and that were paid for separately. A reply that an earlier merge copied has the same time."""


@dataclass(slots=True)
class Merged:
    """What a merge added."""

    replies: int = 0
    results: int = 0
    differing: int = 0
    """Calls that got another text in another ledger. The first one is kept."""
    twice: frozenset[str] = frozenset()
    """Keys of the calls of a part that this ledger had paid for too. They may have got another reply there."""


class MergingLedger(Ledger):
    """A ledger that takes the content of others."""

    def merge(self, other: Path, *, unfinished: str = "pending", part: bool = False) -> Merged:
        """Add what another ledger has and this one lacks. Merging it again adds nothing.

        A call that both ledgers paid for keeps its first reply; the cost of the other one still counts as spent. A finished result replaces
        an unfinished one.

        Args:
            other: the ledger's file. No process may write to it meanwhile.
            unfinished: outcome of a case without a result.
            part: the other ledger is a part of this one's run, whose results of edited cases replace those here.

        Raises:
            InputError: the other ledger is damaged, or its results contradict the ones here; only replies may have been added then.
            DiskError: writing failed.
        """
        merged = Merged()
        with Ledger.read(other) as source, self._attached(source):
            if not part:
                self._refuse_conflicts(other, unfinished)
            last = self._value("SELECT COALESCE(MAX(rowid), 0) FROM shard.calls")
            for low in range(0, last, _BATCH):
                with self._together():
                    merged.replies += self._copy_batch(source, low)
            with self._together():
                merged.differing = self._book_duplicates()
                if part:
                    keys = self._read("SELECT key FROM temp.twice JOIN shard.calls ON shard.calls.rowid = twice.row")
                    merged.twice = frozenset(bytes(key).hex() for (key,) in keys)
                self._copy_failures(source)
                self._copy_facts()
                merged.results = self._copy_results(unfinished)
        return merged

    @contextmanager
    def _attached(self, source: Ledger) -> Iterator[None]:
        """Attach another ledger as ``shard``, with a function ``verified`` of SQL that checks one of its replies."""
        problems: list[InputError] = []

        def verified(key: Any, checksum: Any, *values: Any) -> int:
            try:
                source.verify(key, checksum, values)
            except InputError as problem:
                problems.append(problem)  # SQLite replaces it by an error of its own
                raise
            return 1

        with explained(source.path):
            self._db.create_function("verified", 11, verified)
            self._db.execute("ATTACH DATABASE ? AS shard", (str(source.path.resolve()),))
            self._db.execute("CREATE TEMP TABLE twice (row INTEGER PRIMARY KEY, differs INTEGER)")
        try:
            yield
        except (sqlite3.OperationalError, InputError):
            if problems:
                raise problems[0] from None
            self._refuse_damage(source.path)
            raise
        finally:
            self._db.execute("DROP TABLE temp.twice")
            self._db.execute("DETACH DATABASE shard")

    def _refuse_damage(self, other: Path) -> None:
        """Explain an error that the other file caused."""
        try:
            found = [str(row[0]) for row in self._db.execute("PRAGMA shard.quick_check(1)")]
        except sqlite3.DatabaseError as error:
            found = [str(error)]
        if found != ["ok"]:
            raise damaged(other, " ".join(found[0].split())[:200])

    def _copy_batch(self, source: Ledger, low: int) -> int:
        """Copy the replies of the next rows, after verifying their checksums. Returns the number of new ones."""
        bounds = (low, low + _BATCH)
        checksum = source.checksum_column
        checked = f"verified(key, {checksum}, {REPLY}, raw)"
        self._write(_DUPLICATES, bounds)
        before = self._db.total_changes
        self._write(
            f"INSERT INTO main.calls ({_CALLS}, checksum) SELECT {_CALLS}, {checksum} FROM shard.calls s WHERE {_BOUNDS}"  # noqa: S608 - constant names
            f" AND NOT EXISTS (SELECT 1 FROM main.calls m WHERE m.key = s.key AND m.copied <= s.copied) AND {checked}"
            # A replay copies replies for free. The run that paid for them has them as its own.
            " ON CONFLICT (key) DO UPDATE SET copied = 0"
            " WHERE copied = 1 AND excluded.copied = 0 AND answered_at = excluded.answered_at",
            bounds,
        )
        return self._db.total_changes - before

    def _book_duplicates(self) -> int:
        """Count the cost of replies that are not kept. Returns the number of those with another text."""
        self._write(
            f"INSERT INTO main.failures ({_FAILURES})"  # noqa: S608 - constant names
            f" SELECT key, role, model, '{DUPLICATE}', 'another process paid for the same call', 0, cost_usd, answered_at"
            " FROM temp.twice JOIN shard.calls ON shard.calls.rowid = twice.row WHERE copied = 0 AND cost_usd > 0"
            f" EXCEPT SELECT {_FAILURES} FROM main.failures WHERE kind = '{DUPLICATE}'",
            (),
        )
        return int(self._value("SELECT COALESCE(SUM(differs), 0) FROM temp.twice"))

    def _copy_failures(self, source: Ledger) -> None:
        """Copy failures. An attempt in flight has no process anymore; a message that must not be shown is left out."""
        shown = source.shown_after()
        hidden = "1" if shown is None else f"id <= {shown}"
        self._write(
            f"INSERT INTO main.failures ({_FAILURES}) SELECT key, role, model,"  # noqa: S608 - constant names and an integer
            f" CASE WHEN kind IN ('{UNDER_WAY}', '{QUEUED}') THEN '{LOST}' ELSE kind END,"
            f" CASE WHEN kind IN ('{UNDER_WAY}', '{QUEUED}') THEN '{LOST_WORDS}'"
            f" WHEN {hidden} THEN kind || '{HIDDEN}' ELSE message END, final, cost_at_most, failed_at FROM shard.failures"
            f" EXCEPT SELECT {_FAILURES} FROM main.failures",
            (),
        )

    def _copy_facts(self) -> None:
        """Keep the largest cost overrun of each model. The other facts belong to one ledger."""
        if self._value("SELECT 1 FROM shard.sqlite_master WHERE type = 'table' AND name = 'facts'") is None:
            return
        for name, value in list(self._read("SELECT name, value FROM shard.facts WHERE substr(name, 1, ?) = ?", (len(SURPRISE), SURPRISE))):
            model = str(name).removeprefix(SURPRISE)
            self.keep_surprise(model, max(float(value), self.cost_overrun(model)))

    def _copy_results(self, unfinished: str) -> int:
        before = self._db.total_changes
        updates = ", ".join(f"{name} = excluded.{name}" for name in _RESULTS.split(", ")[1:])
        self._write(
            f"INSERT INTO main.results ({_RESULTS}) SELECT {_RESULTS} FROM shard.results WHERE true"  # noqa: S608 - constant names
            f" ON CONFLICT (case_id) DO UPDATE SET {updates}"
            " WHERE outcome = ?1 AND excluded.outcome <> ?1 OR fingerprint <> excluded.fingerprint",
            (unfinished,),
        )
        return self._db.total_changes - before

    def _refuse_conflicts(self, other: Path, unfinished: str) -> None:
        """Refuse a ledger whose results contradict the ones here."""
        rows = self._read(
            "SELECT s.case_id, m.fingerprint <> s.fingerprint, m.record, s.record FROM shard.results s JOIN main.results m USING (case_id)"
            " WHERE m.outcome <> ?1 AND s.outcome <> ?1 AND (m.fingerprint <> s.fingerprint OR m.record <> s.record)",
            (unfinished,),
        )
        with closing(rows):
            for case_id, edited, here, there in rows:
                # The same record may be compressed differently on another machine.
                if edited or self._unpack(case_id, here) != self._unpack(case_id, there):
                    why = "it was edited between the runs" if edited else "both runs searched it"
                    raise InputError(
                        f"case '{case_id}' has one result in {other.parent} and another in the runs before it ({why}): merge only one of"
                        " them, or search it again in one run"
                    )
        clash = self._read_one(
            "SELECT s.case_id, m.case_id, s.position FROM shard.results s JOIN main.results m"
            " ON m.position = s.position AND m.case_id <> s.case_id LIMIT 1"
        )
        if clash is not None:
            raise InputError(
                f"case '{clash[0]}' of {other.parent} and case '{clash[1]}' of the runs before it are both number {clash[2] + 1} of their"
                " file: run each search again with the same file of cases (its calls are in the ledger), then merge"
            )
