"""Asking an OpenAI-compatible endpoint: one POST, and every way in which it goes wrong sorted into a class.

Spoken with aiohttp directly. The contract is one small request that dozens of servers share, the raw reply goes into the ledger
unread, and retries and limits are ours; the SDK on top would cost six times the CPU (bench/README.md).
"""

import asyncio
import json
import os
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import aiohttp

from chiron.errors import InputError
from chiron.models.call import Call, Message, Picture, Reply, Text
from chiron.models.config import OpenAIModel
from chiron.models.failures import CallerFault, Transient
from chiron.models.pictures import PictureStore
from chiron.models.reading import PROXY_REFUSES, Origin, classify_status, read_reply
from chiron.models.redaction import redactor
from chiron.models.served import as_trained, processor_arguments

_MAX_REPLY_BYTES = 32 * 2**20
_HOLE = "chiron:image:69d1c2"
"""Where an image goes in a request."""


class OpenAICompatible:
    """One model behind one endpoint."""

    def __init__(self, name: str, config: OpenAIModel, pictures: PictureStore, *, need_key: bool = True) -> None:
        """Read the key from the environment; connect at the first call.

        Raises:
            InputError: the environment variable of the key is not set.
        """
        self.name = name
        self.config = config
        self.identity = _identity(config)
        self._pictures = pictures
        self._key = read_key(name, config) if need_key else None
        self._origin = Origin(name, config.base_url, redactor(self._key))
        self._url = config.base_url.rstrip("/") + "/chat/completions"
        self._session: aiohttp.ClientSession | None = None

    async def complete(self, call: Call) -> Reply:
        """One POST of ``/chat/completions``.

        Raises:
            CallFailed: in one of its three classes.
        """
        body = await self._body(call)
        began = time.perf_counter()
        status, headers, text = await self._post(body)
        seconds = time.perf_counter() - began
        if status != 200:
            raise classify_status(status, headers, text, self._origin)
        return read_reply(text, seconds, self._origin)

    async def get(self, path: str) -> tuple[int, str]:
        """Status and text of a GET below the base URL; for ``chiron doctor``.

        Raises:
            Transient: the endpoint cannot be reached.
        """
        # No redirect is followed, here or below: another host must not get a header that carries the key.
        with self.sorting_errors():
            async with self._connection().get(self.config.base_url.rstrip("/") + path, allow_redirects=False) as response:
                return response.status, self._origin.redact(await _read_bounded(response))

    async def streaming(self, call: Call) -> tuple[str, bytes, aiohttp.ClientSession, Origin]:
        """Address, body, connections and origin of a request whose reply is to be streamed (:mod:`chiron.models.streaming`)."""
        return self._url, await self._body(call, stream=True), self._connection(), self._origin

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _body(self, call: Call, *, stream: bool = False) -> bytes:
        served = self.config.serves
        messages = call.messages if served is None else tuple(map(as_trained, call.messages))
        payload: dict[str, Any] = {
            "model": self.config.model,
            "messages": [self._message(m) for m in messages],
            self.config.max_tokens_field: call.max_tokens,
            **self.config.parameters,
        }
        if self.config.temperature:
            payload["temperature"] = call.temperature
        if stream:
            payload["stream"] = True
        # Images are put in as bytes afterwards: going through a megabyte of base64 once more a call would be most of its cost.
        pictures = [p for m in messages for p in m.parts if isinstance(p, Picture)]
        if served is not None and pictures:
            payload["mm_processor_kwargs"] = processor_arguments(served, len(pictures))
        body = json.dumps(payload, separators=(",", ":")).encode()
        if not pictures:
            return body
        pieces = body.split(_HOLE.encode())
        if len(pieces) != len(pictures) + 1:
            raise CallerFault(f"a text holds the mark {_HOLE}")
        whole = [pieces[0]]
        for picture, piece in zip(pictures, pieces[1:], strict=True):
            whole += [await self._encoded(picture), piece]
        return b"".join(whole)

    async def _encoded(self, picture: Picture) -> bytes:
        """As a ``data:`` URL; encoded beside the event loop, unless it lies ready."""
        ready = self._pictures.ready(picture)
        return ready if ready is not None else await asyncio.to_thread(self._pictures.data_url, picture)

    @staticmethod
    def _message(message: Message) -> dict[str, Any]:
        if all(isinstance(p, Text) for p in message.parts):
            # Plain text, because many templates of local servers take nothing else where there is no image.
            return {"role": message.role, "content": message.text}
        content = [
            {"type": "text", "text": part.text} if isinstance(part, Text) else {"type": "image_url", "image_url": {"url": _HOLE}}
            for part in message.parts
        ]
        return {"role": message.role, "content": content}

    async def _post(self, body: bytes) -> tuple[int, Mapping[str, str], str]:
        headers = {"Content-Type": "application/json"}
        with self.sorting_errors():
            async with self._connection().post(self._url, data=body, headers=headers, allow_redirects=False) as response:
                return response.status, response.headers, await _read_bounded(response)

    @contextmanager
    def sorting_errors(self) -> Iterator[None]:
        """Whatever breaks between here and the endpoint, as a failure of its class."""
        where = f"{self.name} at {self.config.base_url}"
        try:
            yield
        except aiohttp.ConnectionTimeoutError as error:
            raise Transient(f"{where} took no connection in time") from error
        except TimeoutError as error:
            # It was sent, so the model may have worked all the same.
            raise Transient(f"{self.name} did not answer within {self.config.timeout:g} s", maybe_billed=True) from error
        except aiohttp.InvalidURL as error:
            raise CallerFault(f"{self.name}: base_url is no address: {self.config.base_url}", misconfigured=True) from error
        except aiohttp.ClientConnectorError as error:
            # No connection came about, so nothing was sent.
            why = error.os_error.strerror or type(error.os_error).__name__
            raise Transient(f"{where} cannot be reached: {why}: is it running there?") from error
        except aiohttp.ClientHttpProxyError as error:
            # Refused before anything reached the endpoint. Its text names the proxy, and a password with it.
            if error.status == 407:
                raise CallerFault(f"{where} cannot be reached: {PROXY_REFUSES}", misconfigured=True) from None
            raise Transient(f"{where} cannot be reached: the proxy answered {error.status}") from None
        except _TooLongError as error:
            raise Transient(f"{self.name} sent a reply of more than {_MAX_REPLY_BYTES // 2**20} MiB", maybe_billed=True) from error
        except (aiohttp.ClientError, OSError) as error:
            # Such an error may quote the reply ("Bad status line"), so only its kind is public.
            public = f"{where} broke off or sent what is no HTTP ({type(error).__name__}): is it the right address?"
            raise Transient(self._origin.redact(f"{public}: {error}"), public=public, maybe_billed=True) from error

    def _connection(self) -> aiohttp.ClientSession:
        if self._session is None:
            headers = dict(self.config.headers)
            if self._key is not None:
                own = self.config.api_key_header
                headers[own or "Authorization"] = self._key if own else f"Bearer {self._key}"
            self._session = aiohttp.ClientSession(
                # The limiter decides how many go at once; a second limit here would only hide calls from it.
                connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300),
                timeout=aiohttp.ClientTimeout(total=self.config.timeout, sock_connect=min(30.0, self.config.timeout)),
                headers=headers,
                proxy=_proxy_for(self.config.base_url),
            )
        return self._session


