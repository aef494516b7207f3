"""The configuration of a run: YAML, checked, with errors that name the line's place and the nearest right word."""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError, model_validator

from chiron.errors import InputError
from chiron.mics.team import Policy, PolicyName
from chiron.models.config import AnyModel, LocalModel, ModelConfig, OfflineModel, OpenAIModel, Strict, prompt_file
from chiron.terminal import printable
from chiron.yaml_files import read_yaml

_PROVIDERS: dict[str, type[Strict]] = {"openai": OpenAIModel, "offline": OfflineModel, "local": LocalModel}
Temperature = Annotated[float, Field(ge=0, le=2)]


class TokenLimits(Strict):
    """The most tokens a reply may have, by role; a model's own ``max_tokens`` goes before these."""

    mentor: PositiveInt = 2048
    intern: PositiveInt = 1024
    judge: PositiveInt = 16


class SearchConfig(Strict):
    """The search: who takes part, and by what rules."""

    mentors: Annotated[list[str], Field(min_length=1)]
    interns: Annotated[list[str], Field(min_length=1)]
    judge: str
    temperatures: Annotated[tuple[Temperature, ...], Field(min_length=1)] = (1.2, 0.2)
    """The interns'."""
    mentor_temperature: Temperature = 1.2
    depth: PositiveInt = 3
    restarts: NonNegativeInt = 1
    policy: PolicyName = "verified"
    baseline: bool = False
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """A path is retained if its MICS-Score lies above this."""
    seed: int = 0
    image_side: Annotated[int, Field(ge=28)] = 1536
    """Longest side in pixels of the images as models see them."""
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
        """What the search itself needs of this."""
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


class RunConfig(Strict):
    """A whole configuration file."""

    models: dict[str, ModelConfig]
    search: SearchConfig

    @model_validator(mode="after")
    def _can_be_written(self) -> "RunConfig":
        for name in self.models:
            if printable(name) != name or not name.strip() or len(name) > 200:
                raise ValueError(f"models: '{printable(name)[:200]}' is no name: use up to 200 characters that can be seen")
        for place, text in _texts(self.model_dump()):
            if any("\ud800" <= c <= "\udfff" for c in text):  # not shown: it may be a secret
                raise ValueError(f"{printable(place)} holds half a character, which can be neither written nor sent: leave it out")
        return self

    @model_validator(mode="after")
    def _known_and_priced(self) -> "RunConfig":
        for role, name in self.named():
            if name not in self.models:
                raise ValueError(f"search.{role} names '{name}', which is not under models{nearest(name, self.models)}")
        if self.search.budget_usd is not None:
            for name, model in self.team_models().items():
                if isinstance(model, OpenAIModel) and model.price is None:
                    raise ValueError(
                        f"a budget needs prices: models.{name} has none; add price: {{input: ..., output: ...}} (USD a million tokens)"
                    )
        return self

    def named(self) -> list[tuple[str, str]]:
        """Every (role, model name) of the team."""
        search = self.search
        return [*(("mentors", m) for m in search.mentors), *(("interns", m) for m in search.interns), ("judge", search.judge)]

    def team_models(self) -> dict[str, AnyModel]:
        """The models that take part, in the order of the roles."""
        return {name: self.models[name] for _, name in self.named()}


def _texts(value: object, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a configuration, with its place."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            where = f"{place}.{key}" if place else str(key)
            yield from _texts(inner, where)
            yield where, str(key)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner, place)


def load_config(path: Path | str, **overrides: Any) -> RunConfig:
    """Read and check a configuration file; ``overrides`` replace keys of ``search``.

    Raises:
        InputError: with the place of the fault, and the nearest known key for one misspelt.
    """
    path = Path(path)
    data = read_yaml(path, "configuration", hint="; 'chiron init' writes one")
    if not isinstance(data, dict):
        raise InputError(f"configuration {path} is empty or no mapping; 'chiron init' writes one")
    return check_config(data, origin=path, **overrides)


def check_config(data: dict[str, Any], *, origin: Path, **overrides: Any) -> RunConfig:
    """Check what a configuration file holds.

    Raises:
        InputError: as :func:`load_config`.
    """
    changed = {key: value for key, value in overrides.items() if value is not None}
    if changed and isinstance(data.get("search"), dict):
        data = {**data, "search": {**data["search"], **changed}}
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        raise InputError(f"configuration {origin}: {_explain(error)}") from None
    try:
        files = {name: str(prompt_file(file, origin.parent)) for name, file in config.search.prompts.items()}
    except InputError as error:
        raise InputError(f"configuration {origin}: search.prompts: {error}") from error
    models = {name: _beside(name, model, origin) for name, model in config.models.items()}
    return config.model_copy(update={"models": models, "search": config.search.model_copy(update={"prompts": files})})


def _beside(name: str, model: AnyModel, origin: Path) -> AnyModel:
    """A model whose path is found from the configuration file, wherever the command is run."""
    if not isinstance(model, LocalModel):
        return model
    try:
        return model.model_copy(update={"path": str(prompt_file(model.path, origin.parent))})
    except InputError as error:
        raise InputError(f"configuration {origin}: models.{name}.path: {error}") from error


def nearest(word: str, known: Any) -> str:
    """``; did you mean 'x'?`` if something known is near."""
    found = difflib.get_close_matches(word, [str(k) for k in known], n=1, cutoff=0.5)
    return f"; did you mean '{found[0]}'?" if found else ""


def _explain(error: ValidationError) -> str:
    """The first fault in words; the count of the others."""
    faults = error.errors(include_url=False)
    fault = faults[0]
    # A union's tag stands in the place as if it were a key; a reader of the file does not find it there.
    place = ".".join(str(p) for i, p in enumerate(fault["loc"]) if not (fault["loc"][0] == "models" and i == 2 and p in _PROVIDERS))
    if fault["type"] == "extra_forbidden":
        known = _known_keys(fault["loc"])
        hint = nearest(str(fault["loc"][-1]), known) or f"; known here: {', '.join(known)}"
        message = f"unknown key '{place}'{hint}"
    else:
        message = f"{place}: {fault['msg']}" if place else fault["msg"]
    message = message.replace("Value error, ", "")
    return message if len(faults) == 1 else f"{message} (and {len(faults) - 1} more)"


def _known_keys(loc: tuple[int | str, ...]) -> list[str]:
    if len(loc) > 2 and loc[0] == "models":
        return list(_PROVIDERS.get(str(loc[2]), OpenAIModel).model_fields)
    if len(loc) > 2 and loc[:2] == ("search", "max_tokens"):
        return list(TokenLimits.model_fields)
    return list(SearchConfig.model_fields if loc[0] == "search" and len(loc) > 1 else RunConfig.model_fields)
