"""MICS-Score = correct / answered evaluations, the paper's measure of a prefix."""

from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One intern at one temperature went on from a prefix, and the judge compared its answer with the known one."""

    intern: str
    temperature: float
    answer: str | None
    """Its final answer; ``None`` if it came to none."""
    correct: bool | None
    """The verdict; ``None`` if a call failed, which makes the evaluation missing, not wrong."""
    problem: str | None = None
    """Why it is missing, or why there is no answer."""
    key: str = ""
    """Ledger key of the intern's reply."""
    unjudged: bool = False
    """Whether it is missing because the judge's replies were no verdict: they are on record, so asking again gives the same."""

    def to_json(self) -> dict[str, Any]:
        """As it stands in a result."""
        return {name: getattr(self, name) for name in ("intern", "temperature", "answer", "correct", "problem", "key")}


@dataclass(frozen=True, slots=True)
class Score:
    """The evaluations of one prefix."""

    evaluations: tuple[Evaluation, ...]

    @property
    def planned(self) -> int:
        """Interns times temperatures."""
        return len(self.evaluations)

    @property
    def answered(self) -> int:
        """Evaluations that have a verdict."""
        return sum(e.correct is not None for e in self.evaluations)

    @property
    def correct(self) -> int:
        """Evaluations judged right."""
        return sum(e.correct is True for e in self.evaluations)

    @property
    def value(self) -> float:
        """MICS-Score in [0, 1]; 0 when nothing was answered."""
        return self.correct / self.answered if self.answered else 0.0

    @property
    def full(self) -> bool:
        """Every answered evaluation is right."""
        return 0 < self.answered == self.correct

    @property
    def has_quorum(self) -> bool:
        """Two thirds of what was planned, or more, were answered."""
        return reaches_quorum(self.answered, self.planned)

    @property
    def unjudged(self) -> int:
        """Evaluations that the judge answered without a verdict."""
        return sum(e.unjudged for e in self.evaluations)

    def counts(self) -> dict[str, int]:
        """Planned, answered and correct."""
        return {"planned": self.planned, "answered": self.answered, "correct": self.correct}

    def to_json(self) -> dict[str, Any]:
        """As it stands in a result."""
        return {"mics_score": self.value, **self.counts(), "evaluations": [e.to_json() for e in self.evaluations]}

    @classmethod
    def empty(cls) -> Self:
        """Nothing planned."""
        return cls(())


def reaches_quorum(answered: int, planned: int) -> bool:
    """Whether two thirds or more answered, and at least one."""
    return answered > 0 and 3 * answered >= 2 * planned
