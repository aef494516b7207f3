"""Models and rules of a search, and the MICS-Score of a prefix."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from chiron.client.call import RoleModel

PolicyName = Literal["paper", "verified"]
EvaluationName = Literal["full", "adaptive", "halving"]


@dataclass(frozen=True, slots=True)
class Sample:
    """A model at a temperature.

    ``copy`` is its index among ``copies`` equal samples, so that they do not share replies.
    """

    model: RoleModel
    temperature: float
    copy: int
    copies: int

    def index(self, restart: int) -> int:
        """Return the sample index of its calls after ``restart`` restarts."""
        return restart * self.copies + self.copy


@dataclass(frozen=True, slots=True)
class Team:
    """Mentors M, interns N and judge, as in the paper."""

    mentors: tuple[RoleModel, ...]
    interns: tuple[RoleModel, ...]
    judge: RoleModel


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of a search, explained in ``docs/search.md``."""

    temperatures: tuple[float, ...] = (1.2, 0.2)
    """Temperatures of the interns; T in the paper."""
    mentor_temperature: float = 1.2
    depth: int = 3
    """Maximum number of prefix choices; D in the paper."""
    restarts: int = 1
    """Maximum number of restarts after every candidate scored zero."""
    stop: PolicyName = "verified"
    """What must have a full score to end the search: the prefix (``paper``), or the mentor's whole path too (``verified``)."""
    baseline: bool = False
    """Whether to score the interns without any reasoning first."""
    threshold: float = 0.5
    """A path is retained if its score exceeds this."""
    seed: int = 0
    image_side: int = 1536
    """Longest side, in pixels, of the images sent to models."""
    mentor_image_side: int | None = None
    """The same for mentors; ``None``: ``image_side``."""
    evaluation: EvaluationName = "full"
    """Which candidates are evaluated completely: all (``full``), those that can win or tie (``adaptive``), or the better half, several
    times (``halving``). The first two choose the same paths; the third is approximate."""

    @property
    def image_sides(self) -> dict[str, int]:
        """Longest side of the images by role."""
        return {"intern": self.image_side, "mentor": self.mentor_image_side or self.image_side}

    def mentor_samples(self, team: Team) -> list[Sample]:
        """Return one sample per mentor."""
        return _samples([(model, self.mentor_temperature) for model in team.mentors])

    def intern_samples(self, team: Team) -> list[Sample]:
        """Return every intern at every temperature: the planned evaluations of one prefix."""
        return _samples([(model, t) for model in team.interns for t in self.temperatures])


def _samples(planned: Sequence[tuple[RoleModel, float]]) -> list[Sample]:
    kinds = [(model.identity, model.max_tokens, temperature) for model, temperature in planned]
    total, seen, samples = Counter(kinds), Counter[tuple[str, int, float]](), []
    for (model, temperature), kind in zip(planned, kinds, strict=True):
        samples.append(Sample(model, temperature, seen[kind], total[kind]))
        seen[kind] += 1
    return samples


def fewest_calls(team: Team, policy: Policy) -> dict[tuple[str, str], int]:
    """Return the fewest calls for one case, by role and model, if all replies can be read: all mentors write the same first steps, and all
    interns give the same answer, about which the judge was asked before.
    """
    calls = Counter(("mentor", model.name) for model in team.mentors)
    calls.update(("intern", sample.model.name) for sample in policy.intern_samples(team) for _ in range(1 + policy.baseline))
    return dict(calls)


def most_calls(team: Team, policy: Policy) -> dict[tuple[str, str], int]:
    """Return the most distinct calls for one case, by role and model, if the judge's replies can be read: all mentors, evaluations and
    judgments, at every depth and restart.
    """
    attempts = policy.restarts + 1
    scored = attempts * policy.depth * (len(team.mentors) + 1) + 1
    calls = Counter(("mentor", model.name) for model in team.mentors for _ in range(attempts * policy.depth))
    samples = policy.intern_samples(team)
    calls.update(("intern", sample.model.name) for sample in samples for _ in range(scored))
    calls["judge", team.judge.name] += scored * len(samples) + 1
    return dict(calls)


@dataclass(frozen=True, slots=True)
class CandidateEvaluation:
    """One evaluation: an intern finishes a prefix at one temperature, and the judge compares its answer with the known one."""

    intern: str
    temperature: float
    answer: str | None
    """Its final answer, or ``None``."""
    correct: bool | None
    """The verdict; ``None`` if a call failed: the evaluation is then missing, not wrong."""
    problem: str | None = None
    """Why it is missing, or why there is no answer."""
    key: str = ""
    """Ledger key of the intern's reply."""
    unjudged: bool = False
    """Whether it is missing because the judge's stored replies contain no verdict; a rerun reads the same replies."""

    def to_json(self) -> dict[str, Any]:
        """Convert to the JSON object stored in a result."""
        return {name: getattr(self, name) for name in ("intern", "temperature", "answer", "correct", "problem", "key")}


@dataclass(frozen=True, slots=True)
class Score:
    """The evaluations of one prefix. MICS-Score = correct / answered."""

    evaluations: tuple[CandidateEvaluation, ...] = ()
    not_asked: int = 0
    """Number of planned evaluations that were not asked. If there are any, ``value`` is not the MICS-Score yet."""

    @property
    def planned(self) -> int:
        """Number of planned evaluations: interns times temperatures."""
        return self.asked + self.not_asked

    @property
    def asked(self) -> int:
        """Number of evaluations that were asked, with or without an answer."""
        return len(self.evaluations)

    @property
    def answered(self) -> int:
        """Number of evaluations with a verdict."""
        return sum(e.correct is not None for e in self.evaluations)

    @property
    def correct(self) -> int:
        """Number of evaluations judged right."""
        return sum(e.correct is True for e in self.evaluations)

    @property
    def value(self) -> float:
        """MICS-Score in [0, 1]: correct / answered, or 0 if nothing was answered."""
        return self.correct / self.answered if self.answered else 0.0

    @property
    def highest(self) -> float:
        """Highest MICS-Score possible: every evaluation that was not asked counts as right."""
        possible = self.answered + self.not_asked
        return (self.correct + self.not_asked) / possible if possible else 0.0

    @property
    def full(self) -> bool:
        """Whether all evaluations were asked and every answered one is right."""
        return 0 < self.answered == self.correct and not self.not_asked

    @property
    def has_quorum(self) -> bool:
        """Whether at least two thirds of the planned evaluations were answered, or can be if some were not asked."""
        return reaches_quorum(self.answered + self.not_asked, self.planned)

    @property
    def unjudged(self) -> int:
        """Number of evaluations without a verdict in the judge's replies."""
        return sum(e.unjudged for e in self.evaluations)

    def counts(self) -> dict[str, int]:
        """Return the numbers of planned, answered and correct evaluations, and of those not asked if there are any."""
        counts = {"planned": self.planned, "answered": self.answered, "correct": self.correct}
        return {**counts, "not_asked": self.not_asked} if self.not_asked else counts

    def to_json(self) -> dict[str, Any]:
        """Convert to the JSON object stored in a result. An unfinished score has no ``mics_score``."""
        value = None if self.not_asked else self.value
        return {"mics_score": value, **self.counts(), "evaluations": [e.to_json() for e in self.evaluations]}


def reaches_quorum(answered: int, planned: int) -> bool:
    """Check whether at least two thirds, and at least one, were answered."""
    return answered > 0 and 3 * answered >= 2 * planned
