"""Reasoning ends in the known answer."""

from collections.abc import Iterator

from chiron.cases.likeness.texts import normalised
from chiron.mics.reasoning import parse_reasoning
from chiron.mics.words import content_words
from chiron.mmrp.checks.finding import Finding
from chiron.mmrp.row import MmrpRow

_LETTERS = "ABCDEFGHIJ"


def look(row: MmrpRow) -> Iterator[Finding]:
    """A final answer that is missing, names another option, or has no word of the known answer.

    The last is a warning alone: two wordings of one diagnosis need not share a word, and a judge has compared them already.
    """
    if not row.answer.strip() or not (row.reasoning.strip() or row.part == "cot"):
        return
    said = parse_reasoning(row.reasoning).answer
    if said is None:
        if row.part == "cot":
            yield Finding("final_answer", row.id, "no final answer")
        return
    if row.options:
        chosen = _option(said, row.options)
        if chosen is not None and normalised(chosen) != normalised(row.answer):
            yield Finding("final_answer", row.id, f"the final answer is the option '{chosen}', the known answer is '{row.answer}'")
            return
    wanted, held = content_words(row.answer), content_words(said)
    if not wanted & held and normalised(said) != normalised(row.answer) and not (row.options and _option(said, row.options)):
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
