"""Reasoning ends in the known answer."""

import re
from collections.abc import Iterator

from chiron.conversation.reasoning import parse_reasoning
from chiron.dedup.near_texts import normalised
from chiron.mics.answer_leak import content_words
from chiron.mmrp.checks.finding import Finding
from chiron.mmrp.row import MmrpRow

_LETTERS = "ABCDEFGHIJ"
_LETTERED = re.compile(r"\W*(?:option\s+)?(?P<letter>[A-Ja-j])[.):]\W*(?P<words>\w.*)", re.IGNORECASE | re.DOTALL)
_CALLS_ANSWER = re.compile(
    r"\b(?:the|final|correct|right)\s+(?:answer|option|choice)\s*(?:\bis\b|:)(?!\s+(?:not|neither|unlikely)\b)\s*:?\s*(?P<said>[^.;\n]{1,200})",
    re.IGNORECASE,
)
_SIDES = frozenset({"left", "right"})
_PAIRS = (_SIDES, frozenset({"yes", "no"}), frozenset({"positive", "negative"}), frozenset({"present", "absent"}))


def look(row: MmrpRow) -> Iterator[Finding]:
    """A final answer that is missing, names another option, says the opposite, or has no word of the known answer.

    The last is a warning alone: two wordings of one diagnosis need not share a word, and a judge has compared them already.
    """
    if not row.answer.strip() or not (row.reasoning.strip() or row.part == "cot"):
        return
    reasoning = parse_reasoning(row.reasoning)
    said = reasoning.answer
    if said is None:
        if row.part == "cot":
            yield Finding("final_answer", row.id, "no final answer")
        return
    if row.options:
        if (other := _two_options(said, row.options)) is not None:
            yield Finding("final_answer", row.id, f"the final answer '{said}' has the letter of one option and the words of '{other}'")
            return
        chosen = _option(said, row.options)
        if (before := _declared(reasoning.steps, row.options)) is not None and normalised(before) != normalised(row.answer):
            yield Finding("final_answer", row.id, f"a step says that the answer is '{before}', the known answer is '{row.answer}'")
            return
        if chosen is not None and normalised(chosen) != normalised(row.answer):
            yield Finding("final_answer", row.id, f"the final answer is the option '{chosen}', the known answer is '{row.answer}'")
            return
    if (told := _opposite(said, row.answer)) is not None:
        yield Finding("final_answer", row.id, told)
        return
    wanted, held = _folded(content_words(row.answer)), _folded(content_words(said))
    if not wanted & held and not _same(said, row.answer) and not (row.options and _option(said, row.options)):
        yield Finding("final_answer", row.id, f"'{said}' shares no word with the known answer '{row.answer}'", "warning")


def _option(said: str, options: tuple[str, ...]) -> str | None:
    """The option that a final answer names, by its letter or in its words; ``None`` if it names none, or several."""
    plain = normalised(said)
    letter = plain.removeprefix("option ").split(" ", 1)[0].upper()
    marked = said.strip().lstrip("(").removeprefix("Option ").removeprefix("option ")[1:2] in {"", ".", ")", ":"}
    if len(letter) == 1 and marked and letter in _LETTERS[: len(options)]:
        return options[_LETTERS.index(letter)]
    exact = [option for option in options if normalised(option) == plain]
    named = exact or [option for option in options if f" {normalised(option)} " in f" {plain} "]
    # "Acute appendicitis" holds "appendicitis" too: the longest speaks, if the others are part of it.
    longest = max(named, key=len, default=None)
    if longest is None or any(normalised(option) not in normalised(longest) for option in named):
        return None
    return longest


def _declared(steps: tuple[str, ...], options: tuple[str, ...]) -> str | None:
    """The option that a step calls the answer, the last one that does so; ``None`` if none does."""
    said = [match["said"] for step in steps for match in _CALLS_ANSWER.finditer(step)]
    return next((option for text in reversed(said) if (option := _option(text, options)) is not None), None)


def _two_options(said: str, options: tuple[str, ...]) -> str | None:
    """The option whose words a final answer has behind the letter of another one."""
    lettered = _LETTERED.match(said)
    if lettered is None or (at := _LETTERS.index(lettered["letter"].upper())) >= len(options):
        return None
    words = normalised(lettered["words"])
    return next((option for i, option in enumerate(options) if i != at and words and normalised(option) == words), None)


def _opposite(said: str, answer: str) -> str | None:
    """Why a final answer cannot be the known one: it says no for yes, or left for right."""
    ours, theirs = normalised(said).split(), normalised(answer).split()
    for pair in _PAIRS:
        spoken, known = pair.intersection(ours), pair.intersection(theirs)
        # "No, it is benign" for "Yes": such words count at the beginning; sides anywhere.
        counts = pair is _SIDES or {*ours[:1], *theirs[:1]} <= pair
        if counts and len(spoken) == len(known) == 1 and spoken != known:
            return f"the final answer is '{said}', the known answer is '{answer}'"
    return None


def _same(said: str, answer: str) -> bool:
    """Whether an answer is another one in other letters, small ones or the first of each word ("PE"), or begins with it ("Yes, ...")."""
    if f"{normalised(said)} ".startswith(f"{normalised(answer)} "):
        return True
    first = "".join(word[0] for word in normalised(answer).split())
    return len(first) > 1 and normalised(said) == first


def _folded(words: frozenset[str] | set[str]) -> set[str]:
    """Words in one spelling: "haemorrhage" and "tumour" as they are written in America."""
    return {re.sub(r"our\b", "or", word.replace("ae", "e").replace("oe", "e")) for word in words}
