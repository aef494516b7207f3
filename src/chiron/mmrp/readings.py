"""What a reader's reply means: which of the lettered options it names."""

import re
from collections.abc import Sequence

from chiron.conversation.markup import boxed, own_turn
from chiron.conversation.thinking import said
from chiron.mmrp.structured import one_line
from chiron.models.offline.matching import normalise
from chiron.text import compatible

_DECLARED = re.compile(r"\b(?:answers?|options?|choices?|letters?)\b[\s*_\"']*(?:(?:is|are)\b|[:=])[\s*_\"']*:?", re.IGNORECASE)
_LETTERS = re.compile(r"[\s\W_]{0,8}(?P<first>[A-Da-d])\b(?![\u2019'])")
_MORE = re.compile(
    r"(?:[\s.*()\[\]\"']{0,4}(?:[,;/&]|\band\b)(?:[\s,;/&*()\[\]\"']|\band\b){0,6}|[ ]{1,4}(?=[A-D](?: |$)))(?P<next>[A-D])\b(?![\u2019'])"
)
"""A further letter: "A. fumigatus" behind a letter is none."""
_NONE = re.compile(r"[\s\W_]{0,8}none\b", re.IGNORECASE)


def named_options(reply: str, options: Sequence[str]) -> frozenset[int] | None:
    """Indexes of the options that a reply names; empty for "none"; ``None`` if it cannot be told.

    The last declaration ("the answer is B") counts; else the last line, where it begins with letters or is an option's text.
    """
    text = compatible(boxed(own_turn(said(reply[-20_000:])))).strip()
    if not text:
        return None
    declared = list(_DECLARED.finditer(text))
    pieces = [text[declared[-1].end() :]] if declared else []
    pieces += [text.splitlines()[-1], text]
    for piece in pieces:
        line = one_line(piece[:2000])
        if _NONE.match(line):
            return frozenset()
        if (found := _lettered(line, len(options))) is not None:
            return found
        for index, option in enumerate(options):
            if normalise(line) == normalise(option):
                return frozenset({index})
    return None


def _lettered(line: str, count: int) -> frozenset[int] | None:
    first = _LETTERS.match(line)
    if first is None:
        return None
    letter = first["first"]
    # "a" may be an article: a small letter counts alone only.
    if letter.islower() and re.search(r"\w", line[first.end() :]):
        return None
    if letter == "A" and re.match(r" [a-z]", line[first.end() :]) and not re.match(r" and\b", line[first.end() :]):
        return None  # "A fracture of ..."
    found, at = {"abcd".index(letter.lower())}, first.end()
    while more := _MORE.match(line, at):
        found.add("ABCD".index(more["next"]))
        at = more.end()
    return frozenset(found) if max(found) < count else None
