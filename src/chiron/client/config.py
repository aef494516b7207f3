"""Validated model configuration. It never contains keys, only the names of environment variables."""

import json
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from chiron.cases.case import IMAGE_MARK
from chiron.client.config_checks import (
    check_base_url,
    check_batch_parameters,
    check_header_name,
    check_headers,
    check_images_url,
    check_variable,
)
from chiron.errors import InputError

_LARGEST = 2**53
"""Limit for numbers in a configuration. Above it, floats cannot represent every integer."""


class Strict(BaseModel):
    """Base of all configuration sections: unknown keys are errors, values are immutable, numbers are finite and not booleans."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _numbers_are_numbers(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        # Mark the value instead of raising: an error in one field must not hide errors in others.
        return {key: _marked(value, cls.model_fields[key].annotation) if key in cls.model_fields else value for key, value in data.items()}


class ProviderConfig(Strict):
    """Base of the configuration of a model, an entry under ``models``. The subclass of each provider narrows ``provider`` to its name."""

    provider: str

    def token_limit(self, role_limit: int) -> int:
        """Return the token limit for a role's calls: the model's own ``max_tokens``, if its provider has that setting."""
        own: int | None = getattr(self, "max_tokens", None)
        return own if own is not None else role_limit

    def lacks_price(self) -> bool:
        """Return whether calls cost money and the price is not configured. A budget is then not possible."""
        return False

    def with_paths_from(self, folder: Path) -> Self:
        """Return the configuration with relative paths resolved against the folder of the configuration file.

        Raises:
            InputError: a path is invalid; the message starts with the name of the setting.
        """
        del folder
        return self

    def for_workers(self, workers: int) -> Self:
        """Return the configuration of one of several processes that share the model's limits."""
        del workers
        return self


@dataclass(frozen=True)
class Refused:
    """Placeholder for a rejected value; validation of its field then fails."""

    why: str


def _marked(value: Any, annotation: Any) -> Any:
    """Replace a value, or each value of a list, that is a boolean or too large where a number is required."""
    if isinstance(value, list | tuple):
        return [_marked(one, annotation) for one in value]
    kinds = _kinds(annotation)
    if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
        # YAML reads yes, no, on and off as booleans, and Python treats booleans as 1 and 0.
        return Refused("must be a number, not true or false (YAML reads yes, no, on and off as those)")
    if isinstance(value, int) and abs(value) > _LARGEST and kinds & {int, float}:
        return Refused("is too large")
    return value


def _kinds(annotation: Any) -> set[Any]:
    """Return every plain type in an annotation."""
    inner = get_args(annotation)
    return {annotation} if not inner else set().union(*(_kinds(a) for a in inner))


def _system_text(text: str) -> str:
    if not text.strip() or IMAGE_MARK in text:
        raise ValueError(
            f"system must be internvl2_5 or the text of a system message, without {IMAGE_MARK} marks; omit it for no system message"
        )
    return text


SystemText = Annotated[str, AfterValidator(_system_text)]
"""``internvl2_5``, the text of a system message, or ``none``."""


class Price(Strict):
    """Price in USD per million tokens."""

    input: Annotated[float, Field(ge=0)]
    output: Annotated[float, Field(ge=0)]
    cached_input: Annotated[float | None, Field(ge=0)] = None
    """Price of prompt tokens that the endpoint reports as cached; by default the price of ``input``."""

    @property
    def cache_discount(self) -> float:
        """What a million cached tokens cost less than others."""
        return 0.0 if self.cached_input is None else self.input - self.cached_input


class ServedCheckpoint(Strict):
    """An InternVL checkpoint served by an endpoint, and how its training images were tiled."""

    max_tiles: PositiveInt = 6
    """For all images of a request together, or per image; thumbnails are not counted."""
    max_tiles_per: Literal["row", "image"] = "row"
    layout: Literal["hf", "internvl_chat"] = "hf"
    """Format of the served checkpoint: as written by ``chiron train`` and ``chiron convert``, or the authors' own."""


