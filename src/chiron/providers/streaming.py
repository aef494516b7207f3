"""Stream a reply: server-sent events of an OpenAI-compatible endpoint.

The events are assembled into the body that the endpoint would send without streaming, and parsed in the same way
(:mod:`chiron.providers.response_parsing`). The streamed text and the final reply are therefore equal.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from chiron.client.attempts import Elapsed, RetryPolicy, retry_call
from chiron.client.call import Call
from chiron.client.failures import RateLimited, Transient
from chiron.client.provider import Piece
from chiron.providers.openai_compatible import OpenAICompatible
from chiron.providers.response_parsing import classify_status, content_of, is_error, read_body, read_reply, sound
from chiron.providers.transport import read_bounded

_MAX_EVENT_BYTES = 2**20
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b"error:", b":")
"""Prefixes of event-stream lines. Servers use various content types, so the first line decides how a body is parsed."""


async def stream(
    provider: OpenAICompatible,
    call: Call,
    retry: RetryPolicy,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[Piece]:
    """Yield the pieces of the reply as they arrive; the last one contains the whole reply. An endpoint without streaming gives one piece.

    Before the first text arrives, failures are retried within the limits of ``retry``.

    Raises:
        CallFailed: one of its subclasses; some pieces may have been yielded before.
    """
    spent, wait = Elapsed(), 0.0

    async def begun() -> tuple[Piece, AsyncIterator[Piece]]:
        nonlocal wait
        await sleep(wait)
        wait = 0.0
        pieces = _pieces(provider, call)
        began = asyncio.get_running_loop().time()
        try:
            return await anext(pieces), pieces
        except RateLimited as failure:
            wait = failure.retry_after or 0.0
            raise
        finally:
            spent.seconds += asyncio.get_running_loop().time() - began

    first, rest = await retry_call(begun, retry, spent=spent, sleep=sleep)
    yield first
    async for piece in rest:
        yield piece


async def _pieces(provider: OpenAICompatible, call: Call) -> AsyncIterator[Piece]:
    began = asyncio.get_running_loop().time()
    origin = provider.origin_of(call)
    limit = provider.reply_bytes(call)
    async with provider.posted(call, stream=True) as response:
        if response.status != 200:
            raise classify_status(response.status, response.headers, await read_bounded(response, limit), origin)
        body = _Body(response, limit)
        if not await body.is_stream():
            whole = await body.rest()
            # Some servers (llama-cpp-python) detect an invalid request after sending their headers, and then send nothing. Without
            # streaming they report the reason.
            reply = read_reply(whole, asyncio.get_running_loop().time() - began, origin) if whole.strip() else await provider.complete(call)
            yield Piece(reply.text, reply)
            return
        written = _Written(limit)
        async for kind, data in body.events():
            if text := written.add(kind, data, provider.name):
                yield Piece(text)
    if not written.ended:
        # Neither the end marker nor a finish reason: a proxy or the server gave up.
        raise Transient(f"{provider.name} broke off in the middle of its reply", maybe_billed=True)
    yield Piece("", read_body(written.body(), None, asyncio.get_running_loop().time() - began, origin))


class _Body:
    """A response's body, read line by line. All standard line endings are accepted, and the last line may have none."""

    def __init__(self, response: aiohttp.ClientResponse, limit: int) -> None:
        self._response, self._limit = response, limit
        self._chunks = response.content.iter_any()
        self._read = b""

    async def is_stream(self) -> bool:
        """Return whether the body is an event stream, judged by its start."""
        while True:
            start = self._read.removeprefix(b"\xef\xbb\xbf").lstrip()
            if start.startswith(_FIELDS):
                return True
            if start and not any(field.startswith(start) for field in _FIELDS):
                return False
            if not await self._more():
                return False

    async def rest(self) -> str:
        return await read_bounded(self._response, self._limit, begun=self._read)

    async def events(self) -> AsyncIterator[tuple[str, str]]:
        """Yield name and data of every event. An ``error:`` line (llama.cpp) is an event with that name."""
        name, data = "", list[bytes]()
        async for line in self._lines():
            if not line:
                if data:
                    yield name, b"\n".join(data).decode("utf-8", "replace")
                name, data = "", []
                continue
            field_name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field_name == b"event":
                name = value.decode("utf-8", "replace").strip()
            elif field_name == b"error":
                name, data = "error", [value]
            elif field_name == b"data":
                if data and _is_whole(data):  # for servers that omit the empty line between events
                    yield name, b"\n".join(data).decode("utf-8", "replace")
                    data = []
                data.append(value)
        if data:
            yield name, b"\n".join(data).decode("utf-8", "replace")

    async def _lines(self) -> AsyncIterator[bytes]:
        rest = self._read.removeprefix(b"\xef\xbb\xbf")
        self._read = b""
        while True:
            *lines, rest = rest.replace(b"\r\n", b"\n").split(b"\n")
            for line in lines:
                yield line.rstrip(b"\r")
            if len(rest) > _MAX_EVENT_BYTES:
                raise Transient("an event of the stream is too long", maybe_billed=True)
            if not await self._more():
                break
            rest, self._read = rest + self._read, b""
        if rest:
            yield rest.rstrip(b"\r")

    async def _more(self) -> bool:
        try:
            self._read += await anext(self._chunks)
        except StopAsyncIteration:
            return False
        return True


