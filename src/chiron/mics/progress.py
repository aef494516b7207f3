"""What a run has done so far, for whoever looks on."""

import time
from dataclasses import dataclass, field

from chiron.mics.result import Outcome, SearchResult
from chiron.models.ledger import ResultHead


@dataclass
class Progress:
    """Counters that the run moves and a view reads."""

    total: int = 0
    """Cases selected."""
    already: int = 0
    """Of these, done by an earlier process; counted in what follows too."""
    done: int = 0
    """Ended by this process, pending and bad ones included."""
    in_flight: int = 0
    retained: int = 0
    rejected: int = 0
    unsolved: int = 0
    pending: int = 0
    bad: int = 0
    score_sum: float = 0.0
    scored: int = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def mean_score(self) -> float | None:
        """Mean MICS-Score of the cases scored so far, earlier processes' included."""
        return self.score_sum / self.scored if self.scored else None

    @property
    def seconds_left(self) -> float | None:
        """At the pace so far, a case in flight taken as half done; ``None`` before the first case is done."""
        if not self.done:
            return None
        left = max(0.0, self.total - self.already - self.done - self.in_flight / 2)
        return left * (time.monotonic() - self.began) / (self.done + self.in_flight / 2)

    def ended(self, result: SearchResult) -> None:
        """Count a case that was searched."""
        self.done += 1
        self._count(result.outcome, result.mics_score, retained=result.retained)

    def known(self, head: ResultHead) -> None:
        """Count a case that an earlier process ended."""
        self.already += 1
        self._count(head.outcome, head.mics_score, retained=head.retained)

    def _count(self, outcome: str, score: float | None, *, retained: bool) -> None:
        if outcome == Outcome.PENDING:
            self.pending += 1
        elif retained:
            self.retained += 1
        elif outcome == Outcome.UNSOLVED:
            self.unsolved += 1
        else:
            self.rejected += 1
        if score is not None:
            self.score_sum += score
            self.scored += 1

    def ended_badly(self) -> None:
        """Count a case that cannot be used."""
        self.done += 1
        self.bad += 1
