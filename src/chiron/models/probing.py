"""Looking an endpoint over before a run: key, address, model list, and one small question with an image."""

import io
import json
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from PIL import Image

from chiron.errors import InputError
from chiron.models.assembly import build_endpoint
from chiron.models.call import Call, Message, Picture, Text
from chiron.models.config import LocalModel, ModelConfig, OpenAIModel
from chiron.models.failures import CallFailed, one_line
from chiron.models.local.provider import Local
from chiron.models.offline.catalogue import Catalogue
from chiron.models.openai_compatible import OpenAICompatible
from chiron.models.pictures import PictureStore
from chiron.models.provider import Provider
from chiron.models.served import serving_note


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    model: str
    what: str
    """``key``, ``endpoint``, ``listed``, ``tiles``, ``checkpoint``, ``image``, ``text`` or ``embedded``."""
    ok: bool | None
    """``None``: could not be told, which is no fault."""
    detail: str


async def probe(
    name: str, config: ModelConfig, *, ask: bool, needs_image: bool, catalogue: Callable[[], Catalogue] = lambda: Catalogue(())
) -> AsyncIterator[Finding]:
    """Findings on one model, each as soon as it is there.

    ``ask`` sends one tiny call, which may cost a fraction of a cent, or the time to load a checkpoint.
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
        if ask:
            try:
                yield await _question(name, provider, pictures, needs_image=needs_image)
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
        if ask and reached:
            yield await _question(name, provider, pictures, needs_image=needs_image, limit=config.max_tokens or 16)
    finally:
        await provider.close()


def _asked_as(provider: Local) -> str:
    return f"; asked with {provider.asked_as.describe()}" if provider.checkpoint.model_type == "internvl" else ""


async def _listing(provider: OpenAICompatible, config: OpenAIModel) -> AsyncIterator[Finding]:
    try:
        status, text = await provider.get("/models")
    except CallFailed as failure:
        yield Finding(provider.name, "endpoint", ok=False, detail=str(failure))
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


async def _question(name: str, provider: Provider, pictures: PictureStore, *, needs_image: bool, limit: int = 16) -> Finding:
    what = "image" if needs_image else "text"
    with tempfile.TemporaryDirectory() as folder:
        parts: tuple[Text | Picture, ...] = (Text("Reply with the single word: ready"),)
        if needs_image:
            parts = (_red_square(pictures, Path(folder)), Text("Which colour is this square? One word."))
        call = Call("intern", name, provider.identity, (Message("user", parts),), 0.0, limit)
        try:
            reply = await provider.complete(call)
        except CallFailed as failure:
            return Finding(name, what, ok=False, detail=str(failure))
    answer = one_line(reply.text, 60).strip() or "(nothing within the token limit)"
    return Finding(name, what, ok=True, detail=f"answered in {reply.seconds:.1f} s: {answer}")


def _red_square(pictures: PictureStore, folder: Path) -> Picture:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (220, 20, 20)).save(buffer, "PNG")
    path = folder / "square.png"
    path.write_bytes(buffer.getvalue())
    digest = sha256(buffer.getvalue()).hexdigest()
    pictures.add(digest, path)
    return Picture(digest, 64)
