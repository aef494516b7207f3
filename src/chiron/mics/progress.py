"""What a run has done so far, for whoever looks on."""

from collections.abc import Sequence
from dataclasses import dataclass

from chiron.mics.result import summary_name
from chiron.models.ledger import ResultHead, StoredResult
from chiron.models.progress import Progress

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
