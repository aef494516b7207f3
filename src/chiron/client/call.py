"""The types exchanged with models: an immutable Call, its Reply, why the model stopped, and the provider interface."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Literal, Protocol


class Finish(StrEnum):
    """How a reply ended."""

    COMPLETE = "complete"
    CUT_OFF = "cut off"
    """Ended by the token limit or the context length."""
    FILTERED = "filtered"
    """Withheld by a content filter; the same call would be filtered again."""
    FAILED = "failed"
    """The provider failed while it generated the reply; the same call may succeed."""
    UNKNOWN = "unknown"
    """A word that is not listed here. The reply is treated as complete, with a note."""


_SPELLINGS = {
    Finish.COMPLETE: (
        "stop end_turn stop_sequence complete completed eos eos_token endoftext eosfound stopstringfound word done normal"
        " tool_calls tool_call tool_use function_call toolcalls function_calls pause_turn finish_reason_unspecified unspecified"
    ),
    Finish.CUT_OFF: (
        "length max_tokens max_token max_length max_output_tokens max_completion_tokens maxtokens model_length limit token_limit"
        " error_limit model_context_window_exceeded context_window_exceeded context_length_exceeded compaction"
        " maxpredictedtokensreached contextlengthreached incomplete repetition"
    ),
    Finish.FILTERED: (
        "content_filter content_filtered contentfilter filtered safety recitation language blocklist prohibited_content spii image_safety"
        " image_prohibited_content image_recitation model_armor refusal guardrail_intervened error_toxic sensitive blocked moderation"
        " content_policy content_policy_violation escalation"
    ),
    Finish.FAILED: (
        "error failed failure abort aborted cancel cancelled canceled user_cancel timeout time_limit network_error server_error"
        " insufficient_system_resource other malformed_function_call malformed_response malformed_model_output malformed_tool_use"
        " unexpected_tool_call too_many_tool_calls function_call_filter missing_thought_signature no_image image_other load unload"
        " not_finished modelunloaded userstopped"
    ),
}
_KINDS = {spelling: kind for kind, spellings in _SPELLINGS.items() for spelling in spellings.split()}
_PREFIX = re.compile(r"^(?:finish_?reason|stop_?reason)[._](?=.)")

_THINKING = ": only thinking"
"""Suffix of the stored word of a reply that has thinking but no text."""
CUT_OFF_SQL = "', '".join(w for word in _SPELLINGS[Finish.CUT_OFF].split() for w in (word, word + _THINKING))
"""Stored words of replies that were cut off, for use between the quotes of an SQL list. Ledgers of earlier versions contain all of them."""


def sort_finish(reason: str) -> Finish:
    """Classify a provider's word. Gemini appends details, as in ``content_filter: PROHIBITED_CONTENT``."""
    plain = re.sub(r"[\s-]+", "_", reason.split(":", 1)[0].strip().lower())
    return _KINDS.get(plain) or _KINDS.get(_PREFIX.sub("", plain), Finish.UNKNOWN)


def stored_finish(reason: str, *, only_thinking: bool) -> str:
    """Return the word to store with a reply: the provider's own, except that all cut-off replies get the same one."""
    word = "length" if sort_finish(reason) is Finish.CUT_OFF else reason
    return word + _THINKING if only_thinking else word


def finish_note(stored: str) -> str | None:
    """Return a note on a reply that ended for an unknown reason, else ``None``."""
    word = stored.removesuffix(_THINKING)
    return (
        None if sort_finish(word) is not Finish.UNKNOWN else f"the reply ended for an unknown reason ('{word[:60]}'); it counts as complete"
    )


@dataclass(frozen=True, slots=True)
class Cure:
    """Advice for one kind of rejection."""

    words: str
    """Regular expression that finds it in the server's message, in any case."""
    advice: str
    every_call: bool = False
    """Whether the configuration is at fault, so that every call is rejected."""


