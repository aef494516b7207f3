"""What HTTP connections do beside carrying requests: they go stale, break, lead through proxies, and want a certificate."""

import time
import urllib.parse
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import aiohttp

from chiron.client.failures import one_line

IDLE_SECONDS = 2.0
"""Connections idle for longer are not reused: uvicorn and node close them after 5 s, others earlier, just when a call may be on its way."""
_STALE_SECONDS = 5.0
"""A reused connection that breaks within so many seconds, before a byte came back, had been closed by the server."""
_STALE_AT_MOST = 8
"""Closed connections that one call may meet in a row."""
TLS_ADVICE = (
    "check base_url (http or https); for a certificate of your own authority set the environment variable SSL_CERT_FILE to its file"
)


class TooLongError(aiohttp.ClientPayloadError):
    """A reply larger than its token limit allows."""


@dataclass
class Sent:
    """One sending of a request."""

    reused: bool = False
    """Whether it went out on a connection that had served another request."""
    began: float = field(default_factory=time.perf_counter)


async def send_afresh(send: Callable[[Sent], Awaitable[aiohttp.ClientResponse]]) -> aiohttp.ClientResponse:
    """Send a request, again and at once if a reused connection turns out to have been closed by the server.

    Raises:
        aiohttp.ClientError: it broke on a new connection, or after the server had time to read it.
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
    """Tells each :class:`Sent` whether its connection was reused."""
    config = aiohttp.TraceConfig()
    config.on_connection_reuseconn.append(_note_reuse)
    return config


async def _note_reuse(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: aiohttp.TraceConnectionReuseconnParams) -> None:
    if isinstance(context.trace_request_ctx, Sent):
        context.trace_request_ctx.reused = True


def tls_words(error: aiohttp.ClientConnectorError) -> str:
    """What OpenSSL makes of the other side."""
    cause = getattr(error, "certificate_error", None) or error.os_error
    return one_line(getattr(cause, "verify_message", "") or getattr(cause, "reason", "") or type(cause).__name__, 200)


async def read_bounded(response: aiohttp.ClientResponse, limit: int) -> str:
    """A body of at most ``limit`` bytes.

    Raises:
        aiohttp.ClientPayloadError: it is longer, or breaks off.
    """
    raw = bytearray()
    async for chunk in response.content.iter_any():
        raw += chunk
        if len(raw) > limit:
            raise TooLongError(f"a reply of more than {limit / 2**20:.1f} MiB")
    return raw.decode("utf-8", "replace")


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for an address. Looked up once: aiohttp would ask the environment at every request."""
    parts = urllib.parse.urlsplit(url)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return urllib.request.getproxies().get(parts.scheme)
