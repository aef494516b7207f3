"""Detect questions that name their own answer: these teach reading instead of looking."""

import re
from collections.abc import Iterator
from typing import Final

from chiron.cases.image_marks import IMAGE_MARK
from chiron.mics.answer_leak import content_words, names_answer
from chiron.mmrp.checks.check import Check, Finding
from chiron.mmrp.row import MmrpRow
from chiron.text import normalize_words

_CHOICE = re.compile(r"\b(?:or|versus|vs)\b", re.IGNORECASE)
_LETTERED = re.compile(r"(?:^|[\s(])[A-Ja-j1-9][.)]\s")
_BETWEEN = re.compile(r"[,;/|]|\b(?:or|and|versus|vs)\b", re.IGNORECASE)
_WORDS: Final = 5
"""Maximum number of words of an offered choice."""


def look(row: MmrpRow) -> Iterator[Finding]:
    """Yield answers named in the question (error) or elsewhere in the model's input (warning).

    A question about a text is answered from that text, so only the question itself counts there. Multiple-choice options do not
    count, and neither does a question that offers the answer as an alternative ("left or right").
    Yes, no and single letters occur in every text and are ignored.
    """
    if not row.answer.strip() or row.part == "alignment" or not row.question.strip():
        return
    if any(names_answer(question, answer) for question, answer in _spellings(row.question, row.answer)):
        if not _offers(row.question, row.answer):
            yield Finding("given_away", row.id, f"the question names the answer '{row.answer}'")
        return
    if row.part == "text":
        return  # the question is about the case's text; there are no images
    shown = " ".join(turn.text for turn in row.turns if turn.role == "user").replace(IMAGE_MARK, " ")
    for taken in (row.question, *sorted(row.options, key=len, reverse=True)):
        shown = shown.replace(taken, " ")
    # The words of the answer must occur in one sentence; far apart, they do not name it.
    for sentence in re.split(r"(?<=[.?!])\s+|\n+", shown):
        if names_answer(sentence, row.answer) and not _offers(sentence, row.answer):
            yield Finding("given_away", row.id, f"'{' '.join(sentence.split())[:160]}' names the answer '{row.answer}'", "warning")
            return


def _offers(text: str, answer: str) -> bool:
    """Check whether the text offers the answer as one of several alternatives."""
    wanted = content_words(answer)
    width = len(normalize_words(answer).split()) + 3
    for choice in _CHOICE.finditer(text):
        before, after = normalize_words(text[: choice.start()]).split()[-width:], normalize_words(text[choice.end() :]).split()[:width]
        if any(wanted <= content_words(" ".join(side)) for side in (before, after) if side):
            return True
    # "Upper, middle or lower?" offers the answer "upper lobe": only the distinguishing words must be among the choices.
    asked = content_words(text)
    return wanted <= asked and any(
        wanted & content_words(item) and not all(wanted & content_words(other) for other in items)
        for items in _lists(text)
        for item in items
    )


def _lists(text: str) -> Iterator[list[str]]:
    """Yield the choices in a question: after a colon, after letters or numbers, around an "or", or between slashes."""
    lettered = _LETTERED.split(text)[1:]
    listed = _BETWEEN.split(text.rpartition(":")[2]) if ":" in text else []
    for items in (lettered, listed):
        if len(items) > 1 and all(0 < len(normalize_words(item).split()) <= _WORDS for item in items):
            yield items
    for sentence in re.split(r"(?<=[.?!;:])\s+|\n+", text):
        last = re.search(r"\bor\b|(?<=\w)\s?/\s?(?=\w)", sentence)
        if last is None:
            continue
        items = [" ".join(normalize_words(re.split(r"[,?.]", sentence[last.end() :])[0]).split()[:_WORDS])]
        for piece in reversed(re.split(r"[,/]", sentence[: last.start()])):
            words = normalize_words(piece).split()
            if not words:
                continue  # "upper, middle, or lower"
            items.append(" ".join(words[-2:]))
            if len(words) > 2:  # this is the start of the question itself
                break
        yield items


def _spellings(question: str, answer: str) -> Iterator[tuple[str, str]]:
    """Yield both texts as they are, without "'s", and without hyphens."""
    yield question, answer
    bare, plain = (re.sub(r"['\u2019]s\b", "", text) for text in (question, answer))
    yield bare, plain
    yield bare.replace("-", ""), plain.replace("-", "")


CHECKS = (Check("given_away", "The question contains the answer", 0.02, look),)