class ImageLinks(Strict):
    """Images as files in a folder that the user publishes."""

    folder: str
    """Folder that the images are written to, relative to the configuration file."""
    url: str
    """Address under which the provider reads the folder."""

    @model_validator(mode="after")
    def _address(self) -> Self:
        check_images_url(self.url)
        return self


BatchForm = Literal["openai", "anthropic", "gemini"]


class BatchSettings(Strict):
    """How a model is asked through batches: the provider's batch API, or files for vLLM's ``run-batch``."""

    form: BatchForm | None = None
    """The batch API of the endpoint. Default: ``anthropic`` and ``gemini`` at their own addresses, elsewhere ``openai``."""
    parameters: dict[str, Any] | None = None
    """Sent with every request of a batch in place of the model's ``parameters``, in the words of the batch API."""
    images: Literal["inline", "file"] | ImageLinks = "inline"
    """How requests contain their images: their bytes, the IDs of files that are uploaded once (``anthropic``, ``gemini``), or links."""
    files: str | None = None
    """Folder for files that ``vllm run-batch`` reads and writes, relative to the configuration file. Default: the endpoint's batch API."""
    price_factor: Annotated[float, Field(gt=0, le=1)] | None = None
    """Price of a call in a batch, as a fraction of ``price``. Default: 0.5 at OpenAI, Azure, Anthropic and Gemini, elsewhere 1."""
    max_requests: PositiveInt | None = None
    """Most requests of one batch. Default: 100,000 for ``anthropic``, else 50,000."""
    max_megabytes: PositiveFloat | None = None
    """Most megabytes (10^6 bytes) of the requests of one batch. Default: 256 for ``anthropic``, 2,000 for ``gemini``, else 200."""
    quiet: PositiveFloat = 2.0
    """Seconds without a new call before a batch is sent, once everything waits."""
    poll: PositiveFloat = 60.0
    """Seconds between two questions for the state of a batch."""
    attempts: PositiveInt = 3
    """Batches that a call may fail in before the call fails. Mentors get twice as many."""
    outage: PositiveFloat = 3600.0
    """Seconds of failed requests for batches before the run stops."""
    url: str = "/v1/chat/completions"
    """Address of the requests within a batch, as the provider names it."""
    window: str = "24h"
    """``completion_window`` of the batches."""

    def resolved(self, host: str) -> "ResolvedBatches":
        """Return the settings with the defaults of the batch API at an address."""
        form: BatchForm = self.form or (_FORM_OF_HOST.get(host, "openai") if self.files is None else "openai")
        requests, megabytes = self.max_requests or _LIMITS[form][0], self.max_megabytes or _LIMITS[form][1]
        return ResolvedBatches(**{**dict(self), "form": form, "max_requests": requests, "max_megabytes": megabytes})


class ResolvedBatches(BatchSettings):
    """Settings of batches without open defaults."""

    form: BatchForm
    max_requests: PositiveInt
    max_megabytes: PositiveFloat


_FORM_OF_HOST: Mapping[str, BatchForm] = {"api.anthropic.com": "anthropic", "generativelanguage.googleapis.com": "gemini"}
_LIMITS: Mapping[BatchForm, tuple[int, float]] = {"openai": (50_000, 200.0), "anthropic": (100_000, 256.0), "gemini": (50_000, 2000.0)}
"""Most requests and megabytes of one batch, as the providers document them. Gemini documents no number of requests."""
_HALF_PRICE = re.compile(r"(?:api\.openai\.com|[\w.-]+\.openai\.azure\.com|api\.anthropic\.com|generativelanguage\.googleapis\.com)")
"""Hosts whose batches are known to cost half."""


