"""View of one case and its search tree for its section of the report, read from the stored record."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from chiron.client.failures import Missing
from chiron.client.ledger import StoredResult
from chiron.reports.thumbnails import Thumbnail


@dataclass(frozen=True, slots=True)
class InternAnswer:
    """Answer of one intern at one temperature, and its verdict."""

    intern: str
    temperature: float | None
    answer: str
    verdict: str
    """``right``, ``wrong`` or ``missing``."""
    problem: str

    @classmethod
    def of(cls, record: dict[str, Any]) -> Self:
        correct = record.get("correct")
        verdict = "missing" if correct is None else "right" if correct else "wrong"
        return cls(text_of(record, "intern"), record.get("temperature"), text_of(record, "answer"), verdict, text_of(record, "problem"))


@dataclass(frozen=True, slots=True)
class Score:
    """MICS-Score: correct / answered evaluations."""

    planned: int
    answered: int
    correct: int
    value: float | None
    """``None`` if some evaluations were not asked, so that only the highest possible score is known."""
    not_asked: int
    evaluations: tuple[InternAnswer, ...]

    @property
    def missing(self) -> int:
        """Number of asked evaluations without a verdict."""
        return self.planned - self.answered - self.not_asked

    @classmethod
    def of(cls, record: dict[str, Any] | None) -> Self | None:
        """Create from a stored record; ``None`` if nothing was planned."""
        if not record or not record.get("planned"):
            return None
        evaluations = tuple(InternAnswer.of(e) for e in record.get("evaluations", ()))
        not_asked = record.get("not_asked", 0)
        return cls(record["planned"], record["answered"], record["correct"], record["mics_score"], not_asked, evaluations)


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


class Kind(StrEnum):
    """Outcome of a case, as shown to readers."""

    RETAINED = "retained"
    REJECTED = "rejected"
    UNSOLVED = "unsolved"
    UNJUDGED = "unjudged"
    PENDING = "pending"
    BAD = "bad"

    @property
    def mark(self) -> str:
        """Symbol next to the word, so that color is not needed to tell outcomes apart."""
        return {"retained": "✓", "rejected": "✗", "unsolved": "∅", "unjudged": "?", "pending": "…", "bad": "!"}[self.value]

    @property
    def meaning(self) -> str:
        return {
            "retained": "most interns reached the answer along the path",
            "rejected": "a path was found, but it is not good enough",
            "unsolved": "at some depth no candidate led an intern to the answer",
            "unjudged": "the judge gave no verdict on too many answers",
            "pending": "the search is unfinished; run it again to resume",
            "bad": "the case is invalid",
        }[self.value]


_REASONS = {
    "low_score": "too few interns reached the answer along the path",
    "no_final_answer": "the path has no final answer",
    "wrong_final_answer": "the path ends in another answer",
    "gives_away_answer": "the path reveals that its author knew the answer",
    "all_zero": "at some depth no candidate led an intern to the answer",
    "no_readable_reasoning": "no mentor wrote steps that can be read",
    "no_verdict": "the judge gave no verdict on too many answers; use another judge, or allow it longer replies",
    "calls_failed": "too many calls failed",
    "calls_refused": "its calls are refused; running again does not help",
    "crashed": "chiron failed on it; see errors.log in the run directory",
    "bad_case": "the case is invalid",
}


def kind_of(outcome: str, *, retained: bool) -> Kind:
    """Convert a stored outcome. Unknown outcomes of a later version count as pending, since they have no path to show."""
    if retained:
        return Kind.RETAINED
    return {
        "full_score": Kind.REJECTED,
        "depth": Kind.REJECTED,
        "unsolved": Kind.UNSOLVED,
        "unjudged": Kind.UNJUDGED,
        "bad_case": Kind.BAD,
    }.get(outcome, Kind.PENDING)


def reason_in_words(reason: str) -> str:
    """Describe why a case was not retained; an unknown reason is returned unchanged."""
    return _REASONS.get(reason, reason)


_STEP = re.compile(r"### Step \d+: ?")
MAX_STEPS = 200
"""Maximum number of steps shown per path. A mentor that wrote a hundred thousand would make the page too large to open."""
_FINAL = "### The final answer is:"


@dataclass(frozen=True, slots=True)
class PathStep:
    """A step of the resulting path."""

    text: str
    origin: Candidate | None
    """Candidate that it was chosen with; ``None`` for the rest, which its mentor wrote to the end."""
    begins: int
    """Depth whose step begins here; -1 at the start of the rest, 0 elsewhere."""
    seen: bool
    """Whether interns saw it when the whole path was scored."""


@dataclass(frozen=True, slots=True)
class CaseView:
    """One section of the page."""

    number: int
    """Number from 1, in page order; also the anchor's name."""
    line: int
    """Line in the case file, from 1."""
    id: str
    kind: Kind
    why: str
    """Description of the outcome."""
    question: str
    answer: str
    final_answer: str
    final_verdict: str
    """Verdict on the path's final answer: ``right``, ``wrong``, or empty if not judged."""
    steps: tuple[PathStep, ...]
    """The first ``MAX_STEPS`` steps."""
    steps_left_out: int
    steps_seen: int
    """Number of steps of the whole path shown to the interns."""
    tail_mentor: str
    score: Score | None
    baseline: Score | None
    attempts: tuple[tuple[Level, ...], ...]
    missing: Missing
    """Missing candidates and evaluations."""
    calls: int
    cost_usd: float | None
    images: tuple[Thumbnail, ...]
    images_left_out: int

    @property
    def uplift(self) -> float | None:
        """MICS-Score minus baseline."""
        if self.score is None or self.baseline is None or self.score.value is None or self.baseline.value is None:
            return None
        return self.score.value - self.baseline.value

    @property
    def last_whole(self) -> Score | None:
        """Final whole-path score, if there is one."""
        return self.attempts[-1][-1].whole if self.attempts and self.attempts[-1] else None

    @property
    def course(self) -> list[float]:
        """Scores of the chosen candidates of the last attempt, by depth."""
        levels = self.attempts[-1] if self.attempts else ()
        chosen = [level.chosen.score for level in levels if level.chosen]
        return [score.value for score in chosen if score is not None and score.value is not None]

    @property
    def candidates(self) -> int:
        return sum(len(level.candidates) for levels in self.attempts for level in levels)


