"""Asking an OpenAI-compatible endpoint: one POST, and every way in which it goes wrong sorted into a class.

Spoken with aiohttp directly. The contract is one small request that dozens of servers share, the raw reply goes into the ledger
unread, and retries and limits are ours; the SDK on top would cost six times the CPU (bench/README.md).
"""

import json
import os
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

import aiohttp

from chiron.errors import InputError
from chiron.models.call import Call, Message, Picture, Reply, Text, Usage
from chiron.models.config import OpenAIModel
from chiron.models.failures import CallerFault, CallFailed, RateLimited, Transient
from chiron.models.pictures import PictureStore

_RETRYABLE = frozenset({408, 409, 423, 425, 500, 502, 503, 504, 507, 520, 521, 522, 523, 524, 529})
_EVERY_CALL = frozenset({401, 403, 404, 405})
"""Statuses that speak of the key, the address or the model's name, not of one call."""
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
        self._url = config.base_url.rstrip("/") + "/chat/completions"
        self._session: aiohttp.ClientSession | None = None

    async def complete(self, call: Call) -> Reply:
        """One POST of ``/chat/completions``.

        Raises:
            CallFailed: in one of its three classes.
        """
        body = self._body(call)
        began = time.perf_counter()
        status, headers, text = await self._post(body)
        seconds = time.perf_counter() - began
        if status != 200:
            raise classify_status(status, headers, self._redact(text), self.name)
        return read_reply(text, seconds, self.name)

    async def get(self, path: str) -> tuple[int, str]:
        """Status and text of a GET below the base URL; for ``chiron doctor``.

        Raises:
            Transient: the endpoint cannot be reached.
        """
        try:
            # No redirect is followed, here or below: another host must not get a header that carries the key.
            async with self._connection().get(self.config.base_url.rstrip("/") + path, allow_redirects=False) as response:
                return response.status, self._redact(await response.text(errors="replace"))
        except aiohttp.ClientConnectorError as error:
            raise Transient(self._broken(error.os_error)) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Transient(self._broken(error)) from error

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _body(self, call: Call) -> bytes:
        payload: dict[str, Any] = {
            "model": self.config.model,
            "messages": [self._message(m) for m in call.messages],
            self.config.max_tokens_field: call.max_tokens,
            **self.config.parameters,
        }
        if self.config.temperature:
            payload["temperature"] = call.temperature
        # Images are put in as bytes afterwards: going through a megabyte of base64 once more a call would be most of its cost.
        pictures = [p for m in call.messages for p in m.parts if isinstance(p, Picture)]
        body = json.dumps(payload, separators=(",", ":")).encode()
        if not pictures:
            return body
        pieces = body.split(_HOLE.encode())
        if len(pieces) != len(pictures) + 1:
            raise CallerFault(f"a text holds the mark {_HOLE}")
        whole = [pieces[0]]
        for picture, piece in zip(pictures, pieces[1:], strict=True):
            whole += [self._pictures.data_url(picture), piece]
        return b"".join(whole)

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
        try:
            async with self._connection().post(self._url, data=body, headers=headers, allow_redirects=False) as response:
                return response.status, response.headers, await _read_bounded(response)
        except aiohttp.ConnectionTimeoutError as error:
            raise Transient(f"{self.name} at {self.config.base_url} took no connection in time") from error
        except TimeoutError as error:
            # It was sent, so the model may have worked all the same.
            raise Transient(f"{self.name} did not answer within {self.config.timeout:g} s", maybe_billed=True) from error
        except aiohttp.InvalidURL as error:
            raise CallerFault(f"{self.name}: base_url is no address: {self.config.base_url}", misconfigured=True) from error
        except aiohttp.ClientConnectorError as error:
            raise Transient(self._broken(error.os_error)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise Transient(self._broken(error), maybe_billed=True) from error

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

    def _broken(self, error: BaseException) -> str:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        return self._redact(f"{self.name} at {self.config.base_url} cannot be reached: {why}: is it running there?")

    def _redact(self, text: str) -> str:
        """Some servers echo the key in their errors."""
        return text.replace(self._key, "[key]") if self._key else text


async def _read_bounded(response: aiohttp.ClientResponse) -> str:
    raw = bytearray()
    async for chunk in response.content.iter_any():
        raw += chunk
        if len(raw) > _MAX_REPLY_BYTES:
            raise aiohttp.ClientPayloadError(f"a reply of more than {_MAX_REPLY_BYTES // 2**20} MiB")
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
    suffix = f" {json.dumps(shape, sort_keys=True)}" if shape else ""
    return f"openai:{config.model}{suffix}"


def classify_status(status: int, headers: Mapping[str, str], text: str, name: str) -> CallFailed:
    """The failure that an HTTP status other than 200 stands for."""
    code, message = _error_of(text)
    public = f"{name}: HTTP {status}{f' ({code})' if code else ''}"
    full = f"{name}: HTTP {status}: {message}"
    if code in {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"} or status == 402:
        return CallerFault(full, public=f"{public}: the account has no credit left", misconfigured=True)
    after = _retry_after(headers)
    if status == 429 or (status in {503, 529} and after is not None):
        return RateLimited(full, retry_after=after, public=public)
    if status in _RETRYABLE or status >= 500:
        # The gateway gave up waiting; the model behind it may have worked all the same.
        return Transient(full, public=public, maybe_billed=status in {408, 504, 522, 524})
    if status in _EVERY_CALL or 300 <= status < 400:
        return CallerFault(full, misconfigured=True)
    return CallerFault(full, public=public)


def read_reply(text: str, seconds: float, name: str) -> Reply:
    """The reply in a body of status 200.

    Raises:
        CallFailed: it is no reply: not JSON, an error in disguise, no choice, no content, or withheld by a filter.
    """
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        what = "an HTML page" if text.lstrip()[:1] == "<" else "something that is not JSON" if text.strip() else "nothing"
        raise Transient(f"{name} sent {what} with status 200", maybe_billed=True) from None
    if not isinstance(body, dict):
        raise Transient(f"{name} sent JSON that is no reply", maybe_billed=True)
    if body.get("error"):
        raise _disguised(body["error"], text, name)
    choice = _first(body.get("choices"))
    message = choice.get("message") if choice is not None else None
    if choice is None or not isinstance(message, dict):
        raise Transient(f"{name} sent a reply without choices", maybe_billed=True)
    finish = _sound(str(choice.get("finish_reason") or "stop"))
    content = _sound(_content(message))
    if finish == "content_filter" or message.get("refusal"):
        raise CallerFault(f"{name} withheld its reply (content filter)", maybe_billed=True)
    if not content.strip() and finish != "length":
        raise Transient(f"{name} sent an empty reply", maybe_billed=True)
    return Reply(content, finish, _usage(body.get("usage")), _string(body.get("model")), seconds, raw=text)


def _disguised(error: object, text: str, name: str) -> CallFailed:
    """Some gateways send their errors with status 200."""
    code = error.get("code") if isinstance(error, dict) else None
    status = int(code) if isinstance(code, int | str) and re.fullmatch(r"[1-5][0-9]{2}", str(code)) else 500
    return classify_status(status if status >= 300 else 500, {}, text, name)


def _first(choices: object) -> dict[str, Any] | None:
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None


def _content(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(p.get("text", "") for p in content if isinstance(p, dict) and isinstance(p.get("text"), str))
    return content if isinstance(content, str) else ""


def _usage(usage: object) -> Usage:
    if not isinstance(usage, dict):
        return Usage()
    prompt, completion, total = (_count(usage.get(f"{kind}_tokens")) for kind in ("prompt", "completion", "total"))
    if prompt is not None and completion is not None and total is not None:
        # Some endpoints bill thinking tokens that they count in the total only.
        completion = max(completion, total - prompt)
    return Usage(prompt, completion)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def _string(value: object) -> str | None:
    return _sound(value) if isinstance(value, str) else None


def _sound(text: str) -> str:
    """Text that can be written down: JSON may hold halves of characters, which no file takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _error_of(text: str) -> tuple[str | None, str]:
    """An error body's code and message."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return None, _squeeze(re.sub(r"<[^<>]*>", " ", text[:4096])) or "no explanation"
    error = body.get("error", body) if isinstance(body, dict) else body
    error = error[0] if isinstance(error, list) and error else error
    if not isinstance(error, dict):
        return None, _squeeze(str(error))
    code = error.get("code") or error.get("type")
    message = error.get("message") or error.get("detail") or error.get("msg") or text
    return (str(code) if isinstance(code, str | int) and len(str(code)) < 60 else None), _squeeze(str(message))


def _squeeze(text: str) -> str:
    """One line of at most 300 printable characters."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))[:300]


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the endpoint told us to wait, between 0 and ten minutes. A date is not read: clocks differ."""
    for name, unit in (("retry-after-ms", 0.001), ("Retry-After", 1.0)):
        try:
            return min(600.0, max(0.0, float(headers[name]) * unit))
        except (KeyError, ValueError):
            continue
    return None
