"""Configuration and prompts of an evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from chiron.client.config import LocalModel, OfflineModel, ProviderConfig, Strict
from chiron.client.config_file import nearest, read_config
from chiron.client.prompts import PromptSet, hashes
from chiron.errors import InputError
from chiron.evaluation.answers.answer_tags import ReplyFormat
from chiron.jobs.config import JobFile, JobSection, Temperature
from chiron.mics.prompts import Prompts
from chiron.terminal import printable


class EvaluationTokens(Strict):
    """Maximum reply tokens by role. A model's own ``max_tokens`` takes precedence."""

    model: PositiveInt | None = None
    """``None`` uses the protocol's limit."""
    intern: PositiveInt = 1024
    judge: PositiveInt = 16
    extractor: PositiveInt = 16
    ranker: PositiveInt = 16
    reward_model: PositiveInt = 4
    grader: PositiveInt = 16
    checker: PositiveInt = 2048


class EvaluationConfig(JobSection):
    """The ``evaluation`` section: how models are measured."""

    role_keys: ClassVar[tuple[str, ...]] = ("judge", "extractor", "ranker", "reward_model", "graders", "checkers", "interns")
    protocol: str | None = None
    """``None`` uses the usual protocol of the benchmarks."""
    judge: str | None = None
    """Gives the verdicts of a protocol that needs a judge; otherwise adds a column ``judge:NAME``."""
    extractor: str | None = None
    """Model that also reads the chosen option from every reply, as a column ``extractor:NAME``."""
    ranker: str | None = None
    """Model that rates every reply from 0 to 100 without knowing the answer, as a column ``rank:NAME``. With several samples, the sample
    with the highest rating is chosen."""
    reward_model: str | None = None
    """Process reward model that reads every step of a reply, as a column ``reward:NAME``. With several samples, it chooses like
    ``ranker``."""
    graders: list[str] = Field(default_factory=list)
    """Models that grade open answers with 0, 0.5 or 1 by the prompt ``grade``, each as a column ``grade:NAME``."""
    checkers: list[str] = Field(default_factory=list)
    """Models that check each step's claims against a reference by the prompt ``claims``, each as columns ``claims_supported:NAME`` and so
    on."""
    interns: list[str] = Field(default_factory=list)
    """Models that continue from the model's own reasoning, as the column ``mics_score``. Needs a judge."""
    intern_temperatures: Annotated[tuple[Temperature, ...], Field(min_length=1)] = (1.2, 0.2)
    temperature: Temperature | None = None
    """``None`` means 0, or 0.7 with several samples."""
    seeds: PositiveInt = 1
    family: ReplyFormat | None = None
    """Format of the model's replies; ``None`` detects it for each reply."""
    max_images: PositiveInt | dict[str, Annotated[int, Field(ge=0, strict=True)]] | None = None
    """Most images that the model accepts, or that by model name (0: text only); an item with more is unusable."""
    max_tokens: EvaluationTokens = EvaluationTokens()
    in_flight: PositiveInt | None = None
    """Default: 256, or 2000 if a model is asked through batches."""
    limit: NonNegativeInt | None = None
    """Ask only the first ``limit`` items of each benchmark. Tables then show that the result is partial."""

    def most_images(self, model: str) -> int | None:
        """Return the most images that a model accepts; ``None`` without a limit."""
        return self.max_images.get(model) if isinstance(self.max_images, dict) else self.max_images

    @model_validator(mode="after")
    def _interns_need_a_judge(self) -> Self:
        if self.interns and self.judge is None:
            raise ValueError("interns need a judge that compares their answers: name one with judge")
        return self


class EvaluationFile(JobFile):
    """A configuration file with an optional ``evaluation`` section. It names every model except the measured one."""

    section: ClassVar[str] = "evaluation"
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _limits_are_of_models(self) -> Self:
        limits = self.evaluation.max_images
        self.need_known([("evaluation.max_images", name) for name in limits] if isinstance(limits, dict) else [])
        return self

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
    if path is None:
        return EvaluationFile.check({"models": {model: _alone(model).model_dump()}}, origin=Path.cwd() / "none", **overrides)
    file = EvaluationFile.check(read_config(path), origin=Path(path), **overrides)
    if file.evaluation.budget_usd is not None and model in file.models:
        try:
            file.need_prices({model: file.models[model]})
        except ValueError as error:
            raise InputError(f"configuration {path}: {error}") from None
    return file


def _alone(model: str) -> OfflineModel | LocalModel:
    """Configure a model that needs no configuration file."""
    kind, _, name = model.partition(":")
    if kind == "offline" and name:
        return OfflineModel(provider="offline", model=name)
    if (Path(model) / "config.json").is_file():
        return LocalModel(provider="local", path=str(Path(model).resolve()))
    raise InputError(
        f"model '{printable(model)}' is neither 'offline:NAME' nor a checkpoint folder: name a model of a configuration with"
        " --config FILE ('chiron init' writes one)"
    )


@dataclass(frozen=True)
class _OwnPrompts(PromptSet):
    package: ClassVar[str] = "chiron.evaluation"
    placeholders: ClassVar[Mapping[str, frozenset[str]]] = {
        "choice": frozenset({"question", "options"}),
        "short": frozenset({"question"}),
        "yes_no": frozenset({"question"}),
        "chain": frozenset({"question", "options"}),
        "published_judge": frozenset({"known_answer", "given_answer"}),
        "extractor": frozenset({"question", "reasoning"}),
        "rank": frozenset({"question", "reasoning"}),
        "grade": frozenset({"question", "known_answer", "given_answer"}),
        "report": frozenset({"question"}),
        "claims": frozenset({"question", "reference", "steps"}),
    }


_BARE = {"intern_system": "", "intern": "$question\n", "intern_prefix": "$reasoning\n"}
"""Question and reasoning only: the small models of the miniature know nothing else."""


@dataclass(frozen=True)
class EvaluationPrompts:
    own: Mapping[str, str]
    search: Prompts
    """Prompts of interns and judge, the same as in a search."""

    @classmethod
    def load(cls, replacements: Mapping[str, Path | str] | None = None) -> Self:
        """Load the packaged prompts, and replace those for which the user has files.

        Raises:
            InputError: an unknown name, a file that cannot be read, or one that lacks a placeholder.
        """
        given = dict(replacements or {})
        search = {name: given.pop(name) for name in Prompts.placeholders if name in given}
        return cls(_OwnPrompts.load(given).texts, Prompts.load(search))

    def bare(self) -> Self:
        """Return the same prompts, except that interns get only the question."""
        return replace(self, search=Prompts({**self.search.texts, **_BARE}))

    def hashes(self, names: tuple[str, ...]) -> dict[str, str]:
        """Return the SHA-256 (hex) of the named prompts."""
        texts = {**self.search.texts, **self.own}
        return hashes({name: texts[name] for name in names})
