"""Check that reasoning ends in the known answer."""

import re
from collections.abc import Iterator

from chiron.conversation.options import LETTERS, option_of_answer
from chiron.conversation.reasoning import parse_reasoning
from chiron.mics.answer_leak import content_words
from chiron.mmrp.checks.check import Check, Finding
from chiron.mmrp.row import MmrpRow
from chiron.text import normalize_words

_LETTERED = re.compile(r"\W*(?:option\s+)?(?P<letter>[A-Ja-j])[.):]\W*(?P<words>\w.*)", re.IGNORECASE | re.DOTALL)
_CALLS_ANSWER = re.compile(
    r"\b(?:the|final|correct|right)\s+(?:answer|option|choice)\s*(?:\bis\b|:)(?!\s+(?:not|neither|unlikely)\b)\s*:?\s*(?P<given>[^.;\n]{1,200})",
    re.IGNORECASE,
)
_SIDES = frozenset({"left", "right"})
_PAIRS = (_SIDES, frozenset({"yes", "no"}), frozenset({"positive", "negative"}), frozenset({"present", "absent"}))


def look(row: MmrpRow) -> Iterator[Finding]:
    """Yield final answers that are missing, name another option, say the opposite, or share no word with the known answer.

    The last case is only a warning: two wordings of a diagnosis may share no word, and a judge has already compared them.
    """
    if not row.answer.strip() or not (row.reasoning.strip() or row.part == "cot"):
        return
    reasoning = parse_reasoning(row.reasoning)
    given = reasoning.answer
    if given is None:
        if row.part == "cot":
            yield Finding("final_answer", row.id, "no final answer")
        return
    if row.options:
        if (other := _two_options(given, row.options)) is not None:
            yield Finding("final_answer", row.id, f"the final answer '{given}' has the letter of one option and the words of '{other}'")
            return
        chosen = option_of_answer(given, row.options)
        if (before := _declared(reasoning.steps, row.options)) is not None and normalize_words(before) != normalize_words(row.answer):
            yield Finding("final_answer", row.id, f"a step calls '{before}' the answer, the known answer is '{row.answer}'")
            return
        if chosen is not None and normalize_words(chosen) != normalize_words(row.answer):
            yield Finding("final_answer", row.id, f"the final answer is the option '{chosen}', the known answer is '{row.answer}'")
            return
    if _opposite(given, row.answer):
        yield Finding("final_answer", row.id, f"the final answer is '{given}', the known answer is '{row.answer}'")
        return
    wanted, held = _folded(content_words(row.answer)), _folded(content_words(given))
    if not wanted & held and not _same(given, row.answer) and not (row.options and option_of_answer(given, row.options)):
        yield Finding("final_answer", row.id, f"'{given}' shares no word with the known answer '{row.answer}'", "warning")


def _declared(steps: tuple[str, ...], options: tuple[str, ...]) -> str | None:
    """Return the last option that a step declares to be the answer, or ``None``."""
    given = [match["given"] for step in steps for match in _CALLS_ANSWER.finditer(step)]
    return next((option for text in reversed(given) if (option := option_of_answer(text, options)) is not None), None)


def _two_options(given: str, options: tuple[str, ...]) -> str | None:
    """Return the option whose words follow the letter of another option in a final answer."""
    lettered = _LETTERED.match(given)
    if lettered is None or (at := LETTERS.index(lettered["letter"].upper())) >= len(options):
        return None
    words = normalize_words(lettered["words"])
    return next((option for i, option in enumerate(options) if i != at and words and normalize_words(option) == words), None)


def _opposite(given: str, answer: str) -> bool:
    """Whether a final answer contradicts the known one: "no" for "yes", or left for right."""
    ours, theirs = normalize_words(given).split(), normalize_words(answer).split()
    for pair in _PAIRS:
        spoken, known = pair.intersection(ours), pair.intersection(theirs)
        # "No, it is benign" for "Yes": yes and no count only as the first word, sides count anywhere.
        counts = pair is _SIDES or {*ours[:1], *theirs[:1]} <= pair
        if counts and len(spoken) == len(known) == 1 and spoken != known:
            return True
    return False


def _same(given: str, answer: str) -> bool:
    """Whether two answers are equal up to case or initials ("PE"), or one starts with the other ("Yes, ...")."""
    if f"{normalize_words(given)} ".startswith(f"{normalize_words(answer)} "):
        return True
    first = "".join(word[0] for word in normalize_words(answer).split())
    return len(first) > 1 and normalize_words(given) == first


def _folded(words: frozenset[str] | set[str]) -> set[str]:
    """Convert words to US spelling ("haemorrhage", "tumour")."""
    return {re.sub(r"our\b", "or", word.replace("ae", "e").replace("oe", "e")) for word in words}


CHECKS = (Check("final_answer", "No final answer, or not the known one", 0.05, look),)
