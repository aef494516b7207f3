"""Parse an endpoint's response into a reply or a classified failure. Responses are untrusted, so they are parsed in linear time."""

import email.utils
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from chiron.client.call import Finish, Message, Reply, Usage, cached_tokens, cure_for, is_flagged, sort_finish, stored_finish
from chiron.client.failures import CallerFault, CallFailed, Flagged, RateLimited, Transient, one_line, without_prompt

_CODE = re.compile(r"[A-Za-z0-9_.:-]{1,60}")
_LONGEST = 2**18
"""Maximum characters of an error message that are parsed."""
_LONGEST_WAIT = 30 * 86400.0
_NOTHING = "no explanation"
_CONTAINERS = ("error", "errors", "detail", "fault", "body")
_CODES = ("code", "type", "status", "__type")
_WORDS = ("message", "msg", "detail", "error", "Message", "faultstring", "error_description", "error_message", "reason", "title")


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """A parsed error body. It may still quote the request."""

    code: str | None
    """A short code without spaces, such as ``context_length_exceeded``."""
    words: str
    """The message on one line; :data:`_NOTHING` if there is no message."""
    status: int | None = None
    """HTTP status given in the body."""

    @property
    def text_with_code(self) -> str:
        return f"{self.code or ''} {self.words}"


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


_RETRYABLE = frozenset({408, 409, 423, 425, 500, 502, 503, 504, 507, 520, 521, 522, 523, 524, 529})
PROXY_REFUSES = "the proxy on the way to it wants a name and a password, or others (407): check HTTP_PROXY and HTTPS_PROXY"
"""Error message for a proxy that rejects requests. It omits the proxy's address and response, since these may contain a password."""
_EVERY_CALL = {
    401: "it refuses the key: check api_key_env and the variable that it names",
    403: "it refuses this key, or this key this model: check api_key_env and model",
    404: "it knows no such address or model: check base_url (most end in /v1) and model",
    405: "it takes no questions at this address: check base_url (most end in /v1)",
    407: PROXY_REFUSES,
    415: "it does not take JSON at this address: check base_url and headers",
}
"""Status codes caused by the key, the address or the model's name rather than by one call; and how to fix them."""
_NO_CREDIT = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
_THOUGHTS = ("reasoning_content", "reasoning", "thinking", "reasoning_text")


@dataclass(frozen=True)
class Origin:
    name: str
    """Configured name of the model."""
    address: str
    redact: Callable[[str], str]
    """Removes the key from a text."""
    messages: tuple[Message, ...] = ()
    """The prompt; quotations from it are not shown."""

    def shown(self, words: str) -> str:
        """Return the server's message without the key and without quotations from the prompt."""
        return without_prompt(one_line(self.redact(words)), "\n".join(message.text for message in self.messages))


def classify_status(status: int, headers: Mapping[str, str], text: str, origin: Origin) -> CallFailed:
    failure = _classified(status, headers, read_error(text, origin.redact), origin)
    failure.status = status
    return failure


def _classified(status: int, headers: Mapping[str, str], error: ErrorBody, origin: Origin) -> CallFailed:
    code, head = error.code, f"{origin.name}: HTTP {status}"
    if status == 407:
        # A proxy may quote the rejected password. It is unknown here, so it cannot be removed from the message.
        return CallerFault(f"{head} from {origin.address}: {PROXY_REFUSES}", misconfigured=True)
    full = f"{head}: {error.words}"
    public = f"{head}{f' ({code})' if code and not code.isdigit() else ''}"
    if error.words != _NOTHING:
        public += f": {origin.shown(error.words).rstrip('. ')}"
    if code in _NO_CREDIT or status == 402:
        return CallerFault(full, public=f"{public}: the account has no credit left", misconfigured=True)
    after = retry_after(headers)
    if status == 429 or (status in {503, 529} and after is not None):
        return RateLimited(full, retry_after=after, public=public)
    if status in _RETRYABLE or status >= 500:
        cure = cure_for(error.text_with_code)
        # The gateway timed out; the model behind it may have generated a reply.
        return Transient(full, public=public if cure is None else f"{public}: {cure.advice}", maybe_billed=status in {408, 504, 522, 524})
    return _refused(status, error, origin, full, public)


def _refused(status: int, error: ErrorBody, origin: Origin, full: str, public: str) -> CallerFault:
    """Return a failure that would repeat if the same call were sent again."""
    cure = cure_for(error.text_with_code)
    if is_flagged(error.text_with_code):
        return Flagged(full, public=f"{public}: a content filter refuses this input")
    if cure is not None and (cure.every_call or status not in _EVERY_CALL):
        return CallerFault(full, public=f"{public}: {cure.advice}", misconfigured=cure.every_call)
    if status in _EVERY_CALL or 300 <= status < 400:
        advice = _EVERY_CALL.get(status, "it redirects elsewhere, and a key is not sent after it: check base_url")
        return CallerFault(full, public=f"{public} (from {origin.address}): {advice}", misconfigured=True)
    return CallerFault(full, public=public)


