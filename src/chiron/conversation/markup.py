r"""Remove the markup of chats: role labels, end-of-turn tokens, the turns a model invents after its own, boxes in special tokens."""

import re
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
    """The model's own turn, without its role's label and the chat's special tokens.

    A prompt that is echoed as ``USER: ... ASSISTANT:`` is removed, and so is a next question that the model asks itself.
    """
    folded = fold(reply)
    if _ECHO.match(folded) and (own := _OWN_TURN.search(folded)):
        reply, folded = reply[own.end() :], folded[own.end() :]
    if label := _ASSISTANT.match(folded):
        reply, folded = reply[label.end() :], folded[label.end() :]
    following = next((turn for turn in _NEXT_TURN.finditer(folded) if folded[: turn.start()].strip()), None)
    return without_tokens(reply[: following.start()] if following else reply)


def boxed(text: str) -> str:
    r"""``text`` with a box in special tokens (``<|begin_of_box|>B<|end_of_box|>``) written as ``\boxed{B}``."""
    return _BOX_TOKEN.sub(lambda token: "\\boxed{" if token["which"].lower() == "begin" else "}", text)


def without_tokens(text: str) -> str:
    """``text`` without special tokens: end of turn, end of text, boxes. Full-width bars are tokens too."""
    folded = fold(text)
    kept, at = list[str](), 0
    for token in _TOKENS.finditer(folded):
        kept.append(text[at : token.start()])
        at = token.end()
    return "".join([*kept, text[at:]]) if kept else text
