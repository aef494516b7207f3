"""What a user says of a model, checked. Keys of endpoints never stand here, only the names of environment variables."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from chiron.errors import InputError
from chiron.models.addresses import check_base_url, check_header_name, check_headers

_LARGEST = 2**53
"""Beyond this no number of a configuration means anything, and a float cannot tell it from its neighbours."""


class Strict(BaseModel):
    """A part of the configuration: unknown keys are errors, values don't change, numbers are finite and never ``yes`` or ``true``."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _numbers_are_numbers(cls, data: Any) -> Any:
        for name, field in cls.model_fields.items():
            value = data.get(name) if isinstance(data, dict) else None
            several = value if isinstance(value, list | tuple) else [value]
            kinds = _kinds(field.annotation)
            if kinds & {int, float} and bool not in kinds and any(isinstance(v, bool) for v in several):
                # YAML reads yes, no, on and off as booleans, and Python takes those for 1 and 0.
                raise ValueError(f"{name} must be a number, but is true or false (YAML takes yes, no, on and off for those)")
            if any(isinstance(v, int) and abs(v) > _LARGEST for v in several):
                raise ValueError(f"{name} is too large a number")
        return data


def _kinds(annotation: Any) -> set[Any]:
    """Every plain type that an annotation mentions."""
    inner = get_args(annotation)
    return {annotation} if not inner else set().union(*(_kinds(a) for a in inner))


class Price(Strict):
    """USD a million tokens."""

    input: Annotated[float, Field(ge=0)]
    output: Annotated[float, Field(ge=0)]


class OpenAIModel(Strict):
    """A model behind any OpenAI-compatible endpoint."""

    provider: Literal["openai"]
    base_url: str
    """Up to and including ``/v1`` or its like, without ``/chat/completions``; Azure's ``?api-version=...`` may follow."""
    model: str
    """The endpoint's own name for it."""
    api_key_env: str | None = None
    """The environment variable that holds the key; none for most local endpoints."""
    api_key_header: str | None = None
    """The header that carries the key as it is, for example ``api-key`` (Azure); by default ``Authorization: Bearer ...`` does."""
    concurrency: PositiveInt = 32
    """Calls at once, at most; fewer are sent while the endpoint limits the rate."""
    requests_per_minute: PositiveFloat | None = None
    timeout: PositiveFloat = 120.0
    """Seconds an attempt may take."""
    attempts: PositiveInt = 8
    """Attempts a call may fail transiently, before it counts as failed."""
    deadline: PositiveFloat = 900.0
    """Seconds a call may take with all its attempts and waits."""
    max_tokens: PositiveInt | None = None
    """Overrides the role's token limit; thinking models need more."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """The name that the endpoint gives the token limit; newer OpenAI models want the second."""
    temperature: bool = True
    """Whether to send a temperature; some thinking models refuse one."""
    system_role: Literal["system", "user"] = "system"
    """``user``: put the system text before the first user turn, for servers and templates without a system role."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Sent with every call as they are, for example ``{reasoning_effort: low}``."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Sent with every call. Not for keys: they belong in ``api_key_env`` (and ``api_key_header``)."""
    revision: str | None = None
    """Tells two models of one name apart, so that a replay does not take one's replies for the other's."""
    price: Price | None = None
    """Needed for a budget."""
    image_tokens: PositiveInt = 4096
    """The most tokens an image can cost; what a budget sets aside."""

    @model_validator(mode="after")
    def _address(self) -> "OpenAIModel":
        check_base_url(self.base_url)
        check_headers(self.headers)
        if self.api_key_header is not None:
            check_header_name(self.api_key_header, "api_key_header")
            if self.api_key_env is None:
                raise ValueError("api_key_header needs api_key_env: the environment variable that holds the key")
        for name in self.parameters:
            if name in {"model", "messages", "stream", "n", "max_tokens", "max_completion_tokens", "temperature"}:
                raise ValueError(f"parameters holds '{name}', which chiron sets itself")
        try:
            json.dumps(self.parameters, allow_nan=False, sort_keys=True)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"parameters cannot be sent as JSON: {error}; dates and the like go in quotes") from None
        return self


class OfflineModel(Strict):
    """An embedded baseline that needs nothing: no endpoint, no weights."""

    provider: Literal["offline"]
    model: str
    """For example ``extractive/findings-first``; ``chiron init offline`` writes them all."""


class LocalModel(Strict):
    """A checkpoint of InternVL, Qwen2-VL or Qwen2.5-VL, run in this process; needs the extra ``train``."""

    provider: Literal["local"]
    path: str
    """The checkpoint's folder (``config.json``, ``tokenizer.json``, safetensors); relative to the configuration file."""
    batch: PositiveInt = 32
    """Calls answered together, at most."""
    max_tokens: PositiveInt | None = None
    """Overrides the role's token limit."""
    max_tiles: PositiveInt = 6
    """InternVL: tiles of all images of a call, thumbnails apart."""
    thumbnail: bool = True
    """InternVL: whether an image of several tiles is also shown whole."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto``: a GPU if there is one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """``auto``: bf16 on a GPU, fp32 elsewhere."""


AnyModel = OpenAIModel | OfflineModel | LocalModel
ModelConfig = Annotated[AnyModel, Field(discriminator="provider")]


def max_tokens_of(config: AnyModel, role_limit: int) -> int:
    """The token limit for a role's calls to this model."""
    own = None if isinstance(config, OfflineModel) else config.max_tokens
    return own if own is not None else role_limit


def prompt_file(path: str, beside: Path) -> Path:
    """A path in a configuration file, relative to that file.

    Raises:
        InputError: it begins with the home directory of nobody here, or is no path.
    """
    try:
        expanded = Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"'{path[:200]}' is no path on this machine: {error}") from error
    if not path.isprintable():
        raise InputError(f"{path[:200]!r} is no path: it holds a character that cannot be seen")
    return expanded if expanded.is_absolute() else beside / expanded
