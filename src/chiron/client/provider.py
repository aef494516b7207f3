"""Configured models and their kinds. Other packages add theirs through the entry-point group ``chiron.providers``."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar, get_args

from chiron.cases.reader import AnswerPool
from chiron.client.attempts import RetryPolicy
from chiron.client.batch import BatchQueue
from chiron.client.call import Call, ImagePart, Provider, Reply, TextPart
from chiron.client.config import LocalModel, OfflineModel, OpenAIModel, Price, ProviderConfig
from chiron.client.images import PictureStore
from chiron.client.limiter import Limiter
from chiron.errors import InputError
from chiron.plugins import load, plugins

GROUP = "chiron.providers"
"""Entry-point group. An entry point names an instance of :class:`ProviderType`."""
BUILT_IN: Mapping[str, type[ProviderConfig]] = {"openai": OpenAIModel, "offline": OfflineModel, "local": LocalModel}
"""Configuration of each built-in provider. :mod:`chiron.providers.registry` has their types."""
C = TypeVar("C", bound=ProviderConfig)


@dataclass
class Endpoint:
    """One configured model: its provider, limiter, price and state."""

    provider: Provider
    limiter: Limiter
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    price: Price | None = None
    image_tokens: int = 4096
    batch: BatchQueue | None = None
    """Answers the calls of jobs instead of ``provider``."""
    has_answered: bool = False
    failed_in_a_row: int = 0
    cost_overrun: float = 1.0
    """Largest ratio of a reply's actual cost to :meth:`max_cost`. Later cost limits are multiplied by it, also after a resume."""

    @property
    def can_be_asked(self) -> bool:
        """Whether ``provider`` answers calls at once, which files for another program do not."""
        return self.batch is None or self.batch.service.is_online

    def max_cost(self, call: Call) -> float:
        """Maximum cost of a call in USD."""
        if self.price is None:
            return 0.0
        return self.cost_overrun * (self.max_prompt_tokens(call) * self.price.input + call.max_tokens * self.price.output) / 1e6

    def max_prompt_tokens(self, call: Call) -> int:
        """Maximum number of tokens of a prompt.

        A token has at least one byte of UTF-8, so the byte count limits the text's tokens. Images count as ``image_tokens`` each.
        """
        parts = [part for message in call.messages for part in message.parts]
        text = sum(len(p.text.encode("utf-8", "surrogatepass")) for p in parts if isinstance(p, TextPart))
        pictures = sum(isinstance(p, ImagePart) for p in parts)
        return text + pictures * self.image_tokens + 16 * (len(call.messages) + 1)

    @property
    def pricing_key(self) -> str:
        """Key under which ``cost_overrun`` is stored. It contains the price and image tokens, so changing either resets the overrun."""
        price = "" if self.price is None else f" at {self.price.input:g}/{self.price.output:g}"
        return f"{self.provider.identity}{price}, {self.image_tokens} an image"

    def cost(self, call: Call, reply: Reply) -> float | None:
        """Cost of a reply in USD; ``None`` without a price.

        Returns :meth:`max_cost` if the endpoint does not report token counts.
        """
        if self.price is None:
            return None
        prompt, completion = reply.usage.prompt_tokens, reply.usage.completion_tokens
        if prompt is None or completion is None:
            return self.max_cost(call)
        cached = reply.usage.cached_tokens or 0
        return (prompt * self.price.input + completion * self.price.output - cached * self.price.cache_discount) / 1e6


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check of a configured model."""

    model: str
    what: str
    """What was checked: ``key``, ``endpoint``, ``listed``, ``tiles``, ``checkpoint``, ``image``, ``text``, ``embedded``, and so on."""
    ok: bool | None
    """``None``: unknown, which is not a failure."""
    detail: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a streamed reply."""

    text: str
    reply: Reply | None = None
    """The whole reply, in the last piece only."""


@dataclass(frozen=True, slots=True)
class BuildContext:
    """What a provider may need in addition to its configuration."""

    pictures: PictureStore
    answers: Callable[[], AnswerPool] = lambda: AnswerPool(())
    """Creates the pool of known answers, from which embedded baselines choose. Called only if one needs it."""
    need_keys: bool = True
    """Whether a missing key is an error; a replay sends nothing and needs none."""


class ProviderType(Generic[C]):
    """One kind of model: how it is configured, created, checked and streamed. Subclasses define at least ``config`` and :meth:`build`."""

    config: type[C]
    """Its section under ``models``. The field ``provider`` must be ``Literal["NAME"]``, where NAME is the name of the provider."""
    first_check: ClassVar[str] = "key"
    """Name of the :class:`Finding` for an endpoint that cannot be created."""
    asks: ClassVar[bool] = True
    """Whether ``chiron doctor`` sends the model a small call for each role."""

    def build(self, name: str, config: C, context: BuildContext) -> Endpoint:
        """Create the endpoint of one configured model.

        Raises:
            InputError: a key or file is missing, or a value does not exist.
        """
        raise NotImplementedError

    def build_all(self, models: Mapping[str, C], context: BuildContext) -> dict[str, Endpoint]:
        """Create the endpoints of all models of this kind, by name. Override it if some of them share a limiter or a loaded model."""
        return {name: self.build(name, config, context) for name, config in models.items()}

    async def check(self, name: str, config: C, endpoint: Endpoint) -> AsyncIterator[Finding]:
        """Check a model without a call to it, for ``chiron doctor``. A finding that failed ends the check."""
        del config
        yield Finding(name, "model", ok=True, detail=endpoint.provider.identity)

    async def stream(self, endpoint: Endpoint, call: Call) -> AsyncIterator[Piece]:
        """Yield the pieces of a reply as they arrive; the last one contains the whole reply. By default, one piece.

        Raises:
            CallFailed: the model gave no answer.
        """
        reply = await endpoint.provider.complete(call)
        yield Piece(reply.text, reply)


def load_provider(name: str) -> ProviderType[Any]:
    """Load the provider of another package.

    Raises:
        InputError: it is not installed, or is not a usable provider.
    """
    found: ProviderType[Any] = load(GROUP, name, ProviderType)
    config = getattr(found, "config", None)
    if not isinstance(config, type) or not issubclass(config, ProviderConfig):
        raise InputError(f"plug-in '{name}' (group {GROUP}) has no subclass of ProviderConfig as its config: update or uninstall it")
    if get_args(config.model_fields["provider"].annotation) != (name,):
        raise InputError(f"plug-in '{name}' (group {GROUP}): its config must have the field provider: Literal['{name}']")
    return found


def config_types(named: Iterable[str]) -> dict[str, type[ProviderConfig]]:
    """Return the configuration classes of the built-in providers, and of those named that another package provides.

    Raises:
        InputError: a named provider cannot be loaded, or a package uses the name of a built-in provider.
    """
    others = plugins(GROUP, BUILT_IN)
    return {**BUILT_IN, **{name: load_provider(name).config for name in named if name in others}}