def case_view(result: StoredResult, number: int, images: tuple[Thumbnail, ...]) -> CaseView:
    record = result.record
    kind = kind_of(result.outcome, retained=result.retained)
    attempts = tuple(read_levels(levels) for levels in record.get("tree") or ())
    last = attempts[-1] if attempts else ()
    reason = text_of(record, "reason")
    steps = _path(text_of(record, "reasoning"), last)
    return CaseView(
        number=number,
        line=result.position + 1,
        id=text_of(record, "case_id") or result.case_id.strip(),
        kind=kind,
        why=_why(result.outcome, kind, text_of(record, "detail"), reason),
        question=text_of(record, "question"),
        answer=text_of(record, "answer"),
        final_answer=text_of(record, "final_answer"),
        final_verdict=_final_verdict(kind, reason),
        steps=steps[:MAX_STEPS],
        steps_left_out=len(steps[MAX_STEPS:]),
        steps_seen=sum(step.seen for step in steps),
        tail_mentor=last[-1].chosen.mentor if last and last[-1].chosen else "",
        score=Score.of(record.get("score")),
        baseline=Score.of(record.get("baseline_score")),
        attempts=attempts,
        missing=Missing.of(record),
        calls=record.get("calls") or 0,
        cost_usd=record.get("cost_usd"),
        images=images,
        images_left_out=len(record.get("images") or ()) - len(images),
    )


def _path(reasoning: str, levels: tuple[Level, ...]) -> tuple[PathStep, ...]:
    """Return the path's steps with the candidates they were chosen with: the prefix of every depth, then the rest."""
    texts: list[list[str]] = []
    for line in reasoning.split("\n"):
        if line.startswith(_FINAL):
            break
        if (mark := _STEP.match(line)) is not None:
            texts.append([line[mark.end() :]])
        elif texts:
            texts[-1].append(line)
    origins = [(level, index) for level in levels if level.chosen for index in range(len(level.chosen.steps))]
    seen = levels[-1].steps_shown if levels and levels[-1].whole else len(texts)
    steps = []
    for place, text in enumerate("\n".join(lines) for lines in texts):
        if place < len(origins):
            level, index = origins[place]
            steps.append(PathStep(text, level.chosen, level.depth if index == 0 else 0, seen=place < seen))
        else:
            steps.append(PathStep(text, None, -1 if place == len(origins) else 0, seen=place < seen))
    return tuple(steps)


def _why(outcome: str, kind: Kind, detail: str, reason: str) -> str:
    if kind is Kind.RETAINED:
        return "a full score ended the search" if outcome == "full_score" else "the search reached its full depth"
    return detail or reason_in_words(reason)


def _final_verdict(kind: Kind, reason: str) -> str:
    # The path's own answer is judged only if the score is high enough.
    if kind is Kind.RETAINED or reason == "gives_away_answer":
        return "right"
    return "wrong" if reason == "wrong_final_answer" else ""
