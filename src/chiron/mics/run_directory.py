"""The run directory of a search, its derived files, its progress and its status."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from chiron.client.ledger import FailureReason, Ledger, ResultHead, Spending, StoredResult
from chiron.client.missing_calls import Missing
from chiron.io import write_atomically
from chiron.jobs.directory import WorkDirectory
from chiron.jobs.session import Progress
from chiron.mics.result import summary_name, tally

PATHS, REJECTED, REPORT = "paths.jsonl", "rejected.jsonl", "report.html"
PATH_FIELDS = (
    "case_id",
    "images",
    "question",
    "answer",
    "reasoning",
    "outcome",
    "mics_score",
    "policy",
    "evaluations",
    "missing",
    "depth",
    "restarts",
    "mentors",
    "scores",
    "baseline",
    "difficulty",
    "uplift",
    "calls",
    "cost_usd",
    "provenance",
)
"""Of a line of ``paths.jsonl``, in order."""
REJECTED_FIELDS = ("case_id", "line", "outcome", "reason", "detail", *PATH_FIELDS[1:5], "final_answer", *PATH_FIELDS[6:])
"""Of a line of ``rejected.jsonl``; what a case does not have is left out."""


@dataclass(frozen=True)
class RunDirectory(WorkDirectory):
    """A place for one run."""

    other_way: ClassVar[str] = ", or 'chiron replay' to use its replies again"

    def write_derived(self, ledger: Ledger) -> None:
        """Write ``paths.jsonl`` and ``rejected.jsonl`` from the ledger, each at once or not at all."""
        retained = (_line(r.record, PATH_FIELDS) for r in ledger.results(retained=True))
        write_atomically(self.path / PATHS, retained)
        rejected = (_line({k: v for k, v in r.record.items() if v is not None}, REJECTED_FIELDS) for r in ledger.results(retained=False))
        write_atomically(self.path / REJECTED, rejected)


def _line(record: dict[str, Any], fields: tuple[str, ...]) -> str:
    return json.dumps({f: record[f] for f in fields if f in record}, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Status:
    """A run, summed up."""

    run: str
    began: str
    cases: str
    in_use: bool
    """Whether a process works in it right now."""
    outcomes: dict[str, int]
    """Cases by ``retained``, ``rejected``, ``unsolved``, ``unjudged``, ``pending``, ``bad``: the names of a run's summary."""
    reasons: dict[str, int]
    """Why cases were not retained."""
    incomplete: int
    """Cases that ended with a candidate or an evaluation missing."""
    missing_candidates: int
    missing_evaluations: int
    mean_score: float | None
    spending: tuple[Spending, ...]
    spent_usd: float
    possibly_spent_usd: float
    """Of ``spent_usd``, what was set aside for calls without a reply: failed ones that may be billed, those under way right now, and
    those that were when a process was killed."""
    failures: tuple[FailureReason, ...]
    """Why calls got no answer in the end, the commonest first; a later process may have got some."""


def read_status(path: Path | str) -> Status:
    """Sum up a run.

    Raises:
        InputError: ``path`` is no run directory.
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
            outcomes=dict(tally(ledger.outcomes()).most_common()),
            reasons=dict(reasons.most_common()),
            incomplete=incomplete,
            missing_candidates=total.candidates,
            missing_evaluations=total.evaluations,
            mean_score=sum(scores) / len(scores) if scores else None,
            spending=tuple(ledger.spending()),
            spent_usd=ledger.spent_usd(),
            possibly_spent_usd=ledger.possibly_spent_usd(),
            failures=tuple(ledger.failure_reasons()),
        )


_OUTCOMES = ("retained", "rejected", "unsolved", "unjudged", "pending", "bad")


@dataclass
class SearchProgress(Progress):
    """Of a search: what became of its cases, and their scores."""

    score_sum: float = 0.0
    scored: int = 0

    @property
    def mean_score(self) -> float | None:
        """Mean MICS-Score of the cases scored so far, earlier processes' included."""
        return self.score_sum / self.scored if self.scored else None

    def tally(self) -> Sequence[tuple[str, int]]:
        """Every usual outcome, also one that no case has had yet."""
        return [(name, self.outcomes[name]) for name in _OUTCOMES if name != "unjudged" or self.outcomes[name]]

    def figure(self) -> str:
        """The mean MICS-Score."""
        return "" if self.mean_score is None else f"mean MICS-Score {self.mean_score:.2f}"

    def ended(self, result: StoredResult) -> None:
        """Count a case that this process ended."""
        self.done += 1
        self._count(result)

    def known(self, head: ResultHead) -> None:
        """Count a case that an earlier process ended."""
        self.already += 1
        self._count(head)

    def _count(self, result: StoredResult | ResultHead) -> None:
        self.outcomes[summary_name(result.outcome, retained=result.retained)] += 1
        if result.mics_score is not None:
            self.score_sum += result.mics_score
            self.scored += 1
