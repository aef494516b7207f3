"""Parse short replies: the options that a reply names, and a judge's verdict.

Two readers of options exist, for two kinds of replies. The readers in this module are for replies in a format that was asked for:
letters, or an option's text. Several letters and "none" are valid replies to "which options are right?".
:mod:`chiron.evaluation.answers` reads free prose of any model, in which a letter may be an article, a quote or a denial. Exactly one
option counts there, and several are unclear. Where both apply (one letter, or one option's text), they give the same option; a test
compares them.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import Final

from chiron.conversation.markup import boxed, own_turn, said, split_thinking
from chiron.text import compatible, fold, normalize_answer, normalize_words

LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Labels of options, in order."""
_LONGEST: Final = 20_000
"""Maximum number of characters read, from the end of a reply."""
_DECLARED = re.compile(r"\b(?:answers?|options?|choices?|letters?)\b[\s*_\"']*(?:(?:is|are)\b|[:=])[\s*_\"']*:?", re.IGNORECASE)
_FIRST = r"[\s\W_]{0,8}(?P<first>[A-Da-d])\b(?![\u2019'])"
_MORE = (
    r"(?:[\s.*()\[\]\"']{0,4}(?:[,;/&]|\band\b)(?:[\s,;/&*()\[\]\"']|\band\b){0,6}|[ ]{1,4}(?=[A-D](?: |$)))"
    r"(?P<next>[A-D])\b(?![\u2019'])"
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
        # "C. difficile" is an option's text before it is a letter, but an option may also be called "C".
        exact = [index for index, option in enumerate(options) if normalize_answer(line) == normalize_answer(option)]
        if exact and len(normalize_words(line)) > 1:
            return frozenset(exact[:1])
        if (found := _lettered(line, len(options))) is not None:
            return found
        if exact:
            return frozenset(exact[:1])
    return None


@cache
def _letters(count: int) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return the patterns of a first and of a further letter, for so many options. Letters up to D are always read as letters."""
    last = LETTERS[min(max(count, 4), len(LETTERS)) - 1]
    first, more = (pattern.replace("A-D", f"A-{last}").replace("a-d", f"a-{last.lower()}") for pattern in (_FIRST, _MORE))
    return re.compile(first), re.compile(more)


def _lettered(line: str, count: int) -> frozenset[int] | None:
    first_letter, further_letter = _letters(count)
    first = first_letter.match(line)
    if first is None:
        return None
    letter = first["first"]
    # "a" may be an article: a lower-case letter counts only if it is alone.
    if letter.islower() and re.search(r"\w", line[first.end() :]):
        return None
    if letter in "AI" and re.match(r" [a-z]", line[first.end() :]) and not re.match(r" and\b", line[first.end() :]):
        return None  # "A fracture of ...", "I cannot tell"
    found, at = {LETTERS.index(letter.upper())}, first.end()
    while more := further_letter.match(line, at):
        found.add(LETTERS.index(more["next"]))
        at = more.end()
    return frozenset(found) if max(found) < count else None


def option_of_answer(answer: str, options: Sequence[str]) -> str | None:
    """Return the option that a final answer names, by letter or words; ``None`` if it names none or several."""
    plain = normalize_words(answer)
    exact = [option for option in options if normalize_words(option) == plain]
    if len(exact) == 1 and len(plain) > 1:
        return exact[0]
    letter = plain.removeprefix("option ").split(" ", 1)[0].upper()
    marked = answer.strip().lstrip("(").removeprefix("Option ").removeprefix("option ")[1:2] in {"", ".", ")", ":"}
    if len(letter) == 1 and marked and letter in LETTERS[: len(options)]:
        return options[LETTERS.index(letter)]
    named = exact or [option for option in options if f" {normalize_words(option)} " in f" {plain} "]
    # "Acute appendicitis" contains "appendicitis": the longest option counts if it contains the others.
    longest = max(named, key=len, default=None)
    if longest is None or any(normalize_words(option) not in normalize_words(longest) for option in named):
        return None
    return longest


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
