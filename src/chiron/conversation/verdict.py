"""Parse a judge's verdict. Only the first word counts."""

import re
from typing import Final

from chiron.conversation.markup import own_turn, split_thinking
from chiron.text import fold

_LABEL: Final = r"(?:(?:my |the )?(?:final )?(?:verdict|answer|judg(?:e)?ment|decision|result)[\s*_]*:[\s*_]*)?"
_BOX: Final = r"(?:\$*\\boxed\{[\s{]*(?:\\text\w{0,4}\{)?|<(?:final_?)?(?:answer|verdict)>|\{\s*\"(?:verdict|answer)\"\s*:\s*\")?"
_WORD: Final = re.compile(
    rf"[\s\W_]*?(?:{_LABEL})(?:{_BOX})[\s\W_]*?(?<![^\W_])(?P<word>yes|no)(?![^\W_])(?P<rest>.{{0,12}})", re.IGNORECASE | re.DOTALL
)
_BOTH: Final = re.compile(r"[\s*_]*(?:/|,?\s?(?:and|or)\b|\|)[\s*_]*(?:yes|no)\b", re.IGNORECASE)


def read_verdict(reply: str) -> bool | None:
    """Return whether a judge says yes.

    The first word counts, after removing thinking (up to its *last* closing tag), a label (``Verdict:``, ``Answer:``), a box or a tag.

    Returns:
        ``True`` for yes, ``False`` for no, ``None`` for anything else: "not yes", "maybe yes", "yes or no", unclosed thinking. If several
            tags end the thinking, some are quoted: a yes after the last one counts only if none of the others is followed by a no.
    """
    thinking = split_thinking(reply)
    if not thinking.endings:
        return _first_word(thinking.said)
    *others, last = thinking.endings
    verdict = _first_word(last)
    return None if verdict and any(_first_word(other) is False for other in others) else verdict


def _first_word(text: str) -> bool | None:
    # Remove chat tokens. Text quoted later by the judge does not matter, since only the beginning is read.
    found = _WORD.match(fold(own_turn(text[:500])))
    if found is None or _BOTH.match(found["rest"]):
        return None
    return found["word"].lower() == "yes"
