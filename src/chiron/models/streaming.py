"""A reply as it is written: server-sent events of an OpenAI-compatible endpoint."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp

from chiron.models.call import Call
from chiron.models.failures import Transient
from chiron.models.openai_compatible import OpenAICompatible
from chiron.models.reading import classify_status, read_reply

_MAX_LINE = 2**20
_DONE = object()
"""In place of the last event."""
_MAX_TEXT = 32 * 2**20


@dataclass(frozen=True, slots=True)
class Piece:
    """Some words of a reply, as they arrived."""

    text: str
    cut_off: bool = False
    """Whether the token limit ended the reply here."""


async def stream(provider: OpenAICompatible, call: Call) -> AsyncIterator[Piece]:
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
                reply = read_reply(await _bounded(response), 0.0, origin)
                yield Piece(reply.text, reply.cut_off)
                return
            written, finish = 0, None
            async for event in _events(response):
                text, said = _piece(event, provider.name)
                finish = finish or said
                written += len(text)
                if written > _MAX_TEXT:
                    raise Transient(f"{provider.name} writes without end", maybe_billed=True)
                if text:
                    yield Piece(text)
    if finish is None:
        # Neither the end of the list nor a reason to stop: a proxy or a server gave up in between.
        raise Transient(f"{provider.name} broke off in the middle of its reply", maybe_billed=True)
    if finish == "length":
        yield Piece("", cut_off=True)
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
                yield _DONE
                return
            try:
                yield json.loads(data)
            except (ValueError, RecursionError) as error:
                raise Transient("an event of the stream is no JSON", maybe_billed=True) from error


def _piece(event: Any, name: str) -> tuple[str, str | None]:
    """The words of an event, and why the reply ends with it, if it does."""
    if event is _DONE:
        return "", "stop"
    if isinstance(event, dict) and event.get("error"):
        raise Transient(f"{name} broke off with an error", maybe_billed=True)
    try:
        choice = event["choices"][0]
        content, finish = choice["delta"].get("content"), choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        return "", None  # the last event often tells of tokens only
    text = content.encode("utf-8", "replace").decode() if isinstance(content, str) else ""
    return text, finish if isinstance(finish, str) else None


async def _bounded(response: aiohttp.ClientResponse) -> str:
    raw = await response.content.read(_MAX_TEXT + 1)
    if len(raw) > _MAX_TEXT:
        raise Transient("the reply is longer than any is", maybe_billed=True)
    return raw.decode("utf-8", "replace")
