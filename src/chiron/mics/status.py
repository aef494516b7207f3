"""What a run directory holds, read beside a process that may be writing to it."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from chiron.mics.result import tally
from chiron.mics.rundir import RunDirectory
from chiron.models.ledger import FailureReason, Ledger, Spending
from chiron.models.missing import Missing


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
