"""View of the search tree for a section: attempts, depths, candidates, and the interns' answers."""

from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Answer of one intern at one temperature, and its verdict."""

    intern: str
    temperature: float | None
    answer: str
    verdict: str
    """``right``, ``wrong`` or ``missing``."""
    problem: str

    @classmethod
    def of(cls, record: dict[str, Any]) -> Self:
        """Create from a stored record."""
        correct = record.get("correct")
        verdict = "missing" if correct is None else "right" if correct else "wrong"
        return cls(text_of(record, "intern"), record.get("temperature"), text_of(record, "answer"), verdict, text_of(record, "problem"))


@dataclass(frozen=True, slots=True)
class Score:
    """MICS-Score: correct / answered evaluations."""

    planned: int
    answered: int
    correct: int
    value: float
    evaluations: tuple[Evaluation, ...]

    @property
    def missing(self) -> int:
        """Number of planned evaluations without a verdict."""
        return self.planned - self.answered

    @classmethod
    def of(cls, record: dict[str, Any] | None) -> Self | None:
        """Create from a stored record; ``None`` if nothing was planned."""
        if not record or not record.get("planned"):
            return None
        evaluations = tuple(Evaluation.of(e) for e in record.get("evaluations", ()))
        return cls(record["planned"], record["answered"], record["correct"], record["mics_score"], evaluations)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A mentor's next steps."""

    mentor: str
    first: int
    """Number of its first new step in the path."""
    steps: tuple[str, ...]
    chosen: bool
    problem: str
    score: Score | None


@dataclass(frozen=True, slots=True)
class Level:
    """One depth of the tree."""

    depth: int
    candidates: tuple[Candidate, ...]
    whole: Score | None
    """Score of the chosen mentor's whole path, if it was evaluated."""
    steps_shown: int
    """Number of its steps shown to the interns."""

    @property
    def chosen(self) -> Candidate | None:
        """The candidate that the search continued from."""
        return next((c for c in self.candidates if c.chosen), None)


def read_levels(records: list[dict[str, Any]]) -> tuple[Level, ...]:
    """Create the depths of one attempt from stored records."""
    levels: list[Level] = []
    first = 1
    for record in records:
        candidates = tuple(
            Candidate(text_of(c, "mentor"), first, tuple(c["steps"]), bool(c["chosen"]), text_of(c, "problem"), Score.of(c))
            for c in record["candidates"]
        )
        whole = record.get("whole_path") or {}
        level = Level(record["depth"], candidates, Score.of(whole), whole.get("steps_shown", 0))
        levels.append(level)
        first += len(level.chosen.steps) if level.chosen else 0
    return tuple(levels)


def text_of(record: dict[str, Any], key: str) -> str:
    """Return the text of a field, or an empty string."""
    value = record.get(key)
    return "" if value is None else str(value)