class _TooLongError(aiohttp.ClientPayloadError):
    """A reply larger than any reply is."""


async def _read_bounded(response: aiohttp.ClientResponse) -> str:
    raw = bytearray()
    async for chunk in response.content.iter_any():
        raw += chunk
        if len(raw) > _MAX_REPLY_BYTES:
            raise _TooLongError
    return raw.decode("utf-8", "replace")


def read_key(name: str, config: OpenAIModel) -> str | None:
    """The key of a model's endpoint, from the environment.

    Raises:
        InputError: the variable is not set, or holds what no header can carry.
    """
    if config.api_key_env is None:
        return None
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise InputError(f"model '{name}' needs a key: set the environment variable {config.api_key_env}")
    if not key.isascii() or not key.isprintable():
        raise InputError(f"the environment variable {config.api_key_env} holds characters that no key has: set it anew")
    return key


def _proxy_for(url: str) -> str | None:
    """The proxy that the environment names for an address. Looked up once: aiohttp would ask the environment at every request."""
    parts = urllib.parse.urlsplit(url)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def _identity(config: OpenAIModel) -> str:
    shape = {**config.parameters}
    if not config.temperature:
        shape["temperature"] = None
    if config.revision:
        shape["revision"] = config.revision
    if config.serves is not None:
        shape["serves"] = config.serves.model_dump()
    suffix = f" {json.dumps(shape, sort_keys=True)}" if shape else ""
    return f"openai:{config.model}{suffix}"
