"""Everything that is counted over all cases of a run, in one pass and without keeping them."""

from collections import Counter
from dataclasses import dataclass, field

from chiron.models.ledger import StoredResult
from chiron.models.missing import Missing
from chiron.report.outcomes import Kind, kind_of, reason_in_words


@dataclass(slots=True)
class Totals:
    """Sums over the results seen so far."""

    cases: int = 0
    kinds: Counter[Kind] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    """Why cases were not retained, in words."""
    scores: Counter[tuple[float, bool]] = field(default_factory=Counter)
    """How many cases had each MICS-Score, and whether they were retained."""
    pairs: Counter[tuple[float, float]] = field(default_factory=Counter)
    """How many cases had each baseline and MICS-Score."""

    incomplete: int = 0
    """Cases that ended with a candidate or an evaluation missing."""
    missing: Missing = field(default_factory=Missing)
    """What they ended without."""

    def add(self, result: StoredResult) -> Kind:
        """Count a result; how it stands."""
        kind = kind_of(result.outcome, retained=result.retained)
        self.cases += 1
        self.kinds[kind] += 1
        if missing := Missing.of(result.record):
            self.incomplete, self.missing = self.incomplete + 1, self.missing + missing
        if not result.retained and (reason := result.record.get("reason")):
            self.reasons[reason_in_words(str(reason))] += 1
        if (score := result.mics_score) is not None:
            self.scores[score, result.retained] += 1
            if (baseline := result.record.get("baseline")) is not None:
                self.pairs[float(baseline), score] += 1
        return kind

    @property
    def scored(self) -> int:
        """Cases that have a MICS-Score."""
        return self.scores.total()

    @property
    def mean_score(self) -> float | None:
        """Over the cases that have one."""
        if not self.scores:
            return None
        return sum(score * n for (score, _), n in self.scores.items()) / self.scored

    @property
    def mean_uplift(self) -> float | None:
        """Mean of MICS-Score less baseline, over the cases that have both."""
        if not self.pairs:
            return None
        return sum((score - baseline) * n for (baseline, score), n in self.pairs.items()) / self.pairs.total()
