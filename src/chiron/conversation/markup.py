"""Remove chat markup: role labels, end-of-turn tokens, further turns invented by the model, boxes in special tokens."""

import re
from dataclasses import dataclass
from typing import Final

from chiron.text import fold

_ASSISTANT: Final = re.compile(
    r"^\s{0,8}(?:<\|im_start\|>\s{0,4}assistant\b|<\|start_header_id\|>\s{0,4}assistant\s{0,4}<\|end_header_id\|>|<start_of_turn>\s{0,4}model\b"
    r"|<\|(?:assistant|Assistant)\|>|\[/INST\]|(?:\*\*|#{1,4} ?)?(?:assistant|gpt)[ ]?:(?:\*\*)?|#{1,4} ?(?:assistant"
    r"|response)[ ]?:?[ ]?(?=\n)"
    r"|assistant[ ]?(?=\n))\s*",
    re.IGNORECASE,
)
_NEXT_TURN: Final = re.compile(
    r"<\|im_start\|>\s{0,4}(?:user|system|human)\b|<\|start_header_id\|>\s{0,4}(?:user|system)\b|<start_of_turn>\s{0,4}user\b"
    r"|<\|(?:user|User|observation)\|>|^(?:\*\*|#{1,4} ?)?(?:user|human)[ ]?:",
    re.IGNORECASE | re.MULTILINE,
)
_ECHO: Final = re.compile(r"^\s{0,8}(?:user|human)[ ]?:", re.IGNORECASE)
_OWN_TURN: Final = re.compile(r"(?:^|\s)(?:assistant|gpt)[ ]?:", re.IGNORECASE)
_BOX_TOKEN: Final = re.compile(r"<\|(?P<which>begin|end)_of_box\|>", re.IGNORECASE)
_TOKENS: Final = re.compile(r"<[|][\w/\u2581 ]{1,40}[|]>|</?s>|<(?:eos|end_of_turn|pad)>|\[(?:EOS|/INST)\]")


def own_turn(reply: str) -> str:
    """Return the model's own turn, without its role label and the chat's special tokens.

    A prompt echoed as ``USER: ... ASSISTANT:`` is removed, and so is a follow-up question that the model asks itself.
    """
    folded = fold(reply)
    if _ECHO.match(folded) and (own := _OWN_TURN.search(folded)):
        reply, folded = reply[own.end() :], folded[own.end() :]
    if label := _ASSISTANT.match(folded):
        reply, folded = reply[label.end() :], folded[label.end() :]
    following = next((turn for turn in _NEXT_TURN.finditer(folded) if folded[: turn.start()].strip()), None)
    return without_tokens(reply[: following.start()] if following else reply)


def boxed(text: str) -> str:
    r"""Write a box in special tokens (``<|begin_of_box|>B<|end_of_box|>``) as ``\boxed{B}``."""
    return _BOX_TOKEN.sub(lambda token: "\\boxed{" if token["which"].lower() == "begin" else "}", text)


def without_tokens(text: str) -> str:
    """Return ``text`` without special tokens: end of turn, end of text, boxes. Tokens with full-width bars are included."""
    folded = fold(text)
    kept, at = list[str](), 0
    for token in _TOKENS.finditer(folded):
        kept.append(text[at : token.start()])
        at = token.end()
    return "".join([*kept, text[at:]]) if kept else text


_NAMES: Final = r"(?:[a-z]{1,12}[:_])?(?:think(?:ing)?|thoughts?|reasoning|reflection)"
_BRACKET: Final = re.compile(
    rf"<(?P<slash>[ ]?/[ ]?)?(?P<name>{_NAMES})[ ]?>"
    r"|\[(?P<slash2>/)?think(?:ing)?\]"
    r"|\u25c1(?P<slash3>/)?think(?:ing)?\u25b7"
    r"|<\|(?:(?P<end>end_of_thought|end_thinking)|begin_of_thought|start_thinking)\|>"
    r"|<unused9(?:4>(?:thought)?|(?P<end2>5)>)",
    re.IGNORECASE,
)
_CHANNEL: Final = re.compile(
    r"(?:<\|start\|>\s{0,4}assistant[^<>\n]{0,80})?<\|channel\|>\s{0,4}(?P<name>[a-z]{1,20})[^<\n]{0,80}"
    r"(?:<\|constrain\|>\s{0,4}\w{0,20}\s{0,4})?<\|message\|>",
    re.IGNORECASE,
)
_CHANNEL_END: Final = re.compile(r"<\|(?:end|return|call|start|channel)\|>")
_BARE_CHANNELS: Final = re.compile(r"^\s*analysis(?=[A-Z\s\"'(])")
"""Harmony text after the server removed its special tokens: ``analysisThe film shows...assistantfinalB``."""
_BARE_FINAL: Final = "assistantfinal"
_SHOWN: Final = 500
_TOKEN: Final = re.compile(r"<(?=[ ]?\|)")


