"""Call an OpenAI-compatible endpoint: one POST per attempt, with every error converted to a :class:`CallFailed` class.

It uses aiohttp directly. The API is one small request that dozens of servers support, the raw reply goes into the ledger, and chiron has
its own retries and limits. The OpenAI SDK would need six times the CPU time (bench/README.md).
"""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

import aiohttp

from chiron.client.call import Call, ImagePart, Message, Reply, TextPart, images_of
from chiron.client.config import OpenAIModel, ServedCheckpoint
from chiron.client.config_checks import endpoint_url
from chiron.client.failures import CallerFault, Transient, redactor
from chiron.client.images import PictureStore
from chiron.client.prompts import texts_between
from chiron.errors import InputError
from chiron.providers.local.tiling import Tiling, tile_budget
from chiron.providers.response_parsing import PROXY_REFUSES, Origin, classify_status, read_reply
from chiron.providers.transport import IDLE_SECONDS, TLS_ADVICE, TooLongError, proxy_for, read_bounded, send_afresh, tls_words, tracing

_KEYS = {"hf": "max_patches", "internvl_chat": "max_dynamic_patch"}
"""Name of the image processor's maximum tiles per image, by layout."""


def processor_arguments(served: ServedCheckpoint, images: int) -> dict[str, Any]:
    """Return ``mm_processor_kwargs`` for a request with ``images`` images: the maximum tiles of each."""
    tiling = Tiling(max_tiles=served.max_tiles, per_image=served.max_tiles_per == "image")
    return {_KEYS[served.layout]: tile_budget(images, tiling)}


def as_trained(message: Message) -> Message:
    """Add the line breaks next to images that training used, because chiron's own chat template adds none."""
    first, *others = texts_between(message, "\n")
    if not others:
        return Message(message.role, (TextPart(first),))
    parts: list[TextPart | ImagePart] = [TextPart(first)]
    for picture, text in zip(images_of([message]), others, strict=True):
        parts += [picture, TextPart(text)]
    return Message(message.role, tuple(part for part in parts if part != TextPart("")), inline=True)


_MAX_LISTING_BYTES = 8 * 2**20
"""Maximum size of a list of models."""
_BYTES_A_TOKEN, _ENVELOPE_BYTES = 64, 2**20
"""Maximum reply size: bytes per token, and bytes for everything else."""
_LOGPROB_BYTES = 4096
"""Bytes per token if its alternatives are included (``logprobs``)."""
HOLE = "chiron:image:69d1c2"
"""Placeholder for an image in a request."""


def filled(payload: Mapping[str, Any], images: Sequence[bytes], hole: str = HOLE) -> bytes:
    """Return a request as JSON, with images in place of its holes.

    Images are inserted as bytes: encoding a megabyte of base64 as JSON would take most of a call's CPU time.

    Raises:
        CallerFault: a text contains the reserved mark.
    """
    body = json.dumps(payload, separators=(",", ":")).encode()
    if not images:
        return body
    pieces = body.split(hole.encode())
    if len(pieces) != len(images) + 1:
        raise CallerFault(f"a text contains the reserved mark {HOLE}")
    return b"".join([pieces[0], *(part for pair in zip(images, pieces[1:], strict=True) for part in pair)])


