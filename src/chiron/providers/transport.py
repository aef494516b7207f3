"""HTTP connection details: stale connections, proxies, certificates and size limits."""

import time
import urllib.parse
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import aiohttp

from chiron.client.failures import one_line

IDLE_SECONDS = 2.0
"""Seconds after which idle connections are not reused. uvicorn and node close them after 5 s, others earlier, possibly while a call is
sent.
"""
_STALE_SECONDS = 5.0
"""If a reused connection breaks within this time, before any byte came back, the server had already closed it."""
_STALE_AT_MOST = 8
"""Maximum closed connections per call, in a row."""
TLS_ADVICE = (
    "check base_url (http or https); for a certificate of your own authority set the environment variable SSL_CERT_FILE to its file"
)


class TooLongError(aiohttp.ClientPayloadError):
    """A reply is larger than its token limit allows."""


@dataclass
class Sent:
    reused: bool = False
    """Whether it used an existing connection."""
    began: float = field(default_factory=time.perf_counter)


async def send_afresh(send: Callable[[Sent], Awaitable[aiohttp.ClientResponse]]) -> aiohttp.ClientResponse:
    """Send a request. Repeat it at once if a reused connection was already closed by the server.

    Raises:
        aiohttp.ClientError: a new connection broke, or the server had time to read the request.
    """
    for _ in range(_STALE_AT_MOST):
        sent = Sent()
        try:
            return await send(sent)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if not sent.reused or time.perf_counter() - sent.began > _STALE_SECONDS:
                raise
    return await send(Sent())


def tracing() -> aiohttp.TraceConfig:
    """Return a trace configuration that records in each :class:`Sent` whether its connection was reused."""
    config = aiohttp.TraceConfig()
    config.on_connection_reuseconn.append(_note_reuse)
    return config


async def _note_reuse(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: aiohttp.TraceConnectionReuseconnParams) -> None:
    if isinstance(context.trace_request_ctx, Sent):
        context.trace_request_ctx.reused = True


def tls_words(error: aiohttp.ClientConnectorError) -> str:
    """Return OpenSSL's description of a TLS error."""
    cause = getattr(error, "certificate_error", None) or error.os_error
    return one_line(getattr(cause, "verify_message", "") or getattr(cause, "reason", "") or type(cause).__name__, 200)


async def read_bounded(response: aiohttp.ClientResponse, limit: int, *, begun: bytes = b"") -> str:
    """Read a body of at most ``limit`` bytes; ``begun``: what was read of it before.

    Raises:
        aiohttp.ClientPayloadError: the body is longer, or ends early.
    """
    raw = bytearray(begun)
    async for chunk in response.content.iter_any():
        raw += chunk
        if len(raw) > limit:
            raise TooLongError(f"a reply of more than {limit / 2**20:.1f} MiB")
    return raw.decode("utf-8", "replace")


def proxy_for(url: str) -> str | None:
    """Return the environment's proxy for a URL. Cached, because aiohttp would read the environment for every request."""
    parts = urllib.parse.urlsplit(url)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return urllib.request.getproxies().get(parts.scheme)
