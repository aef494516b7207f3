"""Result of a search: its outcome and its tree."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypedDict

from chiron.cases.case import Case
from chiron.client.failures import Missing
from chiron.conversation.reasoning import render_reasoning
from chiron.mics.team import PolicyName, Score


class Outcome(StrEnum):
    """Outcome of a case."""

    FULL_SCORE = "full_score"
    """A full score ended the search."""
    DEPTH = "depth"
    """The search reached its full depth."""
    UNSOLVED = "unsolved"
    """Every candidate scored zero, and no restarts are left."""
    UNJUDGED = "unjudged"
    """The judge gave no verdict on too many answers. Its replies are stored, so a rerun changes nothing."""
    PENDING = "pending"
    """Too many calls failed, or the case crashed the program. A rerun resumes the case."""
    BAD_CASE = "bad_case"
    """The case is unusable as it is."""


def summary_name(outcome: str, *, retained: bool) -> str:
    """Return the name of an outcome in summaries.

    One of ``retained``, ``rejected``, ``unsolved``, ``unjudged``, ``pending`` and ``bad``.
    """
    if retained:
        return "retained"
    return {Outcome.FULL_SCORE.value: "rejected", Outcome.DEPTH.value: "rejected", Outcome.BAD_CASE.value: "bad"}.get(outcome, outcome)


def counts_by_summary_name(outcomes: Mapping[tuple[str, bool], int]) -> Counter[str]:
    """Count cases by summary name, from counts by (outcome, retained)."""
    counts: Counter[str] = Counter()
    for (outcome, retained), count in outcomes.items():
        counts[summary_name(outcome, retained=retained)] += count
    return counts


class Reason(StrEnum):
    """Reason why a case has no retained path."""

    LOW_SCORE = "low_score"
    NO_FINAL_ANSWER = "no_final_answer"
    WRONG_FINAL_ANSWER = "wrong_final_answer"
    GIVES_AWAY_ANSWER = "gives_away_answer"
    ALL_ZERO = "all_zero"
    NO_READABLE_REASONING = "no_readable_reasoning"
    NO_VERDICT = "no_verdict"
    CALLS_FAILED = "calls_failed"
    CALLS_REFUSED = "calls_refused"
    """Like ``calls_failed``, but every failed call would be rejected again."""
    CRASHED = "crashed"
    BAD_CASE = "bad_case"


@dataclass(frozen=True, slots=True)
class Path:
    """A mentor's whole path: the prefix and its continuation to the end."""

    mentor: str
    steps: tuple[str, ...]
    answer: str | None
    key: str
    """Ledger key of the reply that contains its last part."""

    @property
    def text(self) -> str:
        """The reasoning in the format of the published models."""
        return render_reasoning(self.steps, self.answer or "")


@dataclass(slots=True)
class Candidate:
    """A prefix and a mentor's next step (its first two at the first depth), with its score."""

    mentor: str
    path: Path | None
    """``None`` if the mentor's call failed or its reply is unreadable."""
    prefix: tuple[str, ...] = ()
    """All steps; the new ones are last."""
    new_steps: int = 0
    score: Score = field(default_factory=Score)
    problem: str | None = None
    missing: bool = False
    """Whether the mentor's call failed, so that its reasoning is unknown."""

    def to_json(self, *, chosen: bool) -> dict[str, Any]:
        """Convert to the JSON object stored in a result."""
        return {
            "mentor": self.mentor,
            "steps": list(self.prefix[len(self.prefix) - self.new_steps :]),
            "chosen": chosen,
            "problem": self.problem,
            "key": self.path.key if self.path else None,
            **self.score.to_json(),
        }


@dataclass(slots=True)
class Level:
    """One depth of the search tree."""

    depth: int
    candidates: list[Candidate]
    chosen: str | None = None
    whole: Score | None = None
    """Score of the chosen mentor's whole path, if it was evaluated."""
    whole_steps: int = 0
    """Number of its steps shown to the interns."""

    def to_json(self) -> dict[str, Any]:
        """Convert to the JSON object stored in a result."""
        return {
            "depth": self.depth,
            "candidates": [c.to_json(chosen=c.mentor == self.chosen) for c in self.candidates],
            "whole_path": None if self.whole is None else {"steps_shown": self.whole_steps, **self.whole.to_json()},
        }


