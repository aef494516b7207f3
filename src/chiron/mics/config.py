"""Configuration of a search: YAML, validated, with errors that name the location and the nearest known key."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from chiron.client.config import ProviderConfig, Strict
from chiron.client.config_file import ConfigFile, check_section, read_config
from chiron.mics.team import Policy, PolicyName

Temperature = Annotated[float, Field(ge=0, le=2)]


class TokenLimits(Strict):
    """Maximum number of tokens of a reply, by role. A model's own ``max_tokens`` takes precedence."""

    mentor: PositiveInt = 2048
    intern: PositiveInt = 1024
    judge: PositiveInt = 16


class SearchConfig(Strict):
    """The ``search`` section: models and rules."""

    mentors: Annotated[list[str], Field(min_length=1)]
    interns: Annotated[list[str], Field(min_length=1)]
    judge: str
    temperatures: Annotated[tuple[Temperature, ...], Field(min_length=1)] = (1.2, 0.2)
    """Temperatures of the interns."""
    mentor_temperature: Temperature = 1.2
    depth: PositiveInt = 3
    restarts: NonNegativeInt = 1
    policy: PolicyName = "verified"
    baseline: bool = False
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """A path is retained if its MICS-Score exceeds this."""
    seed: int = 0
    image_side: Annotated[int, Field(ge=28)] = 1536
    """Longest side, in pixels, of the images sent to models."""
    max_tokens: TokenLimits = TokenLimits()
    prompts: dict[str, str] = Field(default_factory=dict)
    """Files that replace prompts, by name; relative to the configuration file."""
    budget_usd: PositiveFloat | None = None
    cases_in_flight: PositiveInt = 256

    @model_validator(mode="after")
    def _each_once(self) -> "SearchConfig":
        for role, names in (("mentors", self.mentors), ("interns", self.interns)):
            if twice := sorted({n for n in names if names.count(n) > 1}):
                raise ValueError(f"{role} holds '{twice[0]}' twice: give the second one a name of its own under models")
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
        )


class RunConfig(ConfigFile):
    """A configuration file with a ``search`` section."""

    search: SearchConfig

    @model_validator(mode="after")
    def _known_and_priced(self) -> Self:
        self.need_known([(f"search.{role}", name) for role, name in self.named()])
        if self.search.budget_usd is not None:
            self.need_prices(self.team_models())
        return self

    def named(self) -> list[tuple[str, str]]:
        """Return every (role, model name) of the team."""
        search = self.search
        return [*(("mentors", m) for m in search.mentors), *(("interns", m) for m in search.interns), ("judge", search.judge)]

    def team_models(self) -> dict[str, ProviderConfig]:
        """Return the team's models, in the order of roles."""
        return {name: self.models[name] for _, name in self.named()}


def load_config(path: Path | str, **overrides: Any) -> RunConfig:
    """Read and validate a configuration file; ``overrides`` replace keys of ``search``.

    Raises:
        InputError: the file is invalid; the message names the location and the nearest known key.
    """
    return check_config(read_config(path), origin=Path(path), **overrides)


def check_config(data: dict[str, Any], *, origin: Path, **overrides: Any) -> RunConfig:
    """Validate the contents of a configuration file.

    Raises:
        InputError: as :func:`load_config`.
    """
    return check_section(RunConfig, data, "search", origin=origin, **overrides)
