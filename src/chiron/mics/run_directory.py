"""Run directory of a search: derived files, progress and status."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from chiron.client.batch_record import OpenBatch, read_open_batches
from chiron.client.failures import Missing
from chiron.client.ledger import FailureReason, Ledger, ResultHead, Spending, StoredResult
from chiron.client.ledger_accounts import CachedPrompts
from chiron.io import write_atomically
from chiron.jobs.directory import WorkDirectory
from chiron.jobs.job import Progress
from chiron.mics.result import PathRecord, counts_by_summary_name, summary_name

PATHS, REJECTED, REPORT = "paths.jsonl", "rejected.jsonl", "report.html"
PATH_FIELDS = tuple(PathRecord.__annotations__)
"""Fields of a line of ``paths.jsonl``, in order."""
REJECTED_FIELDS = ("case_id", "line", "outcome", "reason", "detail", *PATH_FIELDS[1:5], "final_answer", *PATH_FIELDS[6:])
"""Fields of a line of ``rejected.jsonl``; absent values are omitted."""


@dataclass(frozen=True)
class RunDirectory(WorkDirectory):
    """Directory of one search run."""

    alternative: ClassVar[str] = ", or reuse its replies with 'chiron replay'"

    def write_derived(self, ledger: Ledger) -> None:
        """Write ``paths.jsonl`` and ``rejected.jsonl`` from the ledger, each atomically."""
        retained = (_line(r.record, PATH_FIELDS) for r in ledger.results(retained=True))
        write_atomically(self.path / PATHS, retained)
        rejected = (_line({k: v for k, v in r.record.items() if v is not None}, REJECTED_FIELDS) for r in ledger.results(retained=False))
        write_atomically(self.path / REJECTED, rejected)


def _line(record: dict[str, Any], fields: tuple[str, ...]) -> str:
    return json.dumps({f: record[f] for f in fields if f in record}, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Status:
    """Status of a run."""

    run: str
    began: str
    cases: str
    in_use: bool
    """Whether a process is using the directory now."""
    outcomes: dict[str, int]
    """Number of cases by summary name: ``retained``, ``rejected``, ``unsolved``, ``unjudged``, ``pending``, ``bad``."""
    reasons: dict[str, int]
    """Number of cases by the reason why they were not retained."""
    incomplete: int
    """Number of cases with a missing candidate or evaluation."""
    missing_candidates: int
    missing_evaluations: int
    mean_score: float | None
    spending: tuple[Spending, ...]
    spent_usd: float
    possibly_spent_usd: float
    """Part of ``spent_usd`` reserved for calls without a reply: failed calls that may be billed, calls in progress, and calls that were
    in progress when a process was killed."""
    cached: tuple[CachedPrompts, ...]
    """Prompt tokens that endpoints read from their caches, where they report it."""
    failures: tuple[FailureReason, ...]
    """Why calls failed, most frequent reason first. A later process may have repeated some successfully."""
    batches: tuple[OpenBatch, ...]
    """Batches that are not collected yet, oldest first."""


def read_status(path: Path | str) -> Status:
    """Read the status of a run.

    Raises:
        InputError: ``path`` is not a run directory, or the record of a batch is damaged.
    """
    directory = RunDirectory(Path(path))
    run = directory.need_run()
    with Ledger.read(directory.ledger) as ledger:
        reasons: Counter[str] = Counter()
        incomplete, total = 0, Missing()
        for result in ledger.results():
            if not result.retained:
                reasons[str(result.record.get("reason"))] += 1
            if missing := Missing.of(result.record):
                incomplete, total = incomplete + 1, total + missing
        scores = ledger.scores()
        return Status(
            run=str(path),
            began=str(run.get("began")),
            cases=str(run.get("cases")),
            in_use=directory.in_use,
            outcomes=dict(counts_by_summary_name(ledger.outcomes()).most_common()),
            reasons=dict(reasons.most_common()),
            incomplete=incomplete,
            missing_candidates=total.candidates,
            missing_evaluations=total.evaluations,
            mean_score=sum(scores) / len(scores) if scores else None,
            spending=tuple(ledger.spending()),
            spent_usd=ledger.spent_usd(),
            possibly_spent_usd=ledger.possibly_spent_usd(),
            cached=tuple(ledger.cached_prompts((run.get("config") or {}).get("models"))),
            failures=tuple(ledger.failure_reasons()),
            batches=tuple(read_open_batches(directory.path)),
        )


_OUTCOMES = ("retained", "rejected", "unsolved", "unjudged", "pending", "bad")


@dataclass
class SearchProgress(Progress):
    """Progress of a search: outcomes and scores of its cases."""

    score_sum: float = 0.0
    scored: int = 0

    @property
    def mean_score(self) -> float | None:
        """Mean MICS-Score of all cases scored so far, including those of earlier processes."""
        return self.score_sum / self.scored if self.scored else None

    def counts(self) -> Sequence[tuple[str, int]]:
        """Return the number of cases for every usual outcome, including zeros."""
        return [(name, self.outcomes[name]) for name in _OUTCOMES if name != "unjudged" or self.outcomes[name]]

    def figure(self) -> str:
        """Return the mean MICS-Score as text."""
        return "" if self.mean_score is None else f"mean MICS-Score {self.mean_score:.2f}"

    def add(self, other: Self, sign: int = 1) -> None:
        super().add(other, sign)
        self.score_sum += sign * other.score_sum
        self.scored += sign * other.scored

    def known(self, head: ResultHead) -> None:
        """Count a case finished by an earlier process."""
        self.already += 1
        self.count(head)

    def count(self, result: StoredResult | ResultHead) -> None:
        self.outcomes[summary_name(result.outcome, retained=result.retained)] += 1
        if result.mics_score is not None:
            self.score_sum += result.mics_score
            self.scored += 1
