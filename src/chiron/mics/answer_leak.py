"""Detect steps that name the answer, and paths that reveal that their author knew it."""

import math
import re
from types import MappingProxyType

_STOP = frozenset(
    """
    a an and are as at be been by can cannot could do does due for from had has have if in into is it its may might more most no nor not
    of on or other our shall should such than that the their there these this those to was were which while who will with within would
    yes most likely possible potential probable associated secondary related confirmed biopsy
    """.split()
)
_WORD = re.compile(r"[^\W_]+", re.UNICODE)
_OPENING = re.compile(r"[(\[]")
_CLOSING = MappingProxyType({"(": ")", "[": "]"})

_GIVEN = r"(?:already\s+)?(?:given|provided|stated|known|listed|specified|supplied|indicated)"
_STATES = r"(?:states?|stated|says?|gives?|given|provides?|specif(?:y|ies)|indicates?|mentions?|confirms?|notes?|lists?)"
_KNOWN = r"(?:correct|given|provided|stated)"
_GIVEAWAYS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\b(?:correct|right|true|known|reference|expected|actual)\s+(?:answer|diagnosis)\s+(?:is|was|has\s+been|being)\s+{_GIVEN}\b",
        r"\b(?:given|provided|stated|known|supplied|reference|listed)\s+(?:correct\s+)?answer\b",
        r"\banswer\s+(?:given|provided|supplied|stated)\b",
        rf"\bcase\s+(?:information|details?|data|record|file|description)\s+(?:explicitly\s+|clearly\s+|already\s+)?{_STATES}\b",
        r"\b(?:provided|given|supplied)\s+(?:radiolog\w+\s+)?(?:findings?|captions?|reports?|diagnosis)\b",
        r"\b(?:radiolog(?:y|ical|ist'?s?)\s+)(?:report|findings?)\s+(?:explicitly\s+|clearly\s+)?(?:states?|says?|describes?|mentions?|notes?)\b",
        r"\b(?:correct|right|true)\s+(?:answer|diagnosis)\s+(?:given|provided|stated)\b",
        r"\b(?:i|we)\s+(?:are|were|have\s+been)\s+told\b",  # words: kept
        r"\bas\s+(?:given|provided|stated|specified|indicated)\s+in\s+the\s+(?:case|answer|prompt|findings|caption|report|input)\b",
        r"\b(?:answer\s+key|ground[\s-]+truth|gold(?:en)?\s+(?:answer|label)|reference\s+answer)\b",
        r"\b(?:i|we)\s+(?:already\s+)?know\s+(?:that\s+)?the\s+(?:correct\s+|final\s+|right\s+)?(?:answer|diagnosis)\b",
        r"\b(?:since|because|given\s+that|knowing\s+that)\s+the\s+(?:correct\s+|right\s+|final\s+)?answer\s+(?:is|must\s+be)\b",
        rf"\b(?:match(?:es)?|(?:consistent|agrees?|aligns?)\s+with|supports?)\s+the\s+{_KNOWN}\s+(?:answer|diagnosis)\b",
        r"</?(?:answer|findings|history|known_answer)\b",
    )
)
"""Phrases that reveal that the author was given the answer or the findings."""


def content_words(text: str) -> frozenset[str]:
    """Return the content words of ``text``: lower case, singular, without stop words or bracketed text.

    If only stop words remain (``No``, ``A``), all words are returned.
    """
    bare = _without_brackets(text)
    words = [_singular(w) for w in _WORD.findall((bare if _WORD.search(bare) else text).casefold())]
    return frozenset(w for w in words if w not in _STOP) or frozenset(words)


def names_answer(step: str, answer: str) -> bool:
    """Check whether a step names the answer.

    The step must contain all content words of the answer; four fifths of them if there are more than three.
    """
    return _names(step, content_words(answer))


def steps_before_answer(steps: tuple[str, ...], answer: str) -> tuple[str, ...]:
    """Return the steps before the first one that names the answer. After that step, an intern could only copy."""
    wanted = content_words(answer)
    for number, step in enumerate(steps):
        if _names(step, wanted):
            return steps[:number]
    return steps


def leak_phrase(text: str) -> str | None:
    """Return the first phrase that reveals that the author was given the answer, or ``None``."""
    for pattern in _GIVEAWAYS:
        if found := pattern.search(text):
            return found.group()
    return None


def _names(step: str, wanted: frozenset[str]) -> bool:
    if not {w for w in wanted if w not in _STOP and (len(w) > 1 or w.isdigit())}:
        return False  # too common ("No", "A"): any text contains such a word
    held = frozenset(_singular(w) for w in _WORD.findall(step.casefold()))
    needed = len(wanted) if len(wanted) <= 3 else math.ceil(0.8 * len(wanted))
    return len(wanted & held) >= needed


def _without_brackets(text: str) -> str:
    """Replace bracketed text by a blank, in linear time even with thousands of unclosed brackets."""
    last = {"(": text.rfind(")"), "[": text.rfind("]")}
    kept, at = [], 0
    for opening in _OPENING.finditer(text):
        if at <= opening.start() < last[opening.group()]:
            kept.append(text[at : opening.start()])
            at = text.index(_CLOSING[opening.group()], opening.start()) + 1
    return " ".join([*kept, text[at:]])


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "is", "us")) else word