class PathRecord(TypedDict):
    """A line of ``paths.jsonl``. The fields are written in this order."""

    case_id: str
    images: list[str]
    question: str
    answer: str
    """The known answer."""
    reasoning: str | None
    """The retained path in the format of the published models."""
    outcome: str
    """``full_score`` or ``depth``."""
    mics_score: float | None
    policy: PolicyName
    evaluations: dict[str, int]
    """Numbers of planned, answered and correct evaluations behind ``mics_score``."""
    missing: dict[str, int]
    """Numbers of missing candidates and evaluations in the whole tree."""
    depth: int
    restarts: int
    mentors: list[str]
    """The mentor chosen at each depth."""
    scores: dict[str, list[float | None]]
    """Scores at each depth, by mentor; ``None`` without an answered evaluation, or if some evaluations were not asked."""
    baseline: float | None
    difficulty: float | None
    uplift: float | None
    calls: int
    cost_usd: float | None
    provenance: dict[str, Any]
    """Hashes of case and images, and ledger keys of the path and its evaluations."""


@dataclass(slots=True)
class SearchResult:
    """Result of one case."""

    case: Case
    policy: PolicyName
    outcome: Outcome = Outcome.PENDING
    retained: bool = False
    reason: Reason | None = None
    detail: str = ""
    """Description of the reason."""
    path: Path | None = None
    """Whole path of the mentor chosen last."""
    score: Score = field(default_factory=Score)
    """Score that decides about retention."""
    baseline: Score | None = None
    """Score of the interns without any reasoning."""
    tree: list[list[Level]] = field(default_factory=list)
    """Levels of the first attempt and of each restart."""
    image_hashes: tuple[str, ...] = ()
    """SHA-256 of the images as sent, in the case's order."""
    calls: int = 0
    """Number of distinct calls, including those answered by an earlier process."""
    cost_usd: float | None = None
    """Cost of their replies when they were paid for; ``None`` without prices."""

    @property
    def mics_score(self) -> float | None:
        """MICS-Score that decides about retention; ``None`` before there is one."""
        return self.score.value if self.score.planned else None

    @property
    def missing(self) -> Missing:
        """Numbers of missing candidates and evaluations in the whole tree."""
        levels = [level for levels in self.tree for level in levels]
        candidates = [c for level in levels for c in level.candidates]
        scores = [*(c.score for c in candidates), *(level.whole for level in levels), self.baseline]
        return Missing(sum(c.missing for c in candidates), sum(s.asked - s.answered for s in scores if s is not None))

    def to_path_record(self) -> PathRecord:
        """Convert to a line of ``paths.jsonl``."""
        levels = self.tree[-1] if self.tree else []
        baseline = self.baseline.value if self.baseline is not None else None
        return {
            "case_id": self.case.id,
            "images": list(self.case.images),
            "question": self.case.question,
            "answer": self.case.answer,
            "reasoning": self.path.text if self.path else None,
            "outcome": self.outcome.value,
            "mics_score": self.mics_score,
            "policy": self.policy,
            "evaluations": self.score.counts(),
            "missing": self.missing.to_json(),
            "depth": len(levels),
            "restarts": max(0, len(self.tree) - 1),
            "mentors": [level.chosen for level in levels if level.chosen],
            "scores": self._scores(levels),
            "baseline": baseline,
            "difficulty": None if baseline is None else 1 - baseline,
            "uplift": None if baseline is None or self.mics_score is None else self.mics_score - baseline,
            "calls": self.calls,
            "cost_usd": self.cost_usd,
            "provenance": self._provenance(levels),
        }

    def _provenance(self, levels: list[Level]) -> dict[str, Any]:
        """Return what identifies the sources of a row: hashes of case and images, and ledger keys of the path and its evaluations."""
        chosen = [c for level in levels for c in level.candidates if c.mentor == level.chosen and c.path is not None]
        return {
            "case": self.case.fingerprint,
            "images": list(self.image_hashes),
            "path": self.path.key if self.path else None,
            "mentors": [c.path.key for c in chosen if c.path is not None],
            "evaluations": [e.key for e in self.score.evaluations],
        }

    def to_record(self) -> dict[str, Any]:
        """Convert to the record stored in the ledger: the line of ``paths.jsonl``, the reason and the tree."""
        return {
            **self.to_path_record(),
            "reason": self.reason.value if self.reason else None,
            "detail": self.detail,
            "final_answer": self.path.answer if self.path else None,
            "baseline_score": self.baseline.to_json() if self.baseline else None,
            "score": self.score.to_json(),
            "tree": [[level.to_json() for level in levels] for levels in self.tree],
        }

    @staticmethod
    def _scores(levels: list[Level]) -> dict[str, list[float | None]]:
        scores: dict[str, list[float | None]] = {}
        for level in levels:
            for candidate in level.candidates:
                score = candidate.score
                scores.setdefault(candidate.mentor, []).append(score.value if score.answered and not score.not_asked else None)
        return scores
