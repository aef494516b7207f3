"""What a user says of a model, checked. Keys of endpoints never stand here, only the names of environment variables."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator


class Strict(BaseModel):
    """A part of the configuration: unknown keys are errors, values don't change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Price(Strict):
    """USD a million tokens."""

    input: Annotated[float, Field(ge=0)]
    output: Annotated[float, Field(ge=0)]


class OpenAIModel(Strict):
    """A model behind any OpenAI-compatible endpoint."""

    provider: Literal["openai"]
    base_url: str
    """Up to and including ``/v1`` or its like, without ``/chat/completions``."""
    model: str
    """The endpoint's own name for it."""
    api_key_env: str | None = None
    """The environment variable that holds the key; none for most local endpoints."""
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
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Sent with every call as they are, for example ``{reasoning_effort: low}``."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Sent with every call. Not for keys: they belong in ``api_key_env``."""
    revision: str | None = None
    """Tells two models of one name apart, so that a replay does not take one's replies for the other's."""
    price: Price | None = None
    """Needed for a budget."""
    image_tokens: PositiveInt = 4096
    """The most tokens an image can cost; what a budget sets aside."""

    @model_validator(mode="after")
    def _address(self) -> "OpenAIModel":
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url must begin with http:// or https://, but is '{self.base_url}'")
        if "@" in self.base_url.split("//", 1)[1].split("/", 1)[0]:
            raise ValueError("base_url carries a user or password: name the key's environment variable in api_key_env")
        if self.base_url.rstrip("/").endswith("/chat/completions"):
            raise ValueError("base_url must end before /chat/completions")
        for name in self.parameters:
            if name in {"model", "messages", "stream", "n", "max_tokens", "max_completion_tokens", "temperature"}:
                raise ValueError(f"parameters holds '{name}', which chiron sets itself")
        for name in self.headers:
            if name.lower() in {"authorization", "api-key", "x-api-key"}:
                raise ValueError(f"header '{name}' carries a key: name its environment variable in api_key_env")
        return self


class OfflineModel(Strict):
    """An embedded baseline that needs nothing: no endpoint, no weights."""

    provider: Literal["offline"]
    model: str
    """For example ``extractive/findings-first``; ``chiron init offline`` writes them all."""


ModelConfig = Annotated[OpenAIModel | OfflineModel, Field(discriminator="provider")]


def max_tokens_of(config: "OpenAIModel | OfflineModel", role_limit: int) -> int:
    """The token limit for a role's calls to this model."""
    own = config.max_tokens if isinstance(config, OpenAIModel) else None
    return own if own is not None else role_limit


def prompt_file(path: str, beside: Path) -> Path:
    """A path in a configuration file, relative to that file."""
    return path_ if (path_ := Path(path).expanduser()).is_absolute() else beside / path_
