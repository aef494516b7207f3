"""Parse the errors of endpoints: code, message and wait time, in any of the formats that servers use."""

import email.utils
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from chiron.client.failures import one_line

_CODE = re.compile(r"[A-Za-z0-9_.:-]{1,60}")
_LONGEST = 2**18
"""Maximum characters of an error message that are parsed."""
_LONGEST_WAIT = 30 * 86400.0
_CONTAINERS = ("error", "errors", "detail", "fault", "body")
_CODES = ("code", "type", "status", "__type")
_WORDS = ("message", "msg", "detail", "error", "Message", "faultstring", "error_description", "error_message", "reason", "title")


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """A parsed error body. It may still quote the request."""

    code: str | None
    """A short code without spaces, such as ``context_length_exceeded``."""
    words: str
    """The message on one line; "no explanation" if there is no message."""
    status: int | None = None
    """HTTP status given in the body."""

    @property
    def has_words(self) -> bool:
        """Whether the server sent a message."""
        return self.words != _NOTHING

    @property
    def text_with_code(self) -> str:
        """Code and message together."""
        return f"{self.code or ''} {self.words}"


_NOTHING = "no explanation"


def read_error(text: str, redact: Callable[[str], str]) -> ErrorBody:
    """Parse code and message of an error body, and remove the key.

    The key is removed after decoding, because JSON can escape it in many ways.
    """
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return ErrorBody(None, one_line(re.sub(r"<[^<>]*>", " ", redact(text[:_LONGEST])[:4096])) or _NOTHING)
    return describe_error(body, redact)


def describe_error(body: Any, redact: Callable[[str], str]) -> ErrorBody:
    """Parse an error body that is already decoded."""
    codes = [c for c in (redact(str(code)) for code in _found(body, _codes_of)) if _CODE.fullmatch(c)]
    named = [c for c in codes if not c.isdigit()]
    words = list(dict.fromkeys(w for w in (one_line(redact(w[:_LONGEST])) for w in _found(body, _words_of)) if w))
    statuses = [int(c) for c in codes if re.fullmatch(r"[3-5][0-9]{2}", c)]
    if not words and body not in (None, {}, [], ""):
        words = [one_line(redact(json.dumps(body, ensure_ascii=False)[:_LONGEST]))]
    return ErrorBody(next(iter(named or codes), None), one_line("; ".join(words)) or _NOTHING, next(iter(statuses), None))


def is_error(body: Mapping[str, Any]) -> bool:
    """Return whether a body with status 200 is an error: it is marked as one, or has an error message and no choices."""
    if body.get("error") or body.get("object") == "error" or body.get("type") == "error":
        return True
    return not body.get("choices") and any(body.get(name) for name in ("detail", "errors", "message", "msg"))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that the endpoint asks to wait, at most thirty days; ``None`` if not given.

    A date is compared with the response's own ``Date``, since clocks differ, or else with this machine's clock.
    """
    for name, unit in (("retry-after-ms", 0.001), ("Retry-After", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except KeyError:
            continue
        except ValueError:
            until = _moment(headers[name])
            if until is None:
                continue
            now = _moment(headers.get("Date", ""))
            seconds = until - (time.time() if now is None else now)
        if not math.isnan(seconds):
            return min(_LONGEST_WAIT, max(0.0, seconds))
    return None


def _moment(date: str) -> float | None:
    """Return an HTTP date as seconds since the epoch."""
    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None


_Found = Callable[[dict[str, Any]], Iterator[str]]


def _found(body: Any, of: _Found, depth: int = 0) -> Iterator[str]:
    """Yield the results of ``of`` for the errors nested in a body and then for the body. Inner errors are more specific."""
    if depth > 4:
        return
    if isinstance(body, list):
        for entry in body[:8]:
            yield from _found(entry, of, depth + 1)
    elif isinstance(body, str) and of is _words_of and depth:
        yield body
    elif isinstance(body, dict):
        for name in _CONTAINERS:
            if isinstance(body.get(name), dict | list):
                yield from _found(body[name], of, depth + 1)
        yield from of(body)


def _codes_of(body: dict[str, Any]) -> Iterator[str]:
    for name in _CODES:
        if isinstance(code := body.get(name), str | int) and not isinstance(code, bool):
            yield str(code)


def _words_of(body: dict[str, Any]) -> Iterator[str]:
    """Yield the messages of one error. FastAPI's include the location in the request, and OpenRouter's the upstream provider's message."""
    place = body.get("loc")
    where = ".".join(str(p) for p in place[:8]) + ": " if isinstance(place, list) and place else ""
    for name in _WORDS:
        value = body.get(name)
        if isinstance(value, str) and value.strip():
            yield where + value
            break
        if isinstance(value, dict) and name not in _CONTAINERS:
            yield from _found(value, _words_of, 1)
            break
    metadata = body.get("metadata")
    if isinstance(metadata, dict):
        if isinstance(raw := metadata.get("raw"), str):
            yield raw
        if isinstance(reasons := metadata.get("reasons"), list) and reasons:
            yield "flagged for " + ", ".join(str(r) for r in reasons[:8])
