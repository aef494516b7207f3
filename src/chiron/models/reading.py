"""What an endpoint sent back, read: a reply, or a failure sorted into its class. All of it is hostile, and hostile text is read in
linear time.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chiron.models.call import Reply, Usage
from chiron.models.failures import CallerFault, CallFailed, RateLimited, Transient, one_line

_RETRYABLE = frozenset({408, 409, 423, 425, 500, 502, 503, 504, 507, 520, 521, 522, 523, 524, 529})
PROXY_REFUSES = "the proxy on the way to it wants a name and a password, or others (407): check HTTP_PROXY and HTTPS_PROXY"
"""What to say of a proxy that lets nothing through; where it is and what was said to it has a password in it."""
_EVERY_CALL = {
    401: "it refuses the key: check api_key_env and the variable that it names",
    403: "it refuses this key, or this key this model: check api_key_env and model",
    404: "it knows no such address or model: check base_url and model",
    405: "it takes no questions at this address: check base_url",
    407: PROXY_REFUSES,
}
"""Statuses that speak of the key, the address or the model's name, not of one call; and how to mend them."""
_NO_CREDIT = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
_CODE = re.compile(r"[A-Za-z0-9_.:-]{1,60}")
_MOST_OF_AN_ERROR = 2**18
"""Characters of an error's words that are looked at."""
_LONGEST_WAIT = 30 * 86400.0


@dataclass(frozen=True)
class Origin:
    """Whose reply it is that is read."""

    name: str
    """The configured name of the model."""
    address: str
    redact: Callable[[str], str]
    """Takes the key out of a text."""


def classify_status(status: int, headers: Mapping[str, str], text: str, origin: Origin) -> CallFailed:
    """The failure that an HTTP status other than 200 stands for."""
    code, message = _error_of(text, origin.redact)
    public = f"{origin.name}: HTTP {status}{f' ({code})' if code else ''}"
    # A proxy may quote the password that it refuses, which we never read and so cannot take out.
    full = public if status == 407 else f"{origin.name}: HTTP {status}: {message}"
    if code in _NO_CREDIT or status == 402:
        return CallerFault(full, public=f"{public}: the account has no credit left", misconfigured=True)
    after = _retry_after(headers)
    if status == 429 or (status in {503, 529} and after is not None):
        return RateLimited(full, retry_after=after, public=public)
    if status in _RETRYABLE or status >= 500:
        # The gateway gave up waiting; the model behind it may have worked all the same.
        return Transient(full, public=public, maybe_billed=status in {408, 504, 522, 524})
    if status in _EVERY_CALL or 300 <= status < 400:
        mend = _EVERY_CALL.get(status, "it redirects elsewhere, and a key is not sent after it: check base_url")
        return CallerFault(full, public=f"{public} from {origin.address}: {mend}", misconfigured=True)
    return CallerFault(full, public=public)


def read_reply(text: str, seconds: float, origin: Origin) -> Reply:
    """The reply in a body of status 200.

    Raises:
        CallFailed: it is no reply: not JSON, an error in disguise, no choice, no content, or withheld by a filter.
    """
    name = origin.name
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        what = "an HTML page" if text.lstrip()[:1] == "<" else "something that is not JSON" if text.strip() else "nothing"
        raise Transient(f"{name} sent {what} with status 200", maybe_billed=True) from None
    if not isinstance(body, dict):
        raise Transient(f"{name} sent JSON that is no reply", maybe_billed=True)
    if body.get("error"):
        raise _disguised(body["error"], text, origin)
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


def _disguised(error: object, text: str, origin: Origin) -> CallFailed:
    """Some gateways send their errors with status 200."""
    code = error.get("code") if isinstance(error, dict) else None
    status = int(code) if isinstance(code, int | str) and re.fullmatch(r"[1-5][0-9]{2}", str(code)) else 500
    return classify_status(status if status >= 300 else 500, {}, text, origin)


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


def _error_of(text: str, redact: Callable[[str], str]) -> tuple[str | None, str]:
    """An error body's code and message, without the key: taken out after decoding, since JSON can spell it in many ways."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return None, one_line(re.sub(r"<[^<>]*>", " ", redact(text[:_MOST_OF_AN_ERROR])[:4096])) or "no explanation"
    error = body.get("error", body) if isinstance(body, dict) else body
    error = error[0] if isinstance(error, list) and error else error
    if not isinstance(error, dict):
        return None, one_line(redact(str(error)[:_MOST_OF_AN_ERROR]))
    code = error.get("code") or error.get("type")
    message = error.get("message") or error.get("detail") or error.get("msg") or text
    known = redact(str(code)) if isinstance(code, str | int) and len(str(code)) <= 60 else ""
    return (known if _CODE.fullmatch(known) else None), one_line(redact(str(message)[:_MOST_OF_AN_ERROR]))


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the endpoint told us to wait, at most thirty days. A date is not read: clocks differ."""
    for name, unit in (("retry-after-ms", 0.001), ("Retry-After", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        if not math.isnan(seconds):
            return min(_LONGEST_WAIT, max(0.0, seconds))
    return None
