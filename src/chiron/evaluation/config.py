"""Configuration and prompts of an evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from chiron.client.config import LocalModel, OfflineModel, ProviderConfig, Strict
from chiron.client.config_file import ConfigFile, files_beside, nearest, read_config, validate
from chiron.client.prompts import PromptKind, hashes
from chiron.errors import InputError
from chiron.evaluation.answers.answer_tags import ReplyFormat
from chiron.mics.prompts import NAMES as SEARCH_NAMES
from chiron.mics.prompts import Prompts, load_prompts
from chiron.terminal import printable

Temperature = Annotated[float, Field(ge=0, le=2)]


class EvaluationTokens(Strict):
    """Maximum reply tokens by role. A model's own ``max_tokens`` takes precedence."""

    model: PositiveInt | None = None
    """``None`` uses the protocol's limit."""
    intern: PositiveInt = 1024
    judge: PositiveInt = 16
    extractor: PositiveInt = 16


class EvaluationConfig(Strict):
    """How models are measured."""

    protocol: str | None = None
    """``None`` uses the usual protocol of the benchmarks."""
    judge: str | None = None
    """Gives the verdicts of a protocol that needs a judge; otherwise adds a column ``judge:NAME``."""
    extractor: str | None = None
    """Model that also reads the chosen option from every reply, as a column ``extractor:NAME``."""
    interns: list[str] = Field(default_factory=list)
    """Models that continue from the model's own reasoning, as the column ``mics_score``. Needs a judge."""
    intern_temperatures: Annotated[tuple[Temperature, ...], Field(min_length=1)] = (1.2, 0.2)
    temperature: Temperature | None = None
    """``None`` means 0, or 0.7 with several samples."""
    seeds: PositiveInt = 1
    seed: int = 0
    """Random seed for the partners of swapped images and the orders of options."""
    family: ReplyFormat | None = None
    """Format of the model's replies; ``None`` detects it for each reply."""
    image_side: Annotated[int, Field(ge=28)] = 1536
    """Longest side, in pixels, of the images sent to models."""
    max_images: PositiveInt | None = None
    """Most images that the model accepts; an item with more is unusable."""
    max_tokens: EvaluationTokens = EvaluationTokens()
    prompts: dict[str, str] = Field(default_factory=dict)
    """Files that replace prompts, by prompt name. Paths are relative to the configuration file."""
    budget_usd: PositiveFloat | None = None
    in_flight: PositiveInt = 256
    limit: NonNegativeInt | None = None
    """Ask only the first ``limit`` items of each benchmark. Tables then show that the result is partial."""

    @model_validator(mode="after")
    def _interns_need_a_judge(self) -> Self:
        if self.interns and self.judge is None:
            raise ValueError("interns need a judge, who says whether they came to the answer: name one with judge")
        return self


class EvaluationFile(ConfigFile):
    """A whole configuration file, as an evaluation reads it."""

    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _known_and_priced(self) -> Self:
        named = self.named()
        self.need_known([(f"evaluation.{role}", name) for role, name in named])
        return self

    def named(self) -> list[tuple[str, str]]:
        """List every (role, model name) except the model that is measured."""
        chosen = self.evaluation
        alone = [(role, name) for role, name in (("judge", chosen.judge), ("extractor", chosen.extractor)) if name is not None]
        return [*alone, *(("interns", name) for name in chosen.interns)]

    def model(self, name: str) -> ProviderConfig:
        """Return the configuration of the measured model.

        Raises:
            InputError: the name is not under ``models``.
        """
        if name not in self.models:
            raise InputError(f"model '{printable(name)}' is not under models{nearest(name, self.models)}")
        return self.models[name]


def load_evaluation(path: Path | str | None, model: str, **overrides: Any) -> EvaluationFile:
    """Read and check a configuration file. ``overrides`` that are not ``None`` replace keys of ``evaluation``.

    Without a file, ``model`` may be ``offline:NAME`` or a checkpoint directory.

    Raises:
        InputError: the file has an error (the message gives its place and the nearest known key), or the model does not exist.
    """
    data: dict[str, Any] = {"models": {model: _alone(model).model_dump()}} if path is None else read_config(path)
    origin = Path(path) if path is not None else Path.cwd() / "none"
    section = data.get("evaluation") or {}
    if isinstance(section, dict):
        changed = {key: value for key, value in overrides.items() if value is not None}
        data = {**data, "evaluation": {**section, **changed}}
    file = validate(EvaluationFile, data, origin=origin)
    chosen = file.evaluation
    if chosen.budget_usd is not None:
        try:
            file.need_prices({name: file.models[name] for name in (model, *(name for _, name in file.named())) if name in file.models})
        except ValueError as error:
            raise InputError(f"configuration {origin}: {error}") from None
    files = files_beside(chosen.prompts, origin, "evaluation.prompts")
    return file.model_copy(update={"evaluation": chosen.model_copy(update={"prompts": files})})


def _alone(model: str) -> OfflineModel | LocalModel:
    """Configure a model that needs no configuration file."""
    kind, _, name = model.partition(":")
    if kind == "offline" and name:
        return OfflineModel(provider="offline", model=name)
    if (Path(model) / "config.json").is_file():
        return LocalModel(provider="local", path=str(Path(model).resolve()))
    raise InputError(
        f"model '{printable(model)}' is neither 'offline:NAME' nor the folder of a checkpoint: name a model of a configuration with"
        " --config FILE ('chiron init' writes one)"
    )


_KIND = PromptKind(
    "chiron.evaluation",
    {
        "choice": frozenset({"question", "options"}),
        "short": frozenset({"question"}),
        "yes_no": frozenset({"question"}),
        "chain": frozenset({"question", "options"}),
        "published_judge": frozenset({"known_answer", "given_answer"}),
        "extractor": frozenset({"question", "reasoning"}),
    },
)
_BARE = {"intern_system": "", "intern": "$question\n", "intern_prefix": "$reasoning\n"}
"""Question and reasoning only: the small models of the miniature know nothing else."""


@dataclass(frozen=True)
class EvaluationPrompts:
    """The prompts of one evaluation."""

    own: Mapping[str, str]
    search: Prompts
    """Prompts of interns and judge, the same as in a search."""

    @classmethod
    def load(cls, replacements: Mapping[str, Path] | None = None) -> Self:
        """Load the packaged prompts, and replace those for which the user has files.

        Raises:
            InputError: an unknown name, a file that cannot be read, or one that lacks a placeholder.
        """
        given = dict(replacements or {})
        search = {name: given.pop(name) for name in SEARCH_NAMES if name in given}
        return cls(_KIND.load(given), load_prompts(search))

    def bare(self) -> Self:
        """Return the same prompts, except that interns get only the question."""
        return replace(self, search=Prompts({**self.search.texts, **_BARE}))

    def hashes(self, names: tuple[str, ...]) -> dict[str, str]:
        """Return the SHA-256 (hex) of the named prompts."""
        texts = {**self.search.texts, **self.own}
        return hashes({name: texts[name] for name in names})