@dataclass(frozen=True, slots=True)
class Thinking:
    """A reply split into thinking and answer text."""

    said: str
    """Text without thinking and channel marks."""
    thought: str
    """The thinking."""
    unclosed: bool = False
    """Whether the thinking has no end: the reply was cut off in it, or the model forgot to close it."""
    endings: tuple[str, ...] = ()
    """First 500 characters after each end of thinking. Quoted marks look like real ones, so there may be several."""
    steps: str = ""
    """Part of the thinking between ``<reasoning>`` and ``</reasoning>``. Some models write their steps there."""


def split_thinking(reply: str) -> Thinking:
    """Split ``reply`` into thinking and answer text, in linear time.

    A closing tag without an opening one ends thinking that started with the reply. An opening tag inside thinking is text. The last closing
    tag counts: everything before an unpaired one is thinking. If there are harmony channels, the last ``final`` channel is the answer text.
    """
    folded = fold(reply)
    if channels := list(_CHANNEL.finditer(folded)):
        return _channels(reply, folded, channels)
    if _BARE_CHANNELS.match(folded) and (at := folded.rfind(_BARE_FINAL)) >= 0:
        said = reply[at + len(_BARE_FINAL) :]
        return Thinking(said, reply[:at], endings=(said[:_SHOWN],))
    return _brackets(reply, folded)


def said(reply: str) -> str:
    """Return ``reply`` without its thinking; empty if the thinking never ends."""
    return split_thinking(reply).said


def escape_markup(text: str) -> str:
    """Disable closing thinking tags and special tokens in ``text``; all other text stays byte-equal.

    A judge that thinks repeats its input. An answer with ``</think>yes`` would end the judge's thinking.
    """
    folded = fold(text)
    at = {mark.start() for mark in _BRACKET.finditer(folded) if _closes(mark)} | {mark.start() for mark in _TOKEN.finditer(folded)}
    return "".join("\u2039" if place in at else char for place, char in enumerate(text)) if at else text


def _closes(mark: re.Match[str]) -> bool:
    return any(mark[group] for group in ("slash", "slash2", "slash3", "end", "end2"))


def _brackets(reply: str, folded: str) -> Thinking:
    spoken, thought, steps, endings = list[str](), list[str](), list[str](), list[str]()
    thinking, at, opened = False, 0, ""
    for mark in _BRACKET.finditer(folded):
        piece = reply[at : mark.start()]
        closes = _closes(mark)
        if closes:
            if not thinking:
                # Include text that seemed to be the answer: the marks before this one were quoted.
                thought += spoken
                spoken = []
            elif opened == "reasoning":
                steps.append(piece)
            thought.append(piece)
            endings.append(reply[mark.end() : mark.end() + _SHOWN])
        else:
            (thought if thinking else spoken).append(piece)
            opened = opened if thinking else (mark["name"] or "").lower()
        thinking, at = not closes, mark.end()
    (thought if thinking else spoken).append(reply[at:])
    return Thinking("\n".join(filter(None, spoken)), "\n".join(filter(None, thought)), thinking, tuple(endings), "\n".join(steps))


def _channels(reply: str, folded: str, channels: list[re.Match[str]]) -> Thinking:
    said, thought, endings = "", [reply[: channels[0].start()]], list[str]()
    unclosed = True
    for channel in channels:
        end = _CHANNEL_END.search(folded, channel.end())
        content = reply[channel.end() : end.start() if end else len(reply)]
        if channel["name"].lower() == "final":
            said, unclosed = content, False
            endings.append(reply[channel.end() : channel.end() + _SHOWN])
        else:
            thought.append(content)
    return Thinking(said, "\n".join(thought), unclosed, tuple(endings))
