"""What a user says of a model, checked. Keys of endpoints never stand here, only the names of environment variables."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from chiron.cases.image_marks import IMAGE_MARK
from chiron.client.addresses import check_base_url, check_header_name, check_headers, check_variable
from chiron.errors import InputError

_LARGEST = 2**53
"""Beyond this no number of a configuration means anything, and a float cannot tell it from its neighbours."""


class Strict(BaseModel):
    """A part of the configuration: unknown keys are errors, values don't change, numbers are finite and never ``yes`` or ``true``."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _numbers_are_numbers(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        # Marked and not raised here: an error in one field must not hide those in the others.
        return {key: _marked(value, cls.model_fields[key].annotation) if key in cls.model_fields else value for key, value in data.items()}


@dataclass(frozen=True)
class Refused:
    """In place of a value that no field takes; its own field then fails on it."""

    why: str


def _marked(value: Any, annotation: Any) -> Any:
    """A value, or each of several, refused where it only looks like a number."""
    if isinstance(value, list | tuple):
        return [_marked(one, annotation) for one in value]
    kinds = _kinds(annotation)
    if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
        # YAML reads yes, no, on and off as booleans, and Python takes those for 1 and 0.
        return Refused("must be a number, but is true or false (YAML takes yes, no, on and off for those)")
    if isinstance(value, int) and abs(value) > _LARGEST and kinds & {int, float}:
        return Refused("is too large a number")
    return value


def _kinds(annotation: Any) -> set[Any]:
    """Every plain type that an annotation mentions."""
    inner = get_args(annotation)
    return {annotation} if not inner else set().union(*(_kinds(a) for a in inner))


def _system_text(text: str) -> str:
    if not text.strip() or IMAGE_MARK in text:
        raise ValueError(f"system must be internvl2_5 or the text of a system message, without {IMAGE_MARK} marks; leave it out for none")
    return text


SystemText = Annotated[str, AfterValidator(_system_text)]
"""``internvl2_5``, the text of a system message, or ``none``."""


class Price(Strict):
    """USD a million tokens."""

    input: Annotated[float, Field(ge=0)]
    output: Annotated[float, Field(ge=0)]


class ServedCheckpoint(Strict):
    """An InternVL checkpoint behind an endpoint, and how its training rows were cut."""

    max_tiles: PositiveInt = 6
    """Of all images of a request together, or of each image, thumbnails apart."""
    max_tiles_per: Literal["row", "image"] = "row"
    layout: Literal["hf", "internvl_chat"] = "hf"
    """In which form it is served: what ``chiron train`` and ``chiron convert`` write, or the authors'."""


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
    attempts: PositiveInt = 10
    """Attempts a call may fail transiently while others succeed, before it counts as failed; twice as many for a mentor's."""
    deadline: PositiveFloat = 900.0
    """Seconds a call may take with all its attempts and waits."""
    outage: PositiveFloat = 900.0
    """Seconds that the endpoint may answer nothing, with its calls waiting, before the run stops."""
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
    serves: ServedCheckpoint | None = None
    """That vLLM serves a checkpoint made by ``chiron train`` there: images are cut and placed as in its training, request by request."""
    price: Price | None = None
    """Needed for a budget."""
    image_tokens: PositiveInt = 4096
    """The most tokens an image can cost; what a budget sets aside."""

    @model_validator(mode="after")
    def _address(self) -> "OpenAIModel":
        check_base_url(self.base_url)
        check_headers(self.headers)
        if self.api_key_env is not None:
            check_variable(self.api_key_env, "api_key_env")
        if self.api_key_header is not None:
            check_header_name(self.api_key_header, "api_key_header")
            if self.api_key_env is None:
                raise ValueError("api_key_header needs api_key_env: the environment variable that holds the key")
        for name in self.parameters:
            if name in {"model", "messages", "stream", "n", "max_tokens", "max_completion_tokens", "temperature"}:
                raise ValueError(f"parameters holds '{name}', which chiron sets itself")
        if self.serves is not None and "mm_processor_kwargs" in self.parameters:
            raise ValueError("parameters holds 'mm_processor_kwargs', which serves sets: leave one of them out")
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
    max_tiles: PositiveInt | None = None
    """InternVL: tiles of all images of a call, or of each image, thumbnails apart. By default what the checkpoint says, else 6."""
    max_tiles_per: Literal["row", "image"] | None = None
    """InternVL: what ``max_tiles`` is for. By default what the checkpoint says, else ``row``: all images of a call."""
    thumbnail: bool | None = None
    """InternVL: whether an image of several tiles is also shown whole. By default what the checkpoint says, else yes."""
    system: SystemText | None = None
    """InternVL: said before calls without a system turn: ``internvl2_5``, a text, or ``none``. By default what the checkpoint says."""
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
