"""Options of a multiple-choice question: their letters, and replies that name options.

Two readers of options exist, for two kinds of replies. The readers in this module are for replies in a format that was asked for:
letters, or an option's text. Several letters and "none" are valid replies to "which options are right?".
:mod:`chiron.evaluation.answers` reads free prose of any model, in which a letter may be an article, a quote or a denial. Exactly one
option counts there, and several are unclear. Where both apply (one letter, or one option's text), they give the same option; a test
compares them.
"""

import re
from collections.abc import Sequence
from typing import Final

from chiron.conversation.markup import boxed, own_turn, said
from chiron.text import compatible, normalize_answer, normalize_words

LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Labels of options, in order."""
_LONGEST: Final = 20_000
"""Maximum number of characters read, from the end of a reply."""
_DECLARED = re.compile(r"\b(?:answers?|options?|choices?|letters?)\b[\s*_\"']*(?:(?:is|are)\b|[:=])[\s*_\"']*:?", re.IGNORECASE)
_FIRST = re.compile(r"[\s\W_]{0,8}(?P<first>[A-Da-d])\b(?![\u2019'])")
_MORE = re.compile(
    r"(?:[\s.*()\[\]\"']{0,4}(?:[,;/&]|\band\b)(?:[\s,;/&*()\[\]\"']|\band\b){0,6}|[ ]{1,4}(?=[A-D](?: |$)))(?P<next>[A-D])\b(?![\u2019'])"
)
"""Matches a further option letter, but not a word that starts like one: "A. fumigatus" after a letter is not an option."""
_NONE = re.compile(r"[\s\W_]{0,8}none\b", re.IGNORECASE)


def named_options(reply: str, options: Sequence[str]) -> frozenset[int] | None:
    """Return the indexes of the options named in a reply; empty for "none", ``None`` if unclear.

    The last declaration ("the answer is B") counts. Without one, the last line counts if it starts with letters or is an option's text.
    """
    text = compatible(boxed(own_turn(said(reply[-_LONGEST:])))).strip()
    if not text:
        return None
    declared = list(_DECLARED.finditer(text))
    pieces = [text[declared[-1].end() :]] if declared else []
    pieces += [text.splitlines()[-1], text]
    for piece in pieces:
        line = " ".join(piece[:2000].split())
        if _NONE.match(line):
            return frozenset()
        if (found := _lettered(line, len(options))) is not None:
            return found
        for index, option in enumerate(options):
            if normalize_answer(line) == normalize_answer(option):
                return frozenset({index})
    return None


def _lettered(line: str, count: int) -> frozenset[int] | None:
    first = _FIRST.match(line)
    if first is None:
        return None
    letter = first["first"]
    # "a" may be an article: a lower-case letter counts only if it is alone.
    if letter.islower() and re.search(r"\w", line[first.end() :]):
        return None
    if letter == "A" and re.match(r" [a-z]", line[first.end() :]) and not re.match(r" and\b", line[first.end() :]):
        return None  # "A fracture of ..."
    found, at = {LETTERS.index(letter.upper())}, first.end()
    while more := _MORE.match(line, at):
        found.add(LETTERS.index(more["next"]))
        at = more.end()
    return frozenset(found) if max(found) < count else None


def option_of_answer(answer: str, options: Sequence[str]) -> str | None:
    """Return the option that a final answer names, by letter or words; ``None`` if it names none or several."""
    plain = normalize_words(answer)
    letter = plain.removeprefix("option ").split(" ", 1)[0].upper()
    marked = answer.strip().lstrip("(").removeprefix("Option ").removeprefix("option ")[1:2] in {"", ".", ")", ":"}
    if len(letter) == 1 and marked and letter in LETTERS[: len(options)]:
        return options[LETTERS.index(letter)]
    exact = [option for option in options if normalize_words(option) == plain]
    named = exact or [option for option in options if f" {normalize_words(option)} " in f" {plain} "]
    # "Acute appendicitis" contains "appendicitis": the longest option counts if it contains the others.
    longest = max(named, key=len, default=None)
    if longest is None or any(normalize_words(option) not in normalize_words(longest) for option in named):
        return None
    return longest
