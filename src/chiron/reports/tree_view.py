"""The search tree as a section shows it: attempts, depths, candidates, and what the interns answered."""

from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one intern at one temperature answered, and how it was judged."""

    intern: str
    temperature: float | None
    answer: str
    verdict: str
    """``right``, ``wrong`` or ``missing``."""
    problem: str

    @classmethod
    def of(cls, record: dict[str, Any]) -> Self:
        """From its record."""
        correct = record.get("correct")
        verdict = "missing" if correct is None else "right" if correct else "wrong"
        return cls(text_of(record, "intern"), record.get("temperature"), text_of(record, "answer"), verdict, text_of(record, "problem"))


@dataclass(frozen=True, slots=True)
class Score:
    """Correct over answered evaluations."""

    planned: int
    answered: int
    correct: int
    value: float
    evaluations: tuple[Evaluation, ...]

    @property
    def missing(self) -> int:
        """Planned evaluations that have no verdict."""
        return self.planned - self.answered

    @classmethod
    def of(cls, record: dict[str, Any] | None) -> Self | None:
        """From its record; ``None`` if nothing was planned."""
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
    """Of the chosen mentor's whole path, where it was asked for."""
    steps_shown: int
    """How many steps of it the interns saw."""

    @property
    def chosen(self) -> Candidate | None:
        """The candidate that the search went on from."""
        return next((c for c in self.candidates if c.chosen), None)


def read_levels(records: list[dict[str, Any]]) -> tuple[Level, ...]:
    """The depths of one attempt, from their records."""
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
    """Text of a record; nothing where it has none."""
    value = record.get(key)
    return "" if value is None else str(value)
