"""Configuration of a search: YAML, validated, with errors that name the location and the nearest known key."""

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from chiron.client.config import Strict
from chiron.jobs.config import JobFile, JobSection, Temperature
from chiron.mics.team import EvaluationName, Policy, PolicyName


class SearchTokens(Strict):
    """Maximum number of tokens of a reply, by role. A model's own ``max_tokens`` takes precedence."""

    mentor: PositiveInt = 2048
    intern: PositiveInt = 1024
    judge: PositiveInt = 16


class SearchConfig(JobSection):
    """The ``search`` section: models and rules."""

    role_keys: ClassVar[tuple[str, ...]] = ("mentors", "interns", "judge")
    mentors: Annotated[list[str], Field(min_length=1)]
    interns: Annotated[list[str], Field(min_length=1)]
    judge: str
    temperatures: Annotated[tuple[Temperature, ...], Field(min_length=1)] = (1.2, 0.2)
    """Temperatures of the interns."""
    mentor_temperature: Temperature = 1.2
    depth: PositiveInt = 3
    restarts: NonNegativeInt = 1
    policy: PolicyName = "verified"
    evaluation: EvaluationName = "full"
    """Which candidates are evaluated completely."""
    mentor_image_side: Annotated[int | None, Field(ge=28)] = None
    """Longest side, in pixels, of the images sent to mentors; by default ``image_side``."""
    baseline: bool = False
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """A path is retained if its MICS-Score exceeds this."""
    max_tokens: SearchTokens = SearchTokens()
    cases_in_flight: PositiveInt | None = None
    """Default: 256, or 2000 if a model is asked through batches."""

    @model_validator(mode="after")
    def _each_once(self) -> "SearchConfig":
        for role, names in (("mentors", self.mentors), ("interns", self.interns)):
            if twice := sorted({n for n in names if names.count(n) > 1}):
                raise ValueError(f"{role} contains '{twice[0]}' twice: give the second one its own name under models")
        return self

    def rules(self) -> Policy:
        """Return the rules of the search."""
        return Policy(
            temperatures=self.temperatures,
            mentor_temperature=self.mentor_temperature,
            depth=self.depth,
            restarts=self.restarts,
            stop=self.policy,
            baseline=self.baseline,
            threshold=self.threshold,
            seed=self.seed,
            image_side=self.image_side,
            mentor_image_side=self.mentor_image_side,
            evaluation=self.evaluation,
        )


class RunConfig(JobFile):
    """A configuration file with a ``search`` section."""

    section: ClassVar[str] = "search"
    search: SearchConfig


def load_config(path: Path | str, **overrides: Any) -> RunConfig:
    """Read and validate a configuration file; ``overrides`` replace keys of ``search``.

    Raises:
        InputError: the file is invalid; the message names the location and the nearest known key.
    """
    return RunConfig.read(path, **overrides)


def check_config(data: dict[str, Any], *, origin: Path, **overrides: Any) -> RunConfig:
    """Validate the content of a configuration file; see :func:`load_config`."""
    return RunConfig.check(data, origin=origin, **overrides)
