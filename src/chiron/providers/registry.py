"""All providers: build the endpoints of a model client, and check them before a run."""

import io
import pkgutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from PIL import Image

from chiron.cases.reader import AnswerPool
from chiron.client.call import MORE_SPACE, Call, ImagePart, Message, Provider, TextPart, finish_note
from chiron.client.config import ProviderConfig
from chiron.client.failures import CallFailed, one_line
from chiron.client.images import PictureStore
from chiron.client.provider import BUILT_IN, GROUP, BuildContext, Endpoint, Finding, ProviderType, load_provider
from chiron.errors import InputError
from chiron.plugins import plugins

_BUILT_IN = {
    "openai": "chiron.providers.openai_provider:OpenAIProvider",
    "offline": "chiron.providers.baselines.provider:OfflineProvider",
    "local": "chiron.providers.local.provider:LocalProvider",
}
"""Only those of the configured models are imported, since the last two import numpy and more."""


@cache
def _built_in(name: str) -> ProviderType[Any]:
    found: ProviderType[Any] = pkgutil.resolve_name(_BUILT_IN[name])()
    return found


def provider_type(config: ProviderConfig) -> ProviderType[Any]:
    """Return the provider of a configured model.

    Raises:
        InputError: another package provides it, and it cannot be loaded; or a package uses the name of a built-in provider.
    """
    plugins(GROUP, BUILT_IN)  # refuses a plug-in that a built-in provider would hide
    return _built_in(config.provider) if config.provider in BUILT_IN else load_provider(config.provider)


def build_endpoint(name: str, config: ProviderConfig, *, pictures: PictureStore, answers: Callable[[], AnswerPool]) -> Endpoint:
    """Create the endpoint of one configured model. ``answers`` is called only if an embedded model needs it.

    Raises:
        InputError: a key is missing, or the model does not exist.
    """
    return provider_type(config).build(name, config, BuildContext(pictures, answers))


def build_endpoints(
    models: Mapping[str, ProviderConfig], *, pictures: PictureStore, answers: Callable[[], AnswerPool], need_keys: bool = True
) -> dict[str, Endpoint]:
    """Create the endpoints of all configured models, by name and in the order of ``models``.

    Raises:
        InputError: as in :func:`build_endpoint`.
    """
    context = BuildContext(pictures, answers, need_keys)
    built: dict[str, Endpoint] = {}
    for provider in dict.fromkeys(config.provider for config in models.values()):
        own = {name: config for name, config in models.items() if config.provider == provider}
        built |= provider_type(next(iter(own.values()))).build_all(own, context)
    return {name: built[name] for name in models}


@dataclass(frozen=True, slots=True)
class RoleCall:
    role: str
    images: int
    max_tokens: int
    """The role's limit; the model's own limit overrides it."""
    system: bool
    """Whether the call starts with a system turn."""
    temperature: float


async def probe(name: str, config: ProviderConfig, roles: Sequence[RoleCall]) -> AsyncIterator[Finding]:
    """Check one model and yield each finding as soon as it is available.

    Each of ``roles`` gets one small call. It may cost a fraction of a cent, or the time to load a checkpoint.
    """
    pictures = PictureStore()
    kind = provider_type(config)
    try:
        endpoint = build_endpoint(name, config, pictures=pictures, answers=lambda: AnswerPool(()))
    except InputError as error:
        yield Finding(name, kind.first_check, ok=False, detail=str(error))
        return
    try:
        sound = True
        async for finding in kind.check(name, config, endpoint):
            sound = sound and finding.ok is not False
            yield finding
        for role in roles if sound and kind.asks and endpoint.can_be_asked else ():
            yield await _question(name, config, endpoint.provider, pictures, role)
    finally:
        await endpoint.provider.close()


async def _question(name: str, config: ProviderConfig, provider: Provider, pictures: PictureStore, asked: RoleCall) -> Finding:
    what = "image" if asked.images else "text"
    system = (Message("system", (TextPart("You answer in one word."),)),) if asked.system else ()
    with tempfile.TemporaryDirectory() as folder:
        parts: tuple[TextPart | ImagePart, ...] = (TextPart("Reply with the single word: yes"),)
        if asked.images:
            squares = [_square(pictures, Path(folder), number) for number in range(asked.images)]
            parts = (*squares, TextPart("Which color is the first square? One word."))
        limit = config.token_limit(asked.max_tokens)
        call = Call(asked.role, name, provider.identity, (*system, Message("user", parts)), asked.temperature, limit)
        try:
            reply = await provider.complete(call)
        except CallFailed as failure:
            return Finding(name, what, ok=False, detail=f"as {asked.role}: {failure.public}")
    if reply.only_thinking or not reply.text.strip():
        why = "only thinking" if reply.only_thinking else "no text"
        return Finding(name, what, ok=False, detail=f"as {asked.role}: {why} within {limit} tokens: {MORE_SPACE}")
    detail = f"as {asked.role}: answered in {reply.seconds:.1f} s: {one_line(reply.text, 60).strip()}"
    if note := finish_note(reply.finish):
        return Finding(name, what, ok=None, detail=f"{detail} ({note})")
    return Finding(name, what, ok=True, detail=detail)


def _square(pictures: PictureStore, folder: Path, number: int) -> ImagePart:
    """Create a square image: red for even numbers, blue for odd ones."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), ((220, 20, 20), (20, 20, 220))[number % 2]).save(buffer, "PNG")
    path = folder / f"square{number}.png"
    path.write_bytes(buffer.getvalue())
    digest = sha256(buffer.getvalue()).hexdigest()
    pictures.add(digest, path)
    return ImagePart(digest, 64)
