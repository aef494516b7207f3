"""Requests to an endpoint that serves an InternVL checkpoint, with the same tiling and text as in the provider ``local``."""

from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from chiron.client.call import ImagePart, Message, TextPart
from chiron.client.config import OpenAIModel, ServedCheckpoint
from chiron.client.prompts import texts_between
from chiron.errors import InputError
from chiron.providers.local.checkpoint import FORMAT_FILE, read_format
from chiron.providers.local.tiling import Tiling, tile_budget

_KEYS = {"hf": "max_patches", "internvl_chat": "max_dynamic_patch"}
"""Name of the image processor's maximum tiles per image, by layout."""


def processor_arguments(served: ServedCheckpoint, images: int) -> dict[str, Any]:
    """Return ``mm_processor_kwargs`` for a request with ``images`` images: the maximum tiles of each."""
    tiling = Tiling(max_tiles=served.max_tiles, per_image=served.max_tiles_per == "image")
    return {_KEYS[served.layout]: tile_budget(images, tiling)}


def as_trained(message: Message) -> Message:
    """Add the line breaks next to images that training used, because chiron's own chat template adds none."""
    pictures = [part for part in message.parts if isinstance(part, ImagePart)]
    if not pictures:
        return Message(message.role, tuple(map(TextPart, texts_between(message, "\n"))))
    parts = [
        part
        for text, picture in zip_longest(texts_between(message, "\n"), pictures)
        for part in (TextPart(text) if text else None, picture)
        if part is not None
    ]
    return Message(message.role, tuple(parts), inline=True)


def serving_note(config: OpenAIModel, listed: Mapping[str, Any]) -> str:
    """Return a note for ``chiron doctor`` if an endpoint serves an InternVL checkpoint without a matching ``serves`` entry, else an empty
    string.

    Args:
        config: the model's entry.
        listed: the model as listed by the endpoint; vLLM gives its folder in ``root``.
    """
    place = str(listed.get("root") or listed.get("id") or config.model)
    folder = Path(place)
    try:
        known = read_format(folder) if place.isprintable() and (folder / FORMAT_FILE).is_file() else None
    except (InputError, OSError, ValueError):
        known = None
    wanted = "" if known is None else f"serves: {{max_tiles: {known.max_tiles}, max_tiles_per: {known.max_tiles_per}}}"
    if config.serves is None and known is not None:
        return f"it serves a checkpoint that chiron trained, and cuts several images differently from training: add {wanted}"
    if config.serves is None and any(name in f"{place} {config.model}".lower() for name in ("internvl", "chiron")):
        return "it seems to serve InternVL; if 'chiron train' made the checkpoint, add serves: {max_tiles: ...} as its model card says"
    configured = config.serves and (config.serves.max_tiles, config.serves.max_tiles_per)
    if known is not None and configured != (known.max_tiles, known.max_tiles_per):
        return f"the checkpoint was trained otherwise than serves says: write {wanted}"
    return ""