_CURES = (
    Cure(
        r"api[ _-]?key.{0,40}(?:not valid|invalid|incorrect|expired|missing|not found|required)"
        r"|(?:invalid|incorrect|expired|missing|no) api[ _-]?key|API_KEY_INVALID|invalid_api_key",
        "check api_key_env and the variable that it names",
        every_call=True,
    ),
    Cure(
        r"system (?:role|messages?|prompts?|instructions?|turn).{0,40}(?:(?:not|n.t) (?:support|allow|permit|accept|enabled)|unsupported)"
        r"|unsupported.{0,20}system|roles must alternate|unknown role:? .?system|developer instruction is not enabled"
        r"|(?:only|must).{0,20}user (?:and|or|/) ?(?:assistant|model)",
        "set 'system_role: user' on the model, so that the system text is put before the first user turn",
        every_call=True,
    ),
    Cure(
        r"max_completion_tokens",
        "set 'max_tokens_field: max_completion_tokens' on the model",
        every_call=True,
    ),
    Cure(
        r"temperature.{0,80}(?:not supported|unsupported|does ?n.t support|does not support|only the default|deprecated|not allowed)"
        r"|(?:not support|unsupported)[^.]{0,60}temperature",
        "set 'temperature: false' on the model",
        every_call=True,
    ),
    Cure(
        r"at most \d+ image|too many images|limit.mm.per.prompt"
        r"|multiple images.{0,30}(?:not|un)|\b(?:only|one|single) (?:one |single )?image",
        "the server takes fewer images a call: start it with a higher limit (vLLM: --limit-mm-per-prompt), or choose another model",
    ),
    Cure(
        r"not (?:a )?(?:multi-?modal|vision)|image.{0,40}(?:not supported|not support|unsupported|not enabled)"
        r"|(?:not support|unsupported|cannot (?:read|process|take))[^.]{0,40}(?:image|multi-?modal|vision)"
        r"|mmproj|unknown variant .?image_url",
        "the model takes no images: choose one that does (llama.cpp: start it with --mmproj)",
    ),
    Cure(
        r"context.{0,20}(?:length|size|window|limit)|maximum.{0,20}length|context_length_exceeded|too many tokens"
        r"|(?:prompt|input).{0,20}too long"
        r"|exceed.{0,40}(?:context|tokens)|\bn_ctx\b|the context has",
        "the request is longer than the model's context: lower max_tokens or image_side, or serve the model with a longer context",
    ),
    Cure(r"(?:image|payload|body|entity).{0,30}too (?:large|big)|request too large", "the request is too large: lower image_side"),
    Cure(
        r"model.{0,60}(?:not found|does not exist|not exist|unknown|not available|no such)|no such model|model_not_found",
        "check 'model': the server does not know this name",
        every_call=True,
    ),
)
_FLAGGED = re.compile(
    r"\bflagged\b|moderat|content.?(?:filter|policy|management policy)|safety (?:system|filter|polic)|responsible.?ai"
    r"|data_inspection_failed|prohibited.?content|inappropriate content|sensitive content",
    re.IGNORECASE,
)
MORE_SPACE = "raise max_tokens (search.max_tokens, or the model's own), or have the model think less (parameters)"
"""Advice for replies that contain only thinking."""


def cure_for(words: str) -> Cure | None:
    """Return the advice that matches a server's message, if any."""
    return next((cure for cure in _CURES if re.search(cure.words, words, re.IGNORECASE)), None)


def is_flagged(words: str) -> bool:
    """Return whether the message comes from a content filter, so that the input is at fault and not the key."""
    return _FLAGGED.search(words) is not None


KEY_VERSION = 1
"""Part of every key. Raise it if the canonical form changes, so that old ledgers never return a wrong reply."""

Role = str
"""``mentor``, ``intern``, ``judge``; other jobs add their own."""


@dataclass(frozen=True, slots=True)
class TextPart:
    """A text part of a message."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image in a message, identified by the SHA-256 (hex) of its file. The bytes stay on disk."""

    sha256: str
    max_side: int
    """Longest side in pixels, as sent. It is part of the key."""


def resized(pictures: Iterable[ImagePart], side: int) -> tuple[ImagePart, ...]:
    """Return the same images with another longest side."""
    return tuple(replace(picture, max_side=side) for picture in pictures)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn; its parts are sent in this order."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[TextPart | ImagePart, ...]
    inline: bool = False
    """Whether images are placed inside the text, with no separator between an image and the text next to it. Part of the key."""

    @property
    def text(self) -> str:
        """The text of the message, without images."""
        return "\n\n".join(part.text for part in self.parts if isinstance(part, TextPart))


def images_of(messages: Iterable[Message]) -> tuple[ImagePart, ...]:
    """Return the images of messages, in order."""
    return tuple(part for message in messages for part in message.parts if isinstance(part, ImagePart))


