"""The two things that pass between a job and a model: a frozen Call and its Reply; and the provider interface."""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol

from chiron.client.finish_reasons import Finish, is_only_thinking, sort_finish

KEY_VERSION = 1
"""Part of every key. To be raised if the canonical form ever changes: old ledgers then miss, and never lie."""

Role = str
"""``mentor``, ``intern``, ``judge``; other jobs bring their own."""


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of a message in words."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image in a message, named by the SHA-256 (hex) of its file; its bytes stay on disk."""

    sha256: str
    max_side: int
    """Longest side in pixels as sent; part of what is asked, so part of the key."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn, its parts in the order in which they are shown."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[TextPart | ImagePart, ...]
    inline: bool = False
    """Images stand where a text has them: nothing is put between an image and the words next to it. Part of the key."""

    @property
    def text(self) -> str:
        """The words of the message."""
        return "\n\n".join(part.text for part in self.parts if isinstance(part, TextPart))


@dataclass(frozen=True)
class Call:
    """Everything that determines what a model is asked. Two calls of one key are one call."""

    role: Role
    model: str
    """The configured name, which finds the endpoint. Not in the key: renaming a model costs nothing."""
    identity: str
    """What answers: provider, the endpoint's own name, and any parameters that shape its replies."""
    messages: tuple[Message, ...]
    temperature: float
    max_tokens: int
    draw: int = 0
    """Which sample of this prompt: a second draw is another call."""

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
    # What a message without images in its text has always been: old keys stay as they are.
    return [message.role, [_canonical(part) for part in message.parts], *(["inline"] if message.inline else [])]


def _canonical(part: TextPart | ImagePart) -> list[str | int]:
    return ["text", part.text] if isinstance(part, TextPart) else ["image", part.sha256, part.max_side]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the endpoint counted them; ``None`` where it did not say."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True)
class Reply:
    """What came back, as the ledger keeps it."""

    text: str
    finish: str = "stop"
    """Why the model stopped: ``length`` (the token limit) or the endpoint's own word; :mod:`chiron.client.finish_reasons` sorts them."""
    usage: Usage = field(default_factory=Usage)
    served_by: str | None = None
    """The model that the endpoint says answered."""
    seconds: float = 0.0
    """From sending to the last byte, of the attempt that succeeded."""
    attempts: int = 1
    """How many times it was sent."""
    cost_usd: float | None = None
    """``None`` where the model has no price."""
    raw: str | None = field(default=None, repr=False, compare=False)
    """The endpoint's own reply, as it came; ``None`` where there is nothing beyond the text."""

    @property
    def cut_off(self) -> bool:
        """Whether the token limit ended it."""
        return sort_finish(self.finish) is Finish.CUT_OFF

    @property
    def only_thinking(self) -> bool:
        """Whether it has thinking and no text."""
        return is_only_thinking(self.finish)


class Ask(Protocol):
    """The search's only way out. Answers from the ledger, an endpoint, or a table in a test."""

    async def __call__(self, call: Call) -> Reply:
        """The reply to ``call``.

        Raises:
            CallFailed: no answer could be had; the evaluation is missing, not wrong.
            Halted: the run as a whole cannot go on.
        """
        ...


class Provider(Protocol):
    """One model, ready to be asked."""

    identity: str
    """What answers, for the key: the same string means the same distribution of replies."""

    async def complete(self, call: Call) -> Reply:
        """One attempt.

        Raises:
            CallFailed: in one of its three classes.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