class OpenAICompatible:
    def __init__(self, name: str, config: OpenAIModel, pictures: PictureStore, *, need_key: bool = True) -> None:
        """Read the key from the environment. The connection is opened at the first call.

        Raises:
            InputError: the environment variable of the key is not set.
        """
        self.name = name
        self.config = config
        self.identity = _identity(config)
        self._pictures = pictures
        self._key = read_key(name, config) if need_key else None
        self.origin = Origin(name, config.base_url, redactor(self._key))
        self._url = endpoint_url(config.base_url, "/chat/completions")
        self._session: aiohttp.ClientSession | None = None

    async def complete(self, call: Call) -> Reply:
        """Send one POST to ``/chat/completions``.

        Raises:
            CallFailed: one of its subclasses.
        """
        began = time.perf_counter()
        async with self.posted(call) as response:
            text = await read_bounded(response, self.reply_bytes(call))
        if response.status != 200:
            raise classify_status(response.status, response.headers, text, self.origin_of(call))
        return read_reply(text, time.perf_counter() - began, self.origin_of(call))

    async def get(self, path: str) -> tuple[int, str]:
        """Send a GET below the base URL, for ``chiron doctor``. Returns status and text.

        Raises:
            Transient: the endpoint cannot be reached.
        """
        # Redirects are never followed: another host must not get the header with the key.
        with self.sorting_errors():
            url = endpoint_url(self.config.base_url, path)
            async with self._connection().get(url, allow_redirects=False, headers=self._key_headers()) as response:
                return response.status, self.origin.redact(await read_bounded(response, _MAX_LISTING_BYTES))

    @asynccontextmanager
    async def requested(
        self, method: str, path: str, *, key_header: str | None = None, seconds: float | None = None, **sent: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send another request, and yield the response with its body unread.

        Args:
            method: HTTP method.
            path: path below the base URL, or a whole URL of the same host.
            key_header: header that carries the key at this address, if it is not that of the calls.
            seconds: time limit; by default that of a call.
            sent: arguments of aiohttp: ``json``, ``data``, ``params``, ``headers``.

        Raises:
            CallFailed: the connection breaks, or the status is not 200.
        """
        limit = aiohttp.ClientTimeout(total=seconds or self.config.timeout, sock_connect=min(30.0, self.config.timeout))
        with self.sorting_errors():
            # As in get(), redirects are not followed.
            url = endpoint_url(self.config.base_url, path) if path.startswith("/") else path
            headers = {**self._key_headers(key_header), **sent.pop("headers", {})}
            request = self._connection().request(method, url, allow_redirects=False, timeout=limit, headers=headers, **sent)
            async with request as response:
                if response.status != 200:
                    text = await read_bounded(response, _MAX_LISTING_BYTES)
                    raise classify_status(response.status, response.headers, text, self.origin)
                yield response

    def origin_of(self, call: Call) -> Origin:
        """Return the origin of a reply. It contains the prompt, which is removed from the server's messages."""
        return replace(self.origin, messages=call.messages)

    def reply_bytes(self, call: Call) -> int:
        """Return the maximum size of a reply to ``call`` in bytes."""
        a_token = _LOGPROB_BYTES if self.config.parameters.get("logprobs") else _BYTES_A_TOKEN
        return a_token * call.max_tokens + _ENVELOPE_BYTES

    @asynccontextmanager
    async def posted(self, call: Call, *, stream: bool = False) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send ``call`` and yield the response with its body unread.

        Servers close idle connections, and a call may be sent on one at that moment. Such a call was never read, so it is sent again at
        once and costs nothing.

        Raises:
            CallFailed: the connection breaks, here or while the body is read.
        """
        body = await self.body(call, stream=stream)
        headers = {"Content-Type": "application/json", **self._key_headers()}
        with self.sorting_errors():
            response = await send_afresh(
                lambda sent: self._connection().post(self._url, data=body, headers=headers, allow_redirects=False, trace_request_ctx=sent)
            )
            async with response:
                yield response

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def body(self, call: Call, *, stream: bool = False, image: Callable[[ImagePart], Awaitable[bytes]] | None = None) -> bytes:
        """Return the request of a call as JSON.

        Args:
            call: the call.
            stream: whether to ask for a stream.
            image: returns the URL of an image; by default a ``data:`` URL with its bytes.

        Raises:
            CallerFault: an image is unusable, or a text contains a reserved mark.
        """
        served = self.config.serves
        messages = call.messages if served is None else tuple(map(as_trained, call.messages))
        payload: dict[str, Any] = {
            "model": self.config.model,
            "messages": [self._message(m) for m in self.turns(messages)],
            self.config.max_tokens_field: call.max_tokens,
            **self.config.parameters,
        }
        if self.config.temperature:
            payload["temperature"] = call.temperature
        if stream:
            payload["stream"] = True
        pictures = images_of(messages)
        if served is not None and pictures:
            payload["mm_processor_kwargs"] = processor_arguments(served, len(pictures))
        return filled(payload, [await (image or self.encoded)(picture) for picture in pictures])

    def turns(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """Return the messages in this endpoint's form: without a system role, the first user turn starts with the system text."""
        if self.config.system_role == "system":
            return messages
        system = [TextPart(part.text) for m in messages if m.role == "system" for part in m.parts if isinstance(part, TextPart)]
        others = [m for m in messages if m.role != "system"]
        if not system or not others or others[0].role != "user":
            return tuple(others) if others else tuple(Message("user", m.parts) for m in messages)
        first = others[0]
        if all(isinstance(p, TextPart) for p in first.parts):
            return (Message("user", (TextPart("\n\n".join([*(t.text for t in system), first.text])),)), *others[1:])
        return (Message("user", (*system, *first.parts)), *others[1:])

    async def encoded(self, picture: ImagePart) -> bytes:
        """Return a picture as a ``data:`` URL; encoded in a worker thread unless it is cached."""
        ready = self._pictures.ready(picture)
        return ready if ready is not None else await asyncio.to_thread(self._pictures.data_url, picture)

    @staticmethod
    def _message(message: Message) -> dict[str, Any]:
        if all(isinstance(p, TextPart) for p in message.parts):
            # Plain text, because many templates of local servers accept nothing else without images.
            return {"role": message.role, "content": message.text}
        content = [
            {"type": "text", "text": part.text} if isinstance(part, TextPart) else {"type": "image_url", "image_url": {"url": HOLE}}
            for part in message.parts
        ]
        return {"role": message.role, "content": content}

    @contextmanager
    def sorting_errors(self) -> Iterator[None]:
        """Convert any connection error to a :class:`CallFailed` class."""
        where = f"{self.name} at {self.config.base_url}"
        try:
            yield
        except aiohttp.ConnectionTimeoutError as error:
            raise Transient(f"{where} did not accept a connection in time") from error
        except TimeoutError as error:
            # The request was sent, so the model may have generated a reply.
            raise Transient(f"{self.name} did not answer within {self.config.timeout:g} s", maybe_billed=True) from error
        except aiohttp.InvalidURL as error:
            raise CallerFault(f"{self.name}: base_url is not a valid address: {self.config.base_url}", misconfigured=True) from error
        except aiohttp.ClientSSLError as error:
            raise CallerFault(f"{where} cannot be reached over TLS ({tls_words(error)}): {TLS_ADVICE}", misconfigured=True) from error
        except aiohttp.ClientConnectorError as error:
            # The connection was never established, so nothing was sent.
            why = error.os_error.strerror or type(error.os_error).__name__
            raise Transient(f"{where} cannot be reached: {why}: is it running?") from error
        except aiohttp.ClientHttpProxyError as error:
            # Rejected before anything reached the endpoint. The error text contains the proxy's address, which may include a password.
            if error.status == 407:
                raise CallerFault(f"{where} cannot be reached: {PROXY_REFUSES}", misconfigured=True) from None
            raise Transient(f"{where} cannot be reached: the proxy answered {error.status}") from None
        except TooLongError as error:
            raise Transient(f"{self.name} sent {error}: does it support {self.config.max_tokens_field}?", maybe_billed=True) from error
        except (aiohttp.ClientError, OSError) as error:
            # Such an error may quote the reply ("Bad status line"), so only its type is public.
            public = f"{where} broke the connection or did not send HTTP ({type(error).__name__}): is it the right address?"
            raise Transient(self.origin.redact(f"{public}: {error}"), public=public, maybe_billed=True) from error

    def _key_headers(self, name: str | None = None) -> dict[str, str]:
        if self._key is None:
            return {}
        own = name or self.config.api_key_header
        return {own or "Authorization": self._key if own else f"Bearer {self._key}"}

    def _connection(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                trace_configs=[tracing()],
                # The limiter controls concurrency; a second limit here would hide waiting calls from it.
                connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, keepalive_timeout=IDLE_SECONDS),
                timeout=aiohttp.ClientTimeout(total=self.config.timeout, sock_connect=min(30.0, self.config.timeout)),
                headers=self.config.headers,
                proxy=proxy_for(self.config.base_url),
            )
        return self._session


def read_key(name: str, config: OpenAIModel) -> str | None:
    """Read the key of a model's endpoint from the environment.

    Raises:
        InputError: the variable is not set, or its value cannot be sent in a header.
    """
    if config.api_key_env is None:
        return None
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise InputError(f"model '{name}' needs a key: set the environment variable {config.api_key_env}")
    if not key.isascii() or not key.isprintable():
        raise InputError(f"the environment variable {config.api_key_env} contains characters that a key cannot have: set it again")
    return key


def _identity(config: OpenAIModel) -> str:
    shape = {**config.parameters}
    if not config.temperature:
        shape["temperature"] = None
    if config.system_role != "system":
        shape["system_role"] = config.system_role
    if config.revision:
        shape["revision"] = config.revision
    if (batches := config.batches) is not None and batches.parameters is not None:
        shape["batch_parameters"] = batches.parameters
    if config.serves is not None:
        shape["serves"] = config.serves.model_dump()
    suffix = f" {json.dumps(shape, sort_keys=True)}" if shape else ""
    return f"openai:{config.model}{suffix}"
