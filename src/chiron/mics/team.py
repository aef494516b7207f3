"""Who takes part in a search and by what rules, and the MICS-Score of a prefix."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

PolicyName = Literal["paper", "verified"]


@dataclass(frozen=True, slots=True)
class RoleModel:
    """A model in one role."""

    name: str
    """The configured name; it stands in results."""
    identity: str
    """What answers, for the key of its calls."""
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A seat at a temperature, and which of several like it this is: two of the same kind must not share their replies."""

    seat: RoleModel
    temperature: float
    copy: int
    copies: int

    def index(self, restart: int) -> int:
        """The draw of its calls after ``restart`` restarts."""
        return restart * self.copies + self.copy


@dataclass(frozen=True, slots=True)
class Team:
    """Mentors M, interns N, and the judge of the paper."""

    mentors: tuple[RoleModel, ...]
    interns: tuple[RoleModel, ...]
    judge: RoleModel


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of a search; ``docs/search.md`` has them in words."""

    temperatures: tuple[float, ...] = (1.2, 0.2)
    """The interns'; T in the paper."""
    mentor_temperature: float = 1.2
    depth: int = 3
    """D in the paper: how often a prefix is chosen, at most."""
    restarts: int = 1
    """How often a search may begin anew after every candidate scored zero."""
    stop: PolicyName = "verified"
    """What a full score means: the prefix has it, or the mentor's whole path has it too."""
    baseline: bool = False
    """Whether to ask the interns without any reasoning first."""
    threshold: float = 0.5
    """A path is retained if its score lies above this."""
    seed: int = 0
    image_side: int = 1536
    """Longest side in pixels of the images as models see them."""

    def mentor_draws(self, team: Team) -> list[Sample]:
        """The mentors, one draw each."""
        return _draws([(seat, self.mentor_temperature) for seat in team.mentors])

    def intern_draws(self, team: Team) -> list[Sample]:
        """Every intern at every temperature: the planned evaluations of one prefix."""
        return _draws([(seat, t) for seat in team.interns for t in self.temperatures])


def _draws(planned: Sequence[tuple[RoleModel, float]]) -> list[Sample]:
    kinds = [(seat.identity, seat.max_tokens, temperature) for seat, temperature in planned]
    total, seen, draws = Counter(kinds), Counter[tuple[str, int, float]](), []
    for (seat, temperature), kind in zip(planned, kinds, strict=True):
        draws.append(Sample(seat, temperature, seen[kind], total[kind]))
        seen[kind] += 1
    return draws


@dataclass(frozen=True, slots=True)
class CandidateEvaluation:
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

    evaluations: tuple[CandidateEvaluation, ...]

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
