"""Check an endpoint before a run: key, address, model list, and one small call in the form that each role sends."""

import io
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from PIL import Image

from chiron.cases.textbook import AnswerPool
from chiron.client.call import Call, ImagePart, Message, Provider, TextPart
from chiron.client.config import ProviderConfig
from chiron.client.failures import CallFailed, one_line
from chiron.client.finish_reasons import MORE_SPACE, finish_note
from chiron.client.images import PictureStore
from chiron.client.provider import Finding
from chiron.errors import InputError
from chiron.providers.registry import build_endpoint, provider_type


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
    name: str, config: ProviderConfig, roles: Sequence[RoleCall], *, answers: Callable[[], AnswerPool] = lambda: AnswerPool(())
) -> AsyncIterator[Finding]:
    """Check one model and yield each finding as soon as it is available.

    Each of ``roles`` gets one small call. It may cost a fraction of a cent, or the time to load a checkpoint.
    """
    pictures = PictureStore()
    kind = provider_type(config)
    try:
        endpoint = build_endpoint(name, config, pictures=pictures, answers=answers)
    except InputError as error:
        yield Finding(name, kind.first_check, ok=False, detail=str(error))
        return
    try:
        sound = True
        async for finding in kind.check(name, config, endpoint):
            sound = sound and finding.ok is not False
            yield finding
        for role in roles if sound and kind.asks else ():
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
