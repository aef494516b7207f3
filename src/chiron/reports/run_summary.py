"""Description of a run from ``run.json``, and totals over its cases."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from chiron.client.failures import Missing
from chiron.client.ledger import StoredResult
from chiron.errors import InputError
from chiron.jobs.directory import RUN, not_a_run
from chiron.reports.case_view import Kind, kind_of, reason_in_words


class ShownModel(NamedTuple):
    """One model of the team."""

    name: str
    identity: str
    """Provider, and the endpoint's name for the model."""
    max_tokens: int


class Identity(BaseModel):
    """Settings that the run's results depend on. Fields that an older run did not write are blank."""

    model_config = ConfigDict(frozen=True)

    mentors: tuple[ShownModel, ...] = ()
    interns: tuple[ShownModel, ...] = ()
    judge: ShownModel | None = None
    temperatures: tuple[float, ...] = ()
    mentor_temperature: float | None = None
    depth: int | None = None
    restarts: int | None = None
    policy: str | None = None
    evaluation: str = "full"
    threshold: float | None = None
    seed: int | None = None

    @property
    def team(self) -> list[tuple[str, list[ShownModel]]]:
        judge = [self.judge] if self.judge else []
        return [("mentors", list(self.mentors)), ("interns", list(self.interns)), ("judge", judge)]


class RunInfo(BaseModel):
    """Description of a run, from its directory."""

    model_config = ConfigDict(frozen=True)

    chiron: str = "unknown"
    began: str = "unknown"
    cases: str = "unknown"
    images: str | None = None
    shard: str | None = None
    limit: int | None = None
    replayed_from: str | None = None
    identity: Identity = Identity()
    config: dict[str, Any] = Field(default_factory=dict)

    @property
    def cases_name(self) -> str:
        """Name of the case file, without its folder."""
        return PurePath(self.cases).name


def read_run(run: Path) -> RunInfo:
    """Read a run directory's ``run.json``.

    Raises:
        InputError: it is missing or damaged.
    """
    path = run / RUN
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise not_a_run(run) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
    try:
        return RunInfo.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{path} is damaged ({place + ': ' if place else ''}{first['msg']}): restore it from a copy, or choose another run"
        ) from None


@dataclass(slots=True)
class Totals:
    """Totals over the results so far."""

    cases: int = 0
    kinds: Counter[Kind] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    """Descriptions of why cases were not retained, with counts."""
    scores: Counter[tuple[float, bool]] = field(default_factory=Counter)
    """Number of cases by MICS-Score and whether they were retained."""
    pairs: Counter[tuple[float, float]] = field(default_factory=Counter)
    """Number of cases by baseline and MICS-Score."""

    incomplete: int = 0
    """Number of cases with a missing candidate or evaluation."""
    missing: Missing = field(default_factory=Missing)
    """Numbers of missing candidates and evaluations."""

    def add(self, result: StoredResult) -> Kind:
        """Add a result, and return its outcome."""
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
        """Number of cases with a MICS-Score."""
        return self.scores.total()

    @property
    def mean_score(self) -> float | None:
        """Mean MICS-Score of the cases that have one."""
        if not self.scores:
            return None
        return sum(score * n for (score, _), n in self.scores.items()) / self.scored

    @property
    def mean_uplift(self) -> float | None:
        """Mean of MICS-Score minus baseline, over the cases that have both."""
        if not self.pairs:
            return None
        return sum((score - baseline) * n for (baseline, score), n in self.pairs.items()) / self.pairs.total()
