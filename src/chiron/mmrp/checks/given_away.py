"""A question that names its own answer teaches reading, not looking."""

import re
from collections.abc import Iterator

from chiron.cases.likeness.texts import normalised
from chiron.mics.words import content_words, names_answer
from chiron.mmrp.checks.finding import Finding
from chiron.mmrp.row import MmrpRow
from chiron.models.local.dialogue import IMAGE_MARK

_CHOICE = re.compile(r"\b(?:or|versus|vs)\b", re.IGNORECASE)


def look(row: MmrpRow) -> Iterator[Finding]:
    """The answer named in the question (an error), or elsewhere in what is put to the model (a warning).

    A question on a text is answered from that text, so only the question itself counts there. The options of a multiple-choice
    question are no giveaway, nor is a question that offers the answer as one of two ("left or right").
    Yes, no and single letters are in every text and are not looked for.
    """
    if not row.answer.strip() or row.part == "alignment" or not row.question.strip():
        return
    if names_answer(row.question, row.answer):
        if not _offers(row.question, row.answer):
            yield Finding("given_away", row.id, f"the question names the answer '{row.answer}'")
        return
    if row.part == "text":
        return  # the case's text is what it is about, and there is nothing else to look at
    shown = " ".join(turn.text for turn in row.turns if turn.role == "user").replace(IMAGE_MARK, " ")
    for taken in (row.question, *sorted(row.options, key=len, reverse=True)):
        shown = shown.replace(taken, " ")
    # Words that lie pages apart are no name: one sentence must hold them.
    for sentence in re.split(r"(?<=[.?!])\s+|\n+", shown):
        if names_answer(sentence, row.answer) and not _offers(sentence, row.answer):
            yield Finding("given_away", row.id, f"'{' '.join(sentence.split())[:160]}' names the answer '{row.answer}'", "warning")
            return


def _offers(text: str, answer: str) -> bool:
    """Whether the answer stands beside an "or": a choice is put, and a choice names what may be chosen."""
    wanted = content_words(answer)
    width = len(normalised(answer).split()) + 3
    for choice in _CHOICE.finditer(text):
        before, after = normalised(text[: choice.start()]).split()[-width:], normalised(text[choice.end() :]).split()[:width]
        if any(wanted <= content_words(" ".join(side)) for side in (before, after) if side):
            return True
    return False
