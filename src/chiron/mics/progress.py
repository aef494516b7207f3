"""What a run has done so far, for whoever looks on."""

from collections.abc import Sequence
from dataclasses import dataclass

from chiron.mics.result import Outcome, SearchResult
from chiron.models.ledger import ResultHead
from chiron.models.progress import Progress

_OUTCOMES = ("retained", "rejected", "unsolved", "pending", "bad")


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
        """Every outcome, also one that no case has had yet."""
        return [(name, self.outcomes[name]) for name in _OUTCOMES]

    def figure(self) -> str:
        """The mean MICS-Score."""
        return "" if self.mean_score is None else f"mean MICS-Score {self.mean_score:.2f}"

    def ended(self, result: SearchResult) -> None:
        """Count a case that was searched."""
        self.done += 1
        self._count(result.outcome, result.mics_score, retained=result.retained)

    def known(self, head: ResultHead) -> None:
        """Count a case that an earlier process ended."""
        self.already += 1
        self._count(head.outcome, head.mics_score, retained=head.retained)

    def ended_badly(self) -> None:
        """Count a case that cannot be used."""
        self.done += 1
        self.outcomes["bad"] += 1

    def _count(self, outcome: str, score: float | None, *, retained: bool) -> None:
        if outcome in {Outcome.PENDING, Outcome.UNSOLVED}:
            self.outcomes[str(outcome)] += 1
        else:
            self.outcomes["retained" if retained else "rejected"] += 1
        if score is not None:
            self.score_sum += score
            self.scored += 1