@dataclass(frozen=True)
class Call:
    """Everything that determines a model's input. Two calls with the same key are the same call."""

    role: Role
    model: str
    """The configured name, which selects the endpoint. Not part of the key, so that models can be renamed."""
    identity: str
    """Identity of the model: provider, the endpoint's own model name, and parameters that change its replies."""
    messages: tuple[Message, ...]
    temperature: float
    max_tokens: int
    draw: int = 0
    """Sample index for this prompt. Another index is another call."""

    @cached_property
    def key(self) -> str:
        """SHA-256 (hex) of the canonical JSON form."""
        form = {
            "version": KEY_VERSION,
            "role": self.role,
            "identity": self.identity,
            "messages": [_canonical_message(m) for m in self.messages],
            "temperature": float(self.temperature),
            "max_tokens": self.max_tokens,
            "draw": self.draw,
        }
        text = json.dumps(form, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _canonical_message(message: Message) -> list[object]:
    # The form of messages without inline images must not change, so that old keys stay valid.
    return [message.role, [_canonical(part) for part in message.parts], *(["inline"] if message.inline else [])]


def _canonical(part: TextPart | ImagePart) -> list[str | int]:
    return ["text", part.text] if isinstance(part, TextPart) else ["image", part.sha256, part.max_side]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as counted by the endpoint; ``None`` if not reported."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    """Prompt tokens that the endpoint read from its cache of prefixes; included in ``prompt_tokens``. The ledger keeps it in ``raw``."""


_CACHED = (("prompt_tokens_details", "cached_tokens"), ("prompt_cache_hit_tokens",), ("cache_read_input_tokens",), ("cached_tokens",))
"""Where endpoints report cached tokens: OpenAI, vLLM and Gemini; DeepSeek; Anthropic (through a gateway); others."""


def cached_tokens(usage: object) -> int | None:
    """Read the number of cached prompt tokens from an endpoint's ``usage``; ``None`` if it is not reported."""
    for path in _CACHED:
        value = usage
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53:
            return value
    return None


@dataclass(frozen=True)
class Reply:
    """A model's reply, as stored in the ledger."""

    text: str
    finish: str = "stop"
    """Why the model stopped: ``length`` (the token limit) or the endpoint's own word. See :mod:`chiron.client.call`."""
    usage: Usage = field(default_factory=Usage)
    served_by: str | None = None
    """The model name that the endpoint reports."""
    seconds: float = 0.0
    """Duration of the successful attempt, from sending to the last byte."""
    attempts: int = 1
    """Number of times the call was sent."""
    cost_usd: float | None = None
    """``None`` if the model has no price."""
    raw: str | None = field(default=None, repr=False, compare=False)
    """The endpoint's response body, unchanged; ``None`` if it contains only the text."""

    @property
    def cut_off(self) -> bool:
        """Whether the token limit ended the reply."""
        return sort_finish(self.finish) is Finish.CUT_OFF

    @property
    def only_thinking(self) -> bool:
        """Whether the reply has thinking but no text."""
        return self.finish.endswith(_THINKING)


@dataclass(frozen=True, slots=True)
class RoleModel:
    """A model in one role (mentor, intern, judge, ...)."""

    name: str
    """Name in the configuration and in results."""
    identity: str
    """Identifies the model in the ledger keys of its calls."""
    max_tokens: int

    def call(self, role: Role, messages: tuple[Message, ...], temperature: float, sample_index: int = 0) -> Call:
        """Create a call to this model."""
        return Call(role, self.name, self.identity, messages, temperature, self.max_tokens, sample_index)


class Ask(Protocol):
    """Interface through which the search asks models. Answers come from the ledger, an endpoint, or a table in a test."""

    async def __call__(self, call: Call) -> Reply:
        """Return the reply to ``call``.

        Raises:
            CallFailed: the call got no answer; the evaluation is missing, not wrong.
            RunStopped: the run cannot continue.
        """


class Provider(Protocol):
    """Interface of a model that answers calls."""

    identity: str
    """Identity of the model for the key. Equal strings mean the same distribution of replies."""

    async def complete(self, call: Call) -> Reply:
        """Send the call once.

        Raises:
            CallFailed: one of its subclasses.
        """

    async def close(self) -> None:
        """Close all connections."""
