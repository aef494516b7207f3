"""Check an endpoint before a run: key, address, model list, and one small call in the form that each role sends."""

import io
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from PIL import Image

from chiron.client.call import Call, ImagePart, Message, Provider, TextPart
from chiron.client.config import LocalModel, ModelConfig, OpenAIModel, max_tokens_of
from chiron.client.failures import CallFailed, one_line
from chiron.client.finish_reasons import MORE_SPACE, finish_note
from chiron.client.images import PictureStore
from chiron.errors import InputError
from chiron.providers.baselines.search_team import AnswerPool
from chiron.providers.factory import build_endpoint
from chiron.providers.local.provider import Local
from chiron.providers.openai_compatible import OpenAICompatible
from chiron.providers.served import serving_note


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check."""

    model: str
    what: str
    """``key``, ``endpoint``, ``listed``, ``tiles``, ``checkpoint``, ``image``, ``text`` or ``embedded``."""
    ok: bool | None
    """``None``: unknown, which is not a failure."""
    detail: str


@dataclass(frozen=True, slots=True)
class RoleCall:
    """Form of one role's calls."""

    role: str
    images: int
    max_tokens: int
    """The role's limit; the model's own limit overrides it."""
    system: bool
    """Whether the call starts with a system turn."""
    temperature: float


async def probe(
    name: str, config: ModelConfig, roles: Sequence[RoleCall], *, catalogue: Callable[[], AnswerPool] = lambda: AnswerPool(())
) -> AsyncIterator[Finding]:
    """Check one model and yield each finding as soon as it is available.

    Each of ``roles`` gets one small call. It may cost a fraction of a cent, or the time to load a checkpoint.
    """
    pictures = PictureStore()
    try:
        endpoint = build_endpoint(name, config, pictures=pictures, catalogue=catalogue)
    except InputError as error:
        yield Finding(name, "checkpoint" if isinstance(config, LocalModel) else "key", ok=False, detail=str(error))
        return
    provider = endpoint.provider
    if isinstance(provider, Local):
        yield Finding(name, "checkpoint", ok=True, detail=f"{provider.checkpoint.described}{_asked_as(provider)}")
        try:
            for role in roles:
                yield await _question(name, config, provider, pictures, role)
        finally:
            await provider.close()
        return
    if not isinstance(provider, OpenAICompatible) or not isinstance(config, OpenAIModel):
        yield Finding(name, "embedded", ok=True, detail=provider.identity)
        return
    if config.api_key_env:
        yield Finding(name, "key", ok=True, detail=f"{config.api_key_env} is set")
    try:
        reached = True
        async for finding in _listing(provider, config):
            reached = reached and not (finding.what == "endpoint" and finding.ok is False)
            yield finding
        for role in roles if reached else ():
            yield await _question(name, config, provider, pictures, role)
    finally:
        await provider.close()


def _asked_as(provider: Local) -> str:
    return f"; asked with {provider.asked_as.describe()}" if provider.checkpoint.model_type == "internvl" else ""


async def _listing(provider: OpenAICompatible, config: OpenAIModel) -> AsyncIterator[Finding]:
    try:
        status, text = await provider.get("/models")
    except CallFailed as failure:
        yield Finding(provider.name, "endpoint", ok=False, detail=failure.public)
        return
    if status == 404 and await _lists_models(provider, "/v1/models"):
        detail = f"{config.base_url} is not the address of the API, {config.base_url.rstrip('/')}/v1 is: add /v1 to base_url"
        yield Finding(provider.name, "endpoint", ok=False, detail=detail)
        return
    if status in {401, 403}:
        yield Finding(provider.name, "endpoint", ok=False, detail=f"{config.base_url} refuses the key (HTTP {status})")
        return
    yield Finding(provider.name, "endpoint", ok=True, detail=f"{config.base_url} answers")
    try:
        entries = json.loads(text)["data"]
        listed = [one_line(str(entry["id"]), 100) for entry in entries]
    except (ValueError, KeyError, TypeError):
        yield Finding(provider.name, "listed", ok=None, detail="it does not list its models")
        return
    mine = [entry for entry in entries if str(entry["id"]) == config.model]
    if note := serving_note(config, mine[0] if mine else {}):
        yield Finding(provider.name, "tiles", ok=None, detail=note)
    found = any(entry == config.model or entry.endswith(f"/{config.model}") for entry in listed)
    several = ", ".join(listed[:5]) + (", ..." if len(listed) > 5 else "")
    yield Finding(
        provider.name,
        "listed",
        ok=found or None,
        detail=config.model if found else f"{config.model} is not listed; listed: {several or 'none'}",
    )


async def _lists_models(provider: OpenAICompatible, path: str) -> bool:
    try:
        status, text = await provider.get(path)
        return status == 200 and isinstance(json.loads(text)["data"], list)
    except (CallFailed, ValueError, KeyError, TypeError):
        return False


async def _question(name: str, config: ModelConfig, provider: Provider, pictures: PictureStore, asked: RoleCall) -> Finding:
    what = "image" if asked.images else "text"
    system = (Message("system", (TextPart("You answer in one word."),)),) if asked.system else ()
    with tempfile.TemporaryDirectory() as folder:
        parts: tuple[TextPart | ImagePart, ...] = (TextPart("Reply with the single word: yes"),)
        if asked.images:
            squares = [_square(pictures, Path(folder), number) for number in range(asked.images)]
            parts = (*squares, TextPart("Which color is the first square? One word."))
        limit = max_tokens_of(config, asked.max_tokens)
        call = Call(asked.role, name, provider.identity, (*system, Message("user", parts)), asked.temperature, limit)
        try:
            reply = await provider.complete(call)
        except CallFailed as failure:
            return Finding(name, what, ok=False, detail=f"as {asked.role}: {failure.public}")
    if reply.only_thinking or not reply.text.strip():
        why = "nothing but thinking" if reply.only_thinking else "no text"
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