def read_reply(text: str, seconds: float, origin: Origin) -> Reply:
    """Parse the reply in a body with status 200.

    Raises:
        CallFailed: not a reply: invalid JSON, an error, no choices, no content, failed during generation, or withheld by a filter.
    """
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        what = "an HTML page" if text.lstrip()[:1] == "<" else "something that is not JSON" if text.strip() else "nothing"
        raise Transient(f"{origin.name} sent {what} with status 200", maybe_billed=True) from None
    return read_body(body, text, seconds, origin)


def read_body(body: Any, text: str | None, seconds: float, origin: Origin) -> Reply:
    """Parse a reply from a decoded body, or one assembled from a stream; ``text`` is stored unchanged.

    Raises:
        CallFailed: as in :func:`read_reply`.
    """
    name = origin.name
    if isinstance(body, list) and body and isinstance(body[0], dict) and is_error(body[0]):
        body = body[0]
    if not isinstance(body, dict):
        raise Transient(f"{name} sent JSON that is not a reply", maybe_billed=True)
    if is_error(body):
        error = describe_error(body, origin.redact)
        raise _classified(error.status or 500, {}, error, origin)
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choice := choices[0], dict):
        raise Transient(f"{name} sent a reply without choices", maybe_billed=True)
    message = choice.get("message")
    finish = sound(str(choice.get("finish_reason") or "stop"))
    kind = sort_finish(finish)
    if kind is Finish.FAILED or choice.get("error"):
        raise _failed(choice, finish, origin)
    refusal = message.get("refusal") if isinstance(message, dict) else None
    if kind is Finish.FILTERED or refusal:
        raise _withheld(finish if kind is Finish.FILTERED else "refusal", refusal, origin)
    if not isinstance(message, dict):
        raise Transient(f"{name} sent a reply without choices", maybe_billed=True)
    content, thinking = (sound(part) for part in content_of(message))
    if not content.strip() and not thinking.strip() and kind is not Finish.CUT_OFF:
        raise Transient(f"{name} sent an empty reply", maybe_billed=True)
    kept = stored_finish(finish, only_thinking=bool(thinking.strip()) and not content.strip())
    model = body.get("model")
    return Reply(content, kept, _usage(body.get("usage")), sound(model) if isinstance(model, str) else None, seconds, raw=text)


def content_of(message: Mapping[str, Any]) -> tuple[str, str]:
    """Return text and thinking of a message or delta. Content is a string or typed parts; thinking may have its own field."""
    content = message.get("content")
    text, thoughts = "", "".join(value for name in _THOUGHTS if isinstance(value := message.get(name), str))
    if isinstance(content, str):
        text = content
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, dict):
            continue
        if re.search("think|reason", str(part.get("type"))):
            thoughts += json.dumps({k: v for k, v in part.items() if k != "type"}, ensure_ascii=False)
        elif isinstance(part.get("text"), str):
            text += part["text"]
    return text, thoughts


def _failed(choice: Mapping[str, Any], finish: str, origin: Origin) -> CallFailed:
    """Return the failure for an attempt that ended during generation; its partial text is not a reply."""
    error = describe_error(choice["error"], origin.redact) if choice.get("error") else ErrorBody(None, _NOTHING)
    if error.status is not None:
        failure = _classified(error.status, {}, error, origin)
        failure.maybe_billed = True
        return failure
    head = f"{origin.name}: the provider's attempt failed (finish_reason {one_line(finish, 60)})"
    return Transient(f"{head}: {error.words}", public=f"{head}: {origin.shown(error.words)}", maybe_billed=True)


def _withheld(finish: str, refusal: object, origin: Origin) -> CallerFault:
    head = f"{origin.name} withheld its reply ({'content filter' if finish == 'content_filter' else one_line(finish, 60)})"
    if not isinstance(refusal, str):
        return CallerFault(head, maybe_billed=True)
    return CallerFault(f"{head}: {origin.redact(refusal)}", public=f"{head}: {origin.shown(refusal)}", maybe_billed=True)


def _usage(usage: object) -> Usage:
    if not isinstance(usage, dict):
        return Usage()
    prompt, completion, total = (_count(usage.get(f"{kind}_tokens")) for kind in ("prompt", "completion", "total"))
    if prompt is not None and completion is not None and total is not None:
        # Some endpoints bill thinking tokens that they include only in the total.
        completion = max(completion, total - prompt)
    cached = cached_tokens(usage)
    return Usage(prompt, completion, cached if cached is None or prompt is None else min(cached, prompt))


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def sound(text: str) -> str:
    """Return text that can be encoded: JSON may contain lone surrogates, which cannot be written to a file."""
    return text.encode("utf-8", "replace").decode("utf-8")
