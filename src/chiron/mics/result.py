"""What a search leaves behind: its outcome, and the tree by which it got there."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from chiron.cases.case import Case
from chiron.client.missing_calls import Missing
from chiron.conversation.reasoning import render_reasoning
from chiron.mics.team import PolicyName, Score


class Outcome(StrEnum):
    """How a case ended."""

    FULL_SCORE = "full_score"
    """A full score ended the search."""
    DEPTH = "depth"
    """The search went to its full depth."""
    UNSOLVED = "unsolved"
    """Every candidate scored zero, and the restarts are used up."""
    UNJUDGED = "unjudged"
    """The judge, asked twice, gave no verdict on too many answers; its replies are on record, so running again changes nothing."""
    PENDING = "pending"
    """Too many calls failed to judge it, or it met a bug of ours; running again goes on from there."""
    BAD_CASE = "bad_case"
    """The case cannot be used as it is."""


def summary_name(outcome: str, *, retained: bool) -> str:
    """What a summary calls a case that ended so: ``retained``, ``rejected``, ``unsolved``, ``unjudged``, ``pending`` or ``bad``."""
    if retained:
        return "retained"
    return {Outcome.FULL_SCORE.value: "rejected", Outcome.DEPTH.value: "rejected", Outcome.BAD_CASE.value: "bad"}.get(outcome, outcome)


def tally(outcomes: Mapping[tuple[str, bool], int]) -> Counter[str]:
    """How many cases a summary has under each of its names, from how many there are of each (outcome, retained)."""
    counts: Counter[str] = Counter()
    for (outcome, retained), count in outcomes.items():
        counts[summary_name(outcome, retained=retained)] += count
    return counts


class Reason(StrEnum):
    """Why a case has no retained path."""

    LOW_SCORE = "low_score"
    NO_FINAL_ANSWER = "no_final_answer"
    WRONG_FINAL_ANSWER = "wrong_final_answer"
    GIVES_AWAY_ANSWER = "gives_away_answer"
    ALL_ZERO = "all_zero"
    NO_READABLE_REASONING = "no_readable_reasoning"
    NO_VERDICT = "no_verdict"
    CALLS_FAILED = "calls_failed"
    CALLS_REFUSED = "calls_refused"
    """As ``calls_failed``, and every failed call would be refused again."""
    CRASHED = "crashed"
    BAD_CASE = "bad_case"


@dataclass(frozen=True, slots=True)
class Path:
    """A mentor's whole path: from the root, through the prefix, to its end."""

    mentor: str
    steps: tuple[str, ...]
    answer: str | None
    key: str
    """Ledger key of the reply that wrote its tail."""

    @property
    def text(self) -> str:
        """In the published form."""
        return render_reasoning(self.steps, self.answer or "")


@dataclass(slots=True)
class Candidate:
    """A prefix and a mentor's next step (its first two at the first depth), with its score."""

    mentor: str
    path: Path | None
    """``None`` if the mentor's reply could not be had or read."""
    prefix: tuple[str, ...] = ()
    """All steps, the new ones last."""
    new_steps: int = 0
    score: Score = field(default_factory=Score.empty)
    problem: str | None = None
    missing: bool = False
    """The mentor's call failed, so that nobody knows what it would have written."""

    def to_json(self, *, chosen: bool) -> dict[str, Any]:
        """As it stands in a result."""
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
    """One depth of the tree."""

    depth: int
    candidates: list[Candidate]
    chosen: str | None = None
    whole: Score | None = None
    """The score of the chosen mentor's whole path, where it was asked for."""
    whole_steps: int = 0
    """How many of its steps the interns saw."""

    def to_json(self) -> dict[str, Any]:
        """As it stands in a result."""
        return {
            "depth": self.depth,
            "candidates": [c.to_json(chosen=c.mentor == self.chosen) for c in self.candidates],
            "whole_path": None if self.whole is None else {"steps_shown": self.whole_steps, **self.whole.to_json()},
        }


@dataclass(slots=True)
class SearchResult:
    """What became of one case."""

    case: Case
    policy: PolicyName
    outcome: Outcome = Outcome.PENDING
    retained: bool = False
    reason: Reason | None = None
    detail: str = ""
    """The reason in words."""
    path: Path | None = None
    """The last chosen mentor's whole path."""
    score: Score = field(default_factory=Score.empty)
    """The one that counts for retention."""
    baseline: Score | None = None
    """The interns with no reasoning at all."""
    tree: list[list[Level]] = field(default_factory=list)
    """A list of levels for the first attempt and for each restart."""
    image_hashes: tuple[str, ...] = ()
    """SHA-256 of the images as they were shown, in the case's order."""
    calls: int = 0
    """Distinct calls, whoever answered them."""
    cost_usd: float | None = None
    """What their replies cost when they were paid for; ``None`` without prices."""

    @property
    def mics_score(self) -> float | None:
        """The MICS-Score that counts, ``None`` before there is one."""
        return self.score.value if self.score.planned else None

    @property
    def missing(self) -> Missing:
        """What the whole tree ended without."""
        levels = [level for levels in self.tree for level in levels]
        candidates = [c for level in levels for c in level.candidates]
        scores = [*(c.score for c in candidates), *(level.whole for level in levels), self.baseline]
        return Missing(sum(c.missing for c in candidates), sum(s.planned - s.answered for s in scores if s is not None))

    def to_path_record(self) -> dict[str, Any]:
        """A line of ``paths.jsonl``."""
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
        """By which a row can be traced: hashes of case and images, and the ledger's keys of what wrote and what tried the path."""
        chosen = [c for level in levels for c in level.candidates if c.mentor == level.chosen and c.path is not None]
        return {
            "case": self.case.fingerprint,
            "images": list(self.image_hashes),
            "path": self.path.key if self.path else None,
            "mentors": [c.path.key for c in chosen if c.path is not None],
            "evaluations": [e.key for e in self.score.evaluations],
        }

    def to_record(self) -> dict[str, Any]:
        """Everything, for the ledger: the line of ``paths.jsonl``, why, and the tree."""
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
                scores.setdefault(candidate.mentor, []).append(candidate.score.value if candidate.score.answered else None)
        return scores