def _is_whole(data: list[bytes]) -> bool:
    try:
        json.loads(b"\n".join(data))
    except (ValueError, RecursionError):
        return data == [b"[DONE]"]
    return True


@dataclass
class _Written:
    """The body of a reply, assembled from its events."""

    limit: int
    """Maximum bytes of text and thinking."""
    ended: bool = False
    _text: list[str] = field(default_factory=list)
    _thinking: list[str] = field(default_factory=list)
    _size: int = 0
    _choice: dict[str, Any] = field(default_factory=dict)
    _whole: dict[str, Any] = field(default_factory=dict)
    """Usage, model and error, if sent."""
    _refusal: str = ""

    def add(self, name: str, data: str, model: str) -> str:
        """Add an event and return the text to show.

        Raises:
            Transient: it is not JSON, or the reply is longer than allowed.
        """
        if data.strip() == "[DONE]":
            self.ended = True
            return ""
        try:
            event = json.loads(data)
        except (ValueError, RecursionError) as error:
            if name != "error":
                raise Transient(f"{model} sent an event that is not JSON", maybe_billed=True) from error
            event = {"message": data}
        if isinstance(event, list) and event:
            event = event[0]
        if not isinstance(event, dict):
            return ""
        if name == "error" or is_error(event):
            self._whole["error"] = event.get("error") or event
            self.ended = True
            return ""
        self._whole.update({key: event[key] for key in ("usage", "model") if event.get(key)})
        choices = event.get("choices")
        return self._add_choice(choices[0], model) if isinstance(choices, list) and choices and isinstance(choices[0], dict) else ""

    def body(self) -> dict[str, Any]:
        """Return the body as it would be without streaming."""
        message = {"content": "".join(self._text), "reasoning_content": "".join(self._thinking), "refusal": self._refusal or None}
        return {**self._whole, "choices": [{**self._choice, "message": message}]}

    def _add_choice(self, choice: dict[str, Any], model: str) -> str:
        self._choice.update({key: choice[key] for key in ("finish_reason", "error") if choice.get(key)})
        self.ended = self.ended or bool(self._choice)
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            # Some servers repeat the whole message at the end; it is used only if no text came before.
            delta = choice.get("message") if not self._text else None
        if not isinstance(delta, dict):
            return ""
        text, thinking = content_of(delta)
        self._refusal += refusal if isinstance(refusal := delta.get("refusal"), str) else ""
        self._size += len(text) + len(thinking)
        if self._size > self.limit:
            raise Transient(f"{model} writes more than its token limit allows", maybe_billed=True)
        self._text.append(text)
        self._thinking.append(thinking)
        return sound(text)
