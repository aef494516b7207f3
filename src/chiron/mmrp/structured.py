"""Structured output of models: JSON, wherever in a reply it stands."""

import json
import re
from typing import Any, Final

from chiron.conversation.thinking import split_thinking

_OPENING: Final = re.compile(r"[{\[]")
_LONGEST: Final = 100_000
"""Characters of a reply that are looked at."""
_TRIES: Final = 50
"""Brackets at which JSON may begin: a reply of nothing but brackets must not take quadratic time."""


class BrokenReply(ValueError):
    """A reply is not what was asked for; the message says in a few words what is wrong with it."""


def read_json(reply: str) -> Any:
    """The first JSON object or list of a reply: thinking, greetings and code fences around it are passed over.

    Raises:
        BrokenReply: there is none.
    """
    thinking = split_thinking(reply[:_LONGEST])
    # An unclosed bracket may be a word of the JSON, or the model forgot to close it.
    text = reply[:_LONGEST] if thinking.unclosed and not thinking.endings else thinking.said
    decoder = json.JSONDecoder()
    problem = "no JSON in the reply"
    for number, opening in enumerate(_OPENING.finditer(text)):
        if number == _TRIES:
            break
        try:
            value, _ = decoder.raw_decode(text, opening.start())
        except (ValueError, RecursionError) as error:
            problem = f"broken JSON: {getattr(error, 'msg', 'nested too deeply')}" if number == 0 else problem
            continue
        if value and (isinstance(value, dict) or all(isinstance(item, dict) for item in value)):
            return value
    raise BrokenReply(problem)


def one_line(text: str) -> str:
    """``text`` with every run of white space as one blank."""
    return " ".join(text.split())
