"""The types exchanged with models: an immutable Call and its Reply; and the provider interface."""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol

from chiron.client.finish_reasons import Finish, is_only_thinking, sort_finish

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


@dataclass(frozen=True)
class Reply:
    """A model's reply, as stored in the ledger."""

    text: str
    finish: str = "stop"
    """Why the model stopped: ``length`` (the token limit) or the endpoint's own word. See :mod:`chiron.client.finish_reasons`."""
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
        return is_only_thinking(self.finish)


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
        ...


class Provider(Protocol):
    """Interface of a model that answers calls."""

    identity: str
    """Identity of the model for the key. Equal strings mean the same distribution of replies."""

    async def complete(self, call: Call) -> Reply:
        """Send the call once.

        Raises:
            CallFailed: one of its subclasses.
        """
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...
