"""The configuration of a build: the section ``build`` of a configuration file, checked."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from chiron.models.config import AnyModel, Strict
from chiron.models.config_file import ConfigFile, check_section, read_config

Manner = Literal["doctor", "student", "patient"]
"""Who asks whom: doctor to doctor, student to teacher, patient to doctor."""
MANNERS: tuple[Manner, ...] = ("doctor", "student", "patient")
Temperature = Annotated[float, Field(ge=0, le=2)]
Share = Annotated[float, Field(ge=0, le=1)]


class TokenLimits(Strict):
    """The most tokens a reply may have, by role; a model's own ``max_tokens`` goes before these."""

    author: PositiveInt = 2048
    reader: PositiveInt = 512


class BuildConfig(Strict):
    """Who writes and who reads, and what is kept."""

    author: str
    """Writes questions."""
    reader: str | None = None
    """Answers them, with the case and without it; ``chiron build text`` needs one."""
    questions_per_case: Annotated[int, Field(ge=1, le=10)] = 1
    """Multiple-choice questions asked for a case; ``chiron build questions`` asks for one a manner."""
    manners: Annotated[tuple[Manner, ...], Field(min_length=1)] = MANNERS
    """In which ``chiron build questions`` asks."""
    tries: PositiveInt = 2
    """How often the reader answers a question with the case."""
    tries_threshold: Share = 0.5
    """A question is kept if more than this share of those answers are right."""
    blind_tries: NonNegativeInt = 4
    """How often it answers without the case; 0 leaves that out."""
    blind_threshold: Share = 0.5
    """A question is dropped if more than this share of the blind answers are right; guessing one of four gives 0.25."""
    read_questions: bool = False
    """Whether the reader looks over what ``chiron build questions`` made."""
    show_images: bool = False
    """Whether author and reader of ``chiron build questions`` see the case's images; material without findings needs it."""
    author_temperature: Temperature = 0.7
    reader_temperature: Temperature = 0.7
    seed: int = 0
    """Of the order of options and the wording of requests."""
    image_side: Annotated[int, Field(ge=28)] = 1536
    """Longest side in pixels of the images as models see them."""
    max_tokens: TokenLimits = TokenLimits()
    prompts: dict[str, str] = Field(default_factory=dict)
    """Files that replace prompts, by name; relative to the configuration file."""
    budget_usd: PositiveFloat | None = None
    cases_in_flight: PositiveInt = 256

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.manners)) < len(self.manners):
            raise ValueError("manners holds one of them twice")
        if self.read_questions and self.reader is None:
            raise ValueError("read_questions needs a reader")
        return self


class BuildFile(ConfigFile):
    """A whole configuration file, as a build reads it."""

    build: BuildConfig

    @model_validator(mode="after")
    def _known_and_priced(self) -> Self:
        self.need_known([(f"build.{role}", name) for role, name in self.named()])
        if self.build.budget_usd is not None:
            self.need_prices(self.build_models())
        return self

    def named(self) -> list[tuple[str, str]]:
        """(role, model name) of author and reader."""
        reader = [("reader", self.build.reader)] if self.build.reader is not None else []
        return [("author", self.build.author), *reader]

    def build_models(self) -> dict[str, AnyModel]:
        """The models that take part."""
        return {name: self.models[name] for _, name in self.named()}


def load_build(path: Path | str, **overrides: Any) -> BuildFile:
    """Read and check a configuration file; ``overrides`` replace keys of ``build``.

    Raises:
        InputError: with the place of the fault, and the nearest known key for one misspelt.
    """
    return check_build(read_config(path), origin=Path(path), **overrides)


def check_build(data: dict[str, Any], *, origin: Path, **overrides: Any) -> BuildFile:
    """Check what a configuration file holds.

    Raises:
        InputError: as :func:`load_build`.
    """
    return check_section(BuildFile, data, "build", origin=origin, **overrides)
