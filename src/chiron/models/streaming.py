"""A reply as it is written: server-sent events of an OpenAI-compatible endpoint."""

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from chiron.models.call import Call
from chiron.models.failures import Transient
from chiron.models.openai_compatible import OpenAICompatible
from chiron.models.reading import classify_status, read_reply

_MAX_LINE = 2**20
_MAX_TEXT = 32 * 2**20


async def stream(provider: OpenAICompatible, call: Call) -> AsyncIterator[str]:
    """The pieces of the reply, as they arrive. An endpoint that does not stream gives it in one piece.

    Raises:
        CallFailed: in one of its three classes; what came before it was written all the same.
    """
    url, body, session, origin = await provider.streaming(call)
    with provider.sorting_errors():
        async with session.post(url, data=body, headers={"Content-Type": "application/json"}, allow_redirects=False) as response:
            if response.status != 200:
                raise classify_status(response.status, response.headers, await _bounded(response), origin)
            if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
                yield read_reply(await _bounded(response), 0.0, origin).text
                return
            written = 0
            async for event in _events(response):
                piece = _piece(event, provider.name)
                written += len(piece)
                if written > _MAX_TEXT:
                    raise Transient(f"{provider.name} writes without end", maybe_billed=True)
                if piece:
                    yield piece
    if not written:
        raise Transient(f"{provider.name} sent an empty reply", maybe_billed=True)


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[Any]:
    """The JSON after each ``data:``, up to ``[DONE]`` or the end."""
    rest = b""
    async for chunk in response.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > _MAX_LINE:
            raise Transient("an event of the stream is longer than any is", maybe_billed=True)
        for line in lines:
            if not line.startswith(b"data:"):
                continue  # comments and other fields keep the connection alive
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            try:
                yield json.loads(data)
            except (ValueError, RecursionError) as error:
                raise Transient("an event of the stream is no JSON", maybe_billed=True) from error


def _piece(event: Any, name: str) -> str:
    if isinstance(event, dict) and event.get("error"):
        raise Transient(f"{name} broke off with an error", maybe_billed=True)
    try:
        content = event["choices"][0]["delta"].get("content")
    except (KeyError, IndexError, TypeError, AttributeError):
        return ""  # the last event often tells of tokens only
    return content.encode("utf-8", "replace").decode() if isinstance(content, str) else ""


async def _bounded(response: aiohttp.ClientResponse) -> str:
    raw = await response.content.read(_MAX_TEXT + 1)
    if len(raw) > _MAX_TEXT:
        raise Transient("the reply is longer than any is", maybe_billed=True)
    return raw.decode("utf-8", "replace")