class OpenAIModel(ProviderConfig):
    """A model behind any OpenAI-compatible endpoint."""

    provider: Literal["openai"]
    base_url: str = ""
    """Up to and including ``/v1`` or similar, without ``/chat/completions``; may end with Azure's ``?api-version=...``. Only models with
    ``batch: {files: ...}`` need none.
    """
    model: str
    """The endpoint's own name for the model."""
    api_key_env: str | None = None
    """Environment variable that contains the key; most local endpoints need none."""
    api_key_header: str | None = None
    """Header that carries the key, for example ``api-key`` (Azure). Default: ``Authorization: Bearer ...``."""
    concurrency: PositiveInt = 32
    """Maximum number of concurrent calls; lower while the endpoint limits the rate."""
    requests_per_minute: PositiveFloat | None = None
    timeout: PositiveFloat = 120.0
    """Seconds per attempt."""
    attempts: PositiveInt = 10
    """Failed attempts per call, while other calls succeed, before the call fails. Mentors get twice as many."""
    deadline: PositiveFloat = 900.0
    """Seconds per call, including all attempts and waits."""
    outage: PositiveFloat = 900.0
    """Seconds without any answer from the endpoint before the run stops; its calls wait meanwhile."""
    max_tokens: PositiveInt | None = None
    """Overrides the role's token limit; thinking models need a higher one."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """The endpoint's name for the token limit; newer OpenAI models require the second."""
    temperature: bool = True
    """Whether to send a temperature; some thinking models reject one."""
    system_role: Literal["system", "user"] = "system"
    """``user``: put the system text before the first user turn, for servers and templates without a system role."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Sent unchanged with every call, for example ``{reasoning_effort: low}``."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Sent with every call. Not for keys, which belong in ``api_key_env`` and ``api_key_header``."""
    revision: str | None = None
    """Distinguishes two models with the same name, so that a replay does not mix up their replies."""
    serves: ServedCheckpoint | None = None
    """Set this if vLLM serves a checkpoint made by ``chiron train``. Images are then tiled and placed as in its training."""
    price: Price | None = None
    """Required for a budget."""
    image_tokens: PositiveInt = 4096
    """Maximum tokens per image, used to reserve budget."""
    batch: bool | BatchSettings = False
    """Whether jobs ask the model through batches, which take hours and cost less; or the settings of the batches."""

    @property
    def batches(self) -> ResolvedBatches | None:
        """Settings of the batches; ``None`` if calls are sent at once."""
        settings = self.batch if isinstance(self.batch, BatchSettings) else BatchSettings() if self.batch else None
        return None if settings is None else settings.resolved(urllib.parse.urlsplit(self.base_url).hostname or "")

    @property
    def call_price(self) -> Price | None:
        """Price of the calls of jobs: lower in batches."""
        settings = self.batches
        if self.price is None or settings is None:
            return self.price
        half = settings.files is None and _HALF_PRICE.fullmatch(urllib.parse.urlsplit(self.base_url).hostname or "")
        factor = settings.price_factor or (0.5 if half else 1.0)
        return Price(input=factor * self.price.input, output=factor * self.price.output)

    def lacks_price(self) -> bool:
        return self.price is None

    @model_validator(mode="after")
    def _address(self) -> "OpenAIModel":
        settings = self.batches
        if self.base_url or settings is None or settings.files is None:
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
                raise ValueError(f"parameters contains '{name}', which chiron sets itself: remove it")
        if settings is not None:
            _check_batch_form(self, settings)
        if self.serves is not None and "mm_processor_kwargs" in self.parameters:
            raise ValueError("parameters contains 'mm_processor_kwargs', which serves also sets: remove one of them")
        try:
            json.dumps([self.parameters, settings and settings.parameters], allow_nan=False, sort_keys=True)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"parameters cannot be sent as JSON: {error}; quote dates") from None
        return self

    def with_paths_from(self, folder: Path) -> Self:
        if not isinstance(self.batch, BatchSettings):
            return self
        files, images = self.batch.files, self.batch.images
        try:
            files = files and str(prompt_file(files, folder))
            if isinstance(images, ImageLinks):
                images = images.model_copy(update={"folder": str(prompt_file(images.folder, folder))})
        except InputError as error:
            raise InputError(f"batch: {error}") from error
        return self.model_copy(update={"batch": self.batch.model_copy(update={"files": files, "images": images})})

    def for_workers(self, workers: int) -> Self:
        """Divide the limits; each process may send at least one call at a time.

        Raises:
            InputError: the model is asked through batches, which one process has to send and collect.
        """
        if self.batches is not None:
            raise InputError(
                f"model '{self.model}' has 'batch', which needs --engine local: batches already run on the provider's machines"
            )
        per_minute = None if self.requests_per_minute is None else self.requests_per_minute / workers
        return self.model_copy(update={"concurrency": max(1, self.concurrency // workers), "requests_per_minute": per_minute})


def _check_batch_form(model: OpenAIModel, settings: ResolvedBatches) -> None:
    """Raise a ValueError with the fix if a model's settings cannot be expressed in the form of its batch API."""
    if settings.form == "openai":
        if settings.parameters is not None:
            raise ValueError("batch.parameters is for the forms anthropic and gemini: write them to the model's parameters")
        if settings.images == "file":
            raise ValueError("batch.images: chat completions take no IDs of files: write links, as {folder: ..., url: ...}, or inline")
        return
    if settings.files is not None or model.serves is not None:
        raise ValueError(f"batch.form {settings.form} goes neither with batch.files nor with serves: remove one of them")
    if settings.form == "gemini" and model.parameters and settings.parameters is None:
        example = "{generationConfig: {thinkingConfig: {thinkingBudget: 1024}}}"
        raise ValueError(f"parameters are in OpenAI's words, not in Gemini's: write batch.parameters as well, for example {example}")
    check_batch_parameters(settings.parameters or {})


class OfflineModel(ProviderConfig):
    """An embedded baseline, without endpoint or weights."""

    provider: Literal["offline"]
    model: str
    """For example ``extractive/findings-first``; ``chiron init offline`` writes all of them."""


class LocalModel(ProviderConfig):
    """An InternVL or Qwen-VL checkpoint that runs in this process; requires the extra ``train``."""

    provider: Literal["local"]
    path: str
    """The checkpoint's folder (``config.json``, ``tokenizer.json``, safetensors), relative to the configuration file."""
    batch: PositiveInt = 32
    """Maximum number of calls per batch."""
    max_tokens: PositiveInt | None = None
    """Overrides the role's token limit."""
    max_tiles: PositiveInt | None = None
    """InternVL: tiles of all images of a call together, or per image; thumbnails are not counted. Default: the checkpoint's setting, else
    6.
    """
    max_tiles_per: Literal["row", "image"] | None = None
    """InternVL: unit that ``max_tiles`` applies to. Default: the checkpoint's setting, else ``row`` (all images of a call)."""
    thumbnail: bool | None = None
    """InternVL: whether an image with several tiles is also shown as a whole. Default: the checkpoint's setting, else yes."""
    system: SystemText | None = None
    """System message for calls without one: ``internvl2_5``, a text, or ``none``. Default: the checkpoint's setting, else that of the
    family's published template.
    """
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto``: a GPU if there is one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """``auto``: bf16 on a GPU, fp32 elsewhere."""

    def with_paths_from(self, folder: Path) -> Self:
        try:
            return self.model_copy(update={"path": str(prompt_file(self.path, folder))})
        except InputError as error:
            raise InputError(f"path: {error}") from error


if TYPE_CHECKING:
    ModelConfig = ProviderConfig
else:
    ModelConfig = Annotated[OpenAIModel | OfflineModel | LocalModel, Field(discriminator="provider")]
    """Configuration of a built-in provider. :mod:`chiron.client.config_file` adds those of other packages."""


def prompt_file(path: str, beside: Path) -> Path:
    """Resolve a path from a configuration file, relative to that file.

    Raises:
        InputError: the path is invalid, or starts with the home directory of an unknown user.
    """
    try:
        expanded = Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"'{path[:200]}' cannot be used as a path ({error}): write it in full") from error
    if not path.isprintable():
        raise InputError(f"{path[:200]!r} is not a path (it contains an invisible character): type it again")
    return expanded if expanded.is_absolute() else beside / expanded
