"""Report about the reviews of runs: counts, agreement of reviewers, and how well MICS-Scores predict their verdicts."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chiron.mmrp.path_sources import Decisions
from chiron.mmrp.signals.rewards import chosen_units, human_labels
from chiron.mmrp.signals.source import SearchedRun, score_of
from chiron.reviews.agreement import Agreement, agreement_of_reviews, auc
from chiron.reviews.records import ReviewRecord
from chiron.reviews.store import read_reviews


@dataclass(frozen=True)
class Prediction:
    """How well a score predicts a verdict."""

    positive: int
    """Number of items with the verdict."""
    negative: int
    auc: float | None
    """Area under the ROC curve; ``None`` if all items have the same verdict."""

    @classmethod
    def of(cls, scored: Sequence[tuple[float, bool]]) -> "Prediction":
        """Compute it from scores and verdicts."""
        ups, downs = [score for score, yes in scored if yes], [score for score, yes in scored if not yes]
        return cls(len(ups), len(downs), auc(ups, downs))


@dataclass(frozen=True)
class ReviewReport:
    """What the reviewers of some runs did, and what it shows."""

    reviewers: dict[str, dict[str, int]]
    """Numbers of events by kind, by reviewer."""
    paths: dict[str, int]
    """Number of reviewed paths by status: ``accepted``, ``edited``, ``rejected``, ``disputed``."""
    reasons: dict[str, int]
    """Number of edited or rejected steps and answers by reason, in all reviews."""
    steps_agreement: Agreement
    paths_agreement: Agreement
    path_prediction: Prediction
    """MICS-Score of a path, and whether the path was accepted, as it is or with edits."""
    step_prediction: Prediction
    """MICS-Score of a step (or of the first two together), and whether it was accepted as it is."""


def review_report(runs: Sequence[Path]) -> ReviewReport:
    """Report on the reviews of runs. Reviews of paths that have changed do not count for the predictions.

    Raises:
        InputError: a run has no reviews, or cannot be read.
    """
    events: list[ReviewRecord] = []
    paths: list[tuple[float, bool]] = []
    steps: list[tuple[float, bool]] = []
    statuses: Counter[str] = Counter()
    for number, run in enumerate(runs):
        # Case ids repeat in other runs.
        events += [{**event, "case_id": f"{number}\0{event['case_id']}"} for event in read_reviews(run)]
        decisions = Decisions.read([run], "prefer")
        statuses.update(decision.status for decision in decisions.by_run[run].values())
        source = SearchedRun.read_ledger(run)
        try:
            for case_id in dict.fromkeys(case_id for case_id, _ in decisions.by_run[run]):
                paths += _of_path(source, case_id, decisions)
                steps += _of_steps(source, case_id, decisions)
        finally:
            source.close()
    by_step, by_path = agreement_of_reviews(events)
    return ReviewReport(
        _by_reviewer(events), dict(statuses), _reasons(events), by_step, by_path, Prediction.of(paths), Prediction.of(steps)
    )


def _of_path(run: SearchedRun, case_id: str, decisions: Decisions) -> Iterator[tuple[float, bool]]:
    result = run.reader.ledger.result(case_id)
    decision = None if result is None else decisions.of(run.path, case_id, result.record.get("reasoning"))
    if result is not None and decision is not None and decision.status != "disputed" and result.mics_score is not None:
        yield result.mics_score, decision.status != "rejected"


def _of_steps(run: SearchedRun, case_id: str, decisions: Decisions) -> Iterator[tuple[float, bool]]:
    if run.reader.ledger.result(case_id) is None:
        return
    attempts = run.tree(case_id)["attempts"]
    units = chosen_units(attempts[-1]) if attempts else []
    labels = human_labels([unit.steps for unit in units], run, case_id, decisions) or []
    for unit, label in zip(units, labels, strict=False):
        if label is not None:
            yield score_of(unit.score), label == "accept"


def _by_reviewer(events: Sequence[ReviewRecord]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for event in events:
        counts.setdefault(event["reviewer"], Counter())[event["kind"]] += 1
    return {name: dict(kinds) for name, kinds in sorted(counts.items())}


def _reasons(events: Sequence[ReviewRecord]) -> dict[str, int]:
    verdicts = (verdict for event in events for verdict in (*event["steps"], event["final"]) if verdict is not None)
    return dict(Counter(verdict["reason"] for verdict in verdicts if verdict["reason"]).most_common())
